"""Container logs: written to size-bounded files as lines come, read back for `logs`.

The format on disk is CRI's, what kubelet keeps: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, P for a part of a
line longer than 16 KiB. One life of a container is one log, `<folder>/<n>.log` with n its restart count, so that
`--previous` is n - 1; a log is three files of 10 MiB at most (`.log`, `.log.1`, `.log.2`), after which the oldest is
lost. Folders are `<root>/<namespace>_<pod>_<uid>/<container>` and go with the pod.

Bounds: a read from the pipe is 64 KiB, so a talkative container costs a turn of the event loop no more than writing
that; while we don't read, the pipe fills and the container waits. A partial line is held up to 16 KiB. A disk that
refuses a write costs that output, never the container. The last 80 lines or 2 KiB are kept in memory for
`lastState.terminated.message` (FallbackToLogsOnError).

A follower reads the same files and is woken by the writer. It holds its file open, so a rotation loses nothing unless
it is three files behind.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from controller.apis import meta
from controller.embedded.apiserver import LogError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from controller.apis.meta import JsonObject

MAX_BYTES = 10 * 1024 * 1024
MAX_FILES = 3
_LINE_LIMIT = 16 * 1024
_TAIL_BYTES, _TAIL_LINES = 2048, 80
_CHUNK = 64 * 1024


class LogWriter:
    """One life's log. `write` and `close` are called in the event loop; `path` is the current file."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
        self.path = path
        self.closed = False
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._rest = {"stdout": b"", "stderr": b""}
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._waiting: list[asyncio.Future[None]] = []
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._size = 0

    def write(self, stream: str, data: bytes, now: datetime) -> None:
        """Append what a container wrote to `stream` ("stdout" or "stderr") at `now`."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        prefix = f"{_stamp(now)} {stream} ".encode()
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
        self.closed = True
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
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        with suppress(OSError):  # the disk is full: this output is lost, the container goes on
            self._file.write(data)
        self._size += len(data)
        self._wake()

    def _rotate(self) -> None:
        self._file.close()
        for older, newer in pairwise(_rotated(self.path, self._max_files)):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._file = self.path.open("ab", buffering=0)
        self._size = 0

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class PodLogs:
    """The logs of all pods under `root`: hands out writers and is the API server's LogProvider."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._writers: dict[Path, LogWriter] = {}

    def writer(self, pod: JsonObject, container: str, life: int) -> LogWriter:
        """A new log for life number `life` of a container; of its former lives only the last is kept."""
        folder = self._folder(pod) / container
        writer = LogWriter(folder / f"{life}.log")
        self._writers = {path: old for path, old in self._writers.items() if not old.closed}
        self._writers[writer.path] = writer
        for path in folder.iterdir():
            number = path.name.partition(".")[0]
            if number.isdigit() and int(number) < life - 1:
                path.unlink(missing_ok=True)
        return writer

    def forget(self, pod: JsonObject) -> None:
        """Remove the pod's logs."""
        shutil.rmtree(self._folder(pod), ignore_errors=True)

    def forget_all_but(self, uids: set[str]) -> None:
        """Remove the logs of pods that are no more, e.g. deleted while nobody ran."""
        if self._root.is_dir():
            for folder in self._root.iterdir():
                if folder.name.rpartition("_")[2] not in uids:
                    shutil.rmtree(folder, ignore_errors=True)

    async def open(
        self,
        pod: JsonObject,
        container: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        previous: bool = False,
        since_seconds: int | None = None,
        timestamps: bool = False,
        limit_bytes: int | None = None,
    ) -> AsyncIterator[bytes]:
        """A container's log in chunks of whole lines, as `kubectl logs` asks for it. The stream ends at the end of the
        log or, following, of the container. Raises LogError when there is no such log."""
        path = self._log_of(pod, container, previous=previous)
        since = None if since_seconds is None else _stamp(datetime.now(UTC) - timedelta(seconds=since_seconds)).encode()
        chunks = self._read(path, since, tail_lines, follow=follow)
        return _limited(_shown(chunks, timestamps=timestamps), limit_bytes)

    def _folder(self, pod: JsonObject) -> Path:
        return self._root / f"{meta.namespace_of(pod)}_{meta.name_of(pod)}_{meta.uid_of(pod)}"

    def _log_of(self, pod: JsonObject, container: str, *, previous: bool) -> Path:
        folder = self._folder(pod) / container
        lives = sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdigit())
        if previous:
            lives = lives[:-1]
        if not lives:
            which = "previous terminated container" if previous else "container"
            raise LogError(
                f'{which} "{container}" in pod "{meta.name_of(pod)}" has no log: '
                + ("it has not been restarted" if previous else "it is waiting to start")
            )
        return folder / f"{lives[-1]}.log"

    async def _read(
        self, path: Path, since: bytes | None, tail_lines: int | None, *, follow: bool
    ) -> AsyncIterator[list[bytes]]:
        """Entries in groups: what there is, then what comes."""
        writer = self._writers.get(path)
        with _open_all(path) as files:
            async for group in _history(files, since, tail_lines):
                yield group
            while follow and writer is not None:
                ended = writer.closed
                for group in files.news():
                    yield group
                if ended:
                    return
                await writer.changed()


class _Files:
    """A log's files from oldest to newest, followed over rotations: the newest stays open, and when another file has
    taken its name, it is read to its end first."""

    def __init__(self, path: Path, old: list[BinaryIO]) -> None:
        self._path = path
        self.all = old
        self._rest = b""

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.all:
            file.close()

    def news(self) -> Iterator[list[bytes]]:
        """Entries written since the last call."""
        while True:
            current = self.all[-1]
            while data := current.read(_CHUNK):
                *lines, self._rest = (self._rest + data).split(b"\n")
                yield lines
            if not self._path.exists() or os.path.samestat(self._path.stat(), os.fstat(current.fileno())):
                return
            current.close()
            self.all[-1] = self._path.open("rb", buffering=0)


def _open_all(path: Path) -> _Files:
    files = []
    for name in _rotated(path, MAX_FILES):
        with suppress(FileNotFoundError):
            files.append(name.open("rb", buffering=0))
    return _Files(path, files)


def _rotated(path: Path, count: int) -> list[Path]:
    """The log's files, oldest first: `.log.2`, `.log.1`, `.log`."""
    return [*(path.with_name(f"{path.name}.{n}") for n in range(count - 1, 0, -1)), path]


async def _history(files: _Files, since: bytes | None, tail_lines: int | None) -> AsyncIterator[list[bytes]]:
    """What the files hold now. A tail reads everything once and keeps as many entries as asked for; the newest file's
    position is its end afterwards, so that `news` goes on from there. Others get their turn after each 64 KiB."""
    kept: deque[list[bytes]] = deque()
    count = 0
    for group in _groups(files):
        await asyncio.sleep(0)
        # Entries are in order of time and stamps compare as text.
        fresh = group if since is None else [entry for entry in group if entry[: len(since)] >= since]
        if tail_lines is None:
            yield fresh
            continue
        kept.append(fresh)
        count += _lines_in(fresh)
        while kept and count - _lines_in(kept[0]) >= tail_lines:
            count -= _lines_in(kept.popleft())
    if tail_lines is not None:
        yield _last([entry for group in kept for entry in group], tail_lines)


def _groups(files: _Files) -> Iterator[list[bytes]]:
    for file in files.all[:-1]:
        rest = b""
        while data := file.read(_CHUNK):
            *lines, rest = (rest + data).split(b"\n")
            yield lines
    yield from files.news()


def _lines_in(entries: list[bytes]) -> int:
    return sum(_is_whole(entry) for entry in entries)


def _last(entries: list[bytes], count: int) -> list[bytes]:
    """The last `count` lines with all their parts; an unfinished line at the end counts as one."""
    if count <= 0:
        return []
    for index in range(len(entries) - 2, -1, -1):
        if _is_whole(entries[index]):
            count -= 1
            if count == 0:
                return entries[index + 1 :]
    return entries


def _is_whole(entry: bytes) -> bool:
    return entry.split(b" ", 3)[2:3] == [b"F"]


async def _shown(chunks: AsyncIterator[list[bytes]], *, timestamps: bool) -> AsyncIterator[bytes]:
    """Entries as the reader sees them: the text, after its time if wanted; parts of one line joined again."""
    inside = False
    async for group in chunks:
        shown = bytearray()
        for entry in group:
            stamp, _stream, mark, text = (*entry.split(b" ", 3), b"", b"")[:4]
            if timestamps and not inside:
                shown += stamp + b" "
            inside = mark == b"P"
            shown += text if inside else text + b"\n"
        if shown:
            yield bytes(shown)


async def _limited(chunks: AsyncIterator[bytes], limit: int | None) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if limit is None:
            yield chunk
            continue
        yield chunk[:limit]
        limit -= len(chunk)
        if limit <= 0:
            return


def _stamp(moment: datetime) -> str:
    """RFC 3339 with nine digits, of constant length so that stamps compare as text."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
