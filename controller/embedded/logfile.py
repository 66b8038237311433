"""One container's log file: lines as they come, bounded on disk and in memory.

The format is CRI's, what kubelet keeps: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, P for a part of a line longer
than 16 KiB. A log is three files of 10 MiB at most (`.log`, `.log.1`, `.log.2`), after which the oldest is lost.

Bounds: a read from the pipe is 64 KiB, so a talkative container costs a turn of the event loop no more than writing
that; while we don't read, the pipe fills and the container waits. A partial line is held up to 16 KiB. A disk that
refuses a write costs that output, never the container. The last 80 lines or 2 KiB are kept in memory for
`lastState.terminated.message` (FallbackToLogsOnError).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
MAX_FILES = 3
_LINE_LIMIT = 16 * 1024
_TAIL_BYTES, _TAIL_LINES = 2048, 80


class LogWriter:
    """One life's log. `write` and `close` are called in the event loop; `path` is the current file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self._rest = {"stdout": b"", "stderr": b""}
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._waiting: list[asyncio.Future[None]] = []
        self._file: BinaryIO | None = None
        self._size = 0

    def open(self) -> None:
        """Have the file there. It is made with the first output or when somebody asks for it, not before: two folders
        and a file take half a millisecond, which a cold start should not pay. Raises OSError."""
        if self._file is None and not self.closed:
            os.makedirs(self.path.parent, mode=0o700, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)

    def write(self, stream: str, data: bytes, now: datetime) -> None:
        """Append what a container wrote to `stream` ("stdout" or "stderr") at `now`."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        prefix = f"{stamp(now)} {stream} ".encode()
        entries = [prefix + b"F " + line + b"\n" for line in lines]
        while len(rest) >= _LINE_LIMIT:
            entries.append(prefix + b"P " + rest[:_LINE_LIMIT] + b"\n")
            rest = rest[_LINE_LIMIT:]
        self._rest[stream] = rest
        self._tail.extend(line[:_TAIL_BYTES] for line in lines[-_TAIL_LINES:])
        self._append(b"".join(entries))

    def close(self, now: datetime) -> None:
        """The container ended: unfinished lines become lines, followers see the end."""
        for stream, rest in self._rest.items():
            if rest:
                self.write(stream, b"\n", now)
        with suppress(OSError):
            self.open()  # a life without a word has a log too, an empty one
        self.closed = True
        if self._file is not None:
            self._file.close()
        self._wake()

    def tail(self) -> str:
        """The end of the output, as a termination message: 80 lines and 2 KiB at most."""
        return b"\n".join(self._tail).strip()[-_TAIL_BYTES:].decode(errors="replace")

    async def changed(self) -> None:
        """Return after the next write or the end."""
        if self.closed:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self._size and self._size + len(data) > MAX_BYTES:
            self._rotate()
        with suppress(OSError):  # the disk is full: this output is lost, the container goes on
            self.open()
            if self._file is not None:
                self._file.write(data)
        self._size += len(data)
        self._wake()

    def _rotate(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        for older, newer in pairwise(rotated(self.path, MAX_FILES)):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._size = 0

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


def rotated(path: Path, count: int) -> list[Path]:
    """The log's files, oldest first: `.log.2`, `.log.1`, `.log`."""
    return [*(path.with_name(f"{path.name}.{n}") for n in range(count - 1, 0, -1)), path]


def stamp(moment: datetime) -> str:
    """RFC 3339 with nine digits, of constant length so that stamps compare as text."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
