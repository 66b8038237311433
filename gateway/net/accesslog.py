"""The access log: one JSON object a line, written in batches.

A request adds its line to a list; once a second, or at FLUSH_AT lines, the batch goes to the operating system in one
write. While MAX_WAITING bytes wait to be written, further entries are dropped and counted: a full disk or a stuck pipe
must cost the log, and not the requests or the memory.

A file is rotated when it would pass MAX_BYTES: `access.log` becomes `access.log.1`, whose former content is lost.
Several workers append to one file, and each of them may be the one who rotates it, under an flock on the file itself:
whoever has it looks again whether the name still means this file, so that a fresh one is never renamed over a full one.
Before each batch a worker asks what file has the name now, and goes over to it (two calls of 1 µs for 512 lines), so
that it needs no signal to follow logrotate either; `reopen` (SIGUSR1, SIGHUP) does so at once. In a folder where we may
not rename, the file grows: rotation is then the business of whoever made it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from gateway.core.http1 import access_line

if TYPE_CHECKING:
    from gateway.core.http1 import RequestHead
    from gateway.core.traffic import WorkerTraffic

__all__ = ["AccessLog", "open_log"]

FLUSH_INTERVAL = 1.0
FLUSH_AT = 512
MAX_WAITING = 8 * 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024
"""Of one file; with the one before it a quarter of a million requests or more, on a disk that nobody looks after."""


class AccessLog:
    """`path` is a file, "-" for standard output, or "" for none (then `enabled` is False)."""

    def __init__(self, path: str, traffic: WorkerTraffic, *, max_bytes: int = MAX_BYTES) -> None:
        self.enabled = bool(path)
        self._path = path
        self._max_bytes = max_bytes
        self._traffic = traffic
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._waiting = 0  # bytes of those
        self._offset = datetime.now(UTC).timestamp() - perf_counter()
        self._unwritten = b""
        self._timer: asyncio.TimerHandle | None = None
        self._file = -1
        if self.enabled:
            self.reopen()

    def reopen(self) -> None:
        """Open the file anew, under the same name. Raises OSError if it can't be."""
        if not self.enabled:
            return
        if self._path == "-":
            if self._file < 0:
                self._file = _standard_output()
            return
        before = self._file
        # A new file may be read by those who could read the old one.
        self._file = open_log(self._path, 0o600 if before < 0 else stat.S_IMODE(os.fstat(before).st_mode))
        if before >= 0:
            os.close(before)

    def add(
        self,
        started: float,
        duration: float,
        head: RequestHead,
        status: int,
        sent: int,
        revision: bytes,
        endpoint: bytes,
        flag: str,
        request_id: bytes,
        client: bytes,
        protocol: bytes,
    ) -> None:
        """Log a request; only where `enabled`. `started` is on perf_counter's clock; `endpoint` b"": none took part."""
        if self._waiting >= MAX_WAITING:
            self._traffic.log_dropped += 1
            return
        when = self._offset + started
        line = access_line(when, duration, head, status, sent, revision, endpoint, flag, request_id, client, protocol)
        lines = self._lines
        lines.append(line)
        self._waiting += len(line)
        if len(lines) == FLUSH_AT and not self._unwritten:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL, self._on_timer)

    def flush(self) -> None:
        """Write what has gathered. What the file does not take stays for the next time."""
        if not self._unwritten:
            self._unwritten = b"".join(self._lines)
            self._lines.clear()
            self._waiting = 0
            self._offset = datetime.now(UTC).timestamp() - perf_counter()
            self._rotate()
        try:
            written = os.write(self._file, self._unwritten) if self._unwritten else 0
        except BlockingIOError:
            return
        except OSError:
            self._traffic.log_dropped += self._unwritten.count(b"\n")
            self._unwritten = b""
            return
        self._unwritten = self._unwritten[written:]

    def _rotate(self) -> None:
        """Have `_file` be the one that the name means, with room for what is to be written. Where that can't be had,
        the batch goes to the file as it is."""
        if self._path == "-":
            return
        ours = os.fstat(self._file)
        if not stat.S_ISREG(ours.st_mode):
            return
        full = ours.st_size > 0 and ours.st_size + len(self._unwritten) > self._max_bytes
        with suppress(OSError):
            if full:
                # Refused (BlockingIOError) while another worker is about to do the same.
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                if full and self._is_named(ours):
                    Path(self._path).rename(f"{self._path}.1")
                if not self._is_named(ours):
                    self.reopen()  # closes the old one, and its lock with it
            finally:
                if full:
                    fcntl.flock(self._file, fcntl.LOCK_UN)

    def _is_named(self, ours: os.stat_result) -> bool:
        try:
            return os.path.samestat(os.lstat(self._path), ours)
        except FileNotFoundError:
            return False

    def close(self) -> None:
        if self.enabled:
            self.flush()
            if self._timer is not None:
                self._timer.cancel()
            if self._file > 2:
                os.close(self._file)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()
        if self._lines or self._unwritten:
            self._timer = self._loop.call_later(FLUSH_INTERVAL, self._on_timer)


def open_log(path: str, mode: int = 0o600) -> int:
    """The descriptor of a file to append to, made if there is none. Raises OSError, also for a symbolic link: another
    user may have made it, for us to write where he can't."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    flags |= os.O_NONBLOCK  # it may be a pipe
    try:
        return os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            why = "it is a symbolic link: name the file itself, or - for standard output"
            raise OSError(errno.ELOOP, why, path) from None
        raise


def _standard_output() -> int:
    """A descriptor of standard output that never blocks if it is a pipe. It is opened anew for that, for the one we
    were given is also our parent's, who expects it to block."""
    if stat.S_ISFIFO(os.fstat(1).st_mode):
        with suppress(OSError):
            return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return 1
