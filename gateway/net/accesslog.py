"""The access log: one JSON object a line, written in batches.

A request adds its line to a list; once a second, or at FLUSH_AT lines, the batch goes to the operating system in one
write. Entries beyond MAX_ENTRIES are dropped and counted: a full disk or a stuck pipe must
cost the log and not the requests. `reopen` (SIGUSR1, SIGHUP) follows log rotation.
"""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from gateway.core.traffic import WorkerTraffic

__all__ = ["AccessLog"]

FLUSH_INTERVAL = 1.0
FLUSH_AT = 512
MAX_ENTRIES = 16 * 1024


# orjson of a dictionary took 2.3 µs a line, this 1.2; keeping the values for later cost more than doing it at once.
_LINE = (
    b'{"time":"%b.%03dZ","method":"%b","host":"%b","path":"%b","status":%d,"bytes":%d,"duration":%.6f,"revision":"%b",'
    b'"endpoint":"%b","flag":"%b","requestId":%b,"userAgent":%b,"client":"%b"}\n'
)


class AccessLog:
    """`path` is a file, "-" for standard output, or "" for none (then `enabled` is False)."""

    def __init__(self, path: str, traffic: WorkerTraffic) -> None:
        self.enabled = bool(path)
        self._path = path
        self._traffic = traffic
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._offset = datetime.now(UTC).timestamp() - perf_counter()
        self._second = 0
        self._date = b""
        self._unwritten = b""
        self._timer: asyncio.TimerHandle | None = None
        self._file = -1
        if self.enabled:
            self.reopen()

    def reopen(self) -> None:
        """Open the file anew, under the same name. Raises OSError if it can't be."""
        if not self.enabled:
            return
        before = self._file
        if self._path == "-":
            self._file = 1
            return
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if before >= 0:
            os.close(before)

    def add(
        self,
        started: float,
        duration: float,
        method: bytes,
        host: bytes,
        target: bytes,
        status: int,
        sent: int,
        revision: bytes,
        endpoint: bytes,
        flag: str,
        request_id: bytes,
        user_agent: bytes,
        peer: bytes,
    ) -> None:
        """Log a request; only where `enabled`. `started` is on perf_counter's clock; `endpoint` b"": none took part.

        Methods, hosts, targets and Kubernetes' names have no character that JSON would escape (the codec refuses
        them); the two values of the client's free choice are escaped.
        """
        lines = self._lines
        if len(lines) >= MAX_ENTRIES:
            self._traffic.log_dropped += 1
            return
        when = self._offset + started
        second = int(when)
        if second != self._second:
            self._stamp(second)
        lines.append(
            _LINE
            % (
                self._date,
                int((when - second) * 1000),
                method,
                host,
                target,
                status,
                sent,
                duration,
                revision,
                endpoint,
                flag.encode(),
                _string(request_id),
                _string(user_agent),
                peer,
            )
        )
        if len(lines) == FLUSH_AT and not self._unwritten:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL, self._on_timer)

    def _stamp(self, second: int) -> None:
        self._second = second
        self._date = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()

    def flush(self) -> None:
        """Write what has gathered. What the file does not take stays for the next time."""
        if not self._unwritten:
            self._unwritten = b"".join(self._lines)
            self._lines.clear()
            self._offset = datetime.now(UTC).timestamp() - perf_counter()
        try:
            written = os.write(self._file, self._unwritten) if self._unwritten else 0
        except BlockingIOError:
            return
        except OSError:
            self._traffic.log_dropped += self._unwritten.count(b"\n")
            self._unwritten = b""
            return
        self._unwritten = self._unwritten[written:]

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


# Printable ASCII that JSON does not escape. (Three times `in` took five times as long: bytes look for a number first.)
_PLAIN = re.compile(rb"[ !#-\[\]-~]++")


def _string(value: bytes) -> bytes:
    if not value:
        return b'""'
    if _PLAIN.fullmatch(value):
        return b'"%b"' % value
    return orjson.dumps(value.decode("latin-1"))
