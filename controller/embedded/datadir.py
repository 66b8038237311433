"""The data directory of one machine: what is in it, and that it is ours before anything in it is believed.

What is kept there says which processes to kill and which folders to remove, and holds the keys of an API that starts
programs. So a directory is used only if it is empty, or was made by a former start (its marker, or the database of one
from before there was a marker, says so); if it belongs to this user; and if nobody else may write to it. Whoever can't
write there can't change what was checked, so one look at the start is enough; files are all the same opened without
following symbolic links. Modes are made what they should be: 0700 for folders, 0600 for files.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.paths import admin_port_path, kubeconfig_path

if TYPE_CHECKING:
    from pathlib import Path

_MARKER = ".zerogate-data"
_MARKER_TEXT = "This directory belongs to `zerogate up`: its objects, credentials and logs are here.\n"
_DATABASE = "objects.sqlite"
_FOLDERS = ("credentials", "logs")
_FILES = (
    _MARKER,
    "lock",
    *(_DATABASE + suffix for suffix in ("", "-wal", "-shm")),
    *("processes", "processes.new"),
    *("access.log", "access.log.1"),
    "api-port",
    "admin-port",
    "kubeconfig",
)
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


class Unusable(Exception):
    """Why a directory can't be the data directory, and what to do, in one sentence."""


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths in a prepared directory. `root` has the store's files and the runtime's journal as well."""

    root: Path

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    @property
    def feed_token(self) -> Path:
        return self.credentials / "feed-token"

    @property
    def kubeconfig(self) -> Path:
        return kubeconfig_path(self.root)

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def access_log(self) -> Path:
        return self.root / "access.log"

    @property
    def api_port(self) -> Path:
        return self.root / "api-port"

    @property
    def admin_port(self) -> Path:
        return admin_port_path(self.root)


def prepare(root: Path) -> DataDir:
    """Makes the directory, or sees to one that is there. Raises Unusable."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)
        _check_folder(root)
        _claim(root)
        root.chmod(_PRIVATE_FOLDER)
        for name in _FOLDERS:
            _make_private(root / name, is_folder=True)
        files = [root / name for name in _FILES]
        if (root / "credentials").exists():
            files += sorted((root / "credentials").iterdir())
        for file in files:
            _make_private(file, is_folder=False)
    except OSError as error:
        raise Unusable(
            f"{error.filename or root} can't be used: {error.strerror}; choose another directory with --data-dir"
        ) from error
    return DataDir(root)


def private_opener(path: str, flags: int) -> int:
    """An `opener` for `open`: a new file is 0600, a symbolic link is an OSError."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE_FILE)


def _check_folder(root: Path) -> None:
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise Unusable(f"{root} belongs to another user; choose a directory of your own with --data-dir")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unusable(
            f"other users can write to {root}, and so run programs as you: chmod go-w {root},"
            " or choose another directory with --data-dir"
        )


def _claim(root: Path) -> None:
    """Leave our marker in an empty directory; find it, or a database, in another."""
    names = {entry.name for entry in root.iterdir()}
    if names and not names & {_MARKER, _DATABASE}:
        raise Unusable(
            f"{root} is not empty and no data directory of zerogate;"
            " choose an empty directory, or one that is yet to be made, with --data-dir"
        )
    if _MARKER not in names:
        with contextlib.suppress(FileExistsError), open(root / _MARKER, "x", opener=private_opener) as file:
            file.write(_MARKER_TEXT)


def _make_private(entry: Path, *, is_folder: bool) -> None:
    """Take everybody else's leave from one of our entries, if it is there. Raises Unusable if it can't be ours."""
    try:
        found = entry.lstat()
    except FileNotFoundError:
        return
    if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(found.st_mode):
        kind = "folder" if is_folder else "file"
        raise Unusable(f"{entry} is no {kind}, which it has to be: remove it, and it is made anew")
    if found.st_uid != os.geteuid():
        raise Unusable(f"{entry} belongs to another user: remove it, and it is made anew")
    if stat.S_IMODE(found.st_mode) & 0o077:
        entry.chmod(_PRIVATE_FOLDER if is_folder else _PRIVATE_FILE)
