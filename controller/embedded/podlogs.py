"""The logs of pods: who writes where, and what `logs` reads.

One life of a container is one log (see `logfile`), `<root>/<namespace>_<pod>_<uid>/<container>/<n>.log` with n its
restart count, so that `--previous` is n - 1. Of the lives before, only the last is kept; folders go with the pod.
Only folders of exactly such a name are ever removed, and no name leads out of `<root>`, whatever the API let through.

A follower reads the same files and is woken by the writer. It holds its file open, so a rotation loses nothing unless
it is three files behind.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO

from controller.apis import meta
from controller.embedded.apiserver import LogError
from controller.embedded.logfile import MAX_FILES, LogWriter, rotated, stamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from controller.apis.meta import JsonObject

_CHUNK = 64 * 1024
_SWEEP_FIRST = 64
_POD_FOLDER = re.compile(r"[a-z0-9-]+_[a-z0-9.-]+_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""The name of a pod's folder; a group for its uid."""


class PodLogs:
    """The logs of all pods under `root`: hands out writers and is the API server's LogProvider."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._writers: dict[Path, LogWriter] = {}
        self._sweep_at = _SWEEP_FIRST

    def writer(self, pod: JsonObject, container: str, life: int) -> LogWriter:
        """A new log for life number `life` of a container; of its former lives only the last is kept. Raises OSError,
        also for a container's name that is no file name."""
        folder = self._container_folder(pod, container)
        writer = LogWriter(folder / f"{life}.log")
        self._sweep()
        self._writers[writer.path] = writer
        for path in folder.iterdir() if life > 1 and folder.is_dir() else ():
            number = path.name.partition(".")[0]
            if number.isdigit() and int(number) < life - 1:
                path.unlink(missing_ok=True)
        return writer

    def _sweep(self) -> None:
        """Let go of closed writers whenever there are twice as many as were left by the last time."""
        if len(self._writers) >= self._sweep_at:
            self._writers = {path: writer for path, writer in self._writers.items() if not writer.closed}
            self._sweep_at = max(_SWEEP_FIRST, 2 * len(self._writers))

    def forget(self, pod: JsonObject) -> None:
        """Remove the pod's logs."""
        with suppress(OSError):
            shutil.rmtree(self._folder(pod))

    def forget_all_but(self, uids: set[str]) -> None:
        """Remove the logs of pods that are no more, e.g. deleted while nobody ran; whatever else is there stays."""
        if self._root.is_dir():
            for folder in self._root.iterdir():
                match = _POD_FOLDER.fullmatch(folder.name)
                if match and match[1] not in uids:
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
        since = None if since_seconds is None else stamp(datetime.now(UTC) - timedelta(seconds=since_seconds)).encode()
        chunks = self._read(path, since, tail_lines, follow=follow)
        return _limited(_shown(chunks, timestamps=timestamps), limit_bytes)

    def _folder(self, pod: JsonObject) -> Path:
        # The uid tells pods apart; the name is for people, and a file's may not be longer than 255.
        return _within(self._root, f"{meta.namespace_of(pod)}_{meta.name_of(pod)[:100]}_{meta.uid_of(pod)}")

    def _container_folder(self, pod: JsonObject, container: str) -> Path:
        return _within(self._folder(pod), container)

    def _log_of(self, pod: JsonObject, container: str, *, previous: bool) -> Path:
        try:
            folder = self._container_folder(pod, container)
        except OSError as error:
            raise LogError(f"container {container!r} can't have a log: {error}") from None
        for path, writer in self._writers.items():
            if path.parent == folder:
                with suppress(OSError):  # then there is no log, and that is said below
                    writer.open()
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


def _within(folder: Path, name: str) -> Path:
    """The entry `name` of the folder. The API checks names; an object from elsewhere may hold any. Raises OSError."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "not a name that a file can have", name)
    return folder / name


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
    files: list[BinaryIO] = []
    for name in rotated(path, MAX_FILES):
        with suppress(FileNotFoundError):
            files.append(name.open("rb", buffering=0))
    return _Files(path, files)


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
        # More than asked for: the first of them may have lost parts of its line.
        while kept and count - _lines_in(kept[0]) > tail_lines:
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
