"""Which directory becomes the data directory, and with what modes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from controller.embedded.datadir import Unusable, prepare, private_opener

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_is_made_and_known_again(tmp_path: Path) -> None:
    """With its parents, for the owner alone; a start that was killed before it wrote anything is no obstacle."""
    root = tmp_path / "state" / "zerogate"
    made = prepare(root)
    assert mode(root) == 0o700
    assert [mode(file) for file in root.iterdir()] == [0o600]
    assert prepare(root) == made


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    """And closed to others, who could read it so far."""
    root = tmp_path / "empty"
    root.mkdir(mode=0o755)
    prepare(root)
    assert mode(root) == 0o700


def test_a_directory_from_before_the_marker_is_known_by_its_database(tmp_path: Path) -> None:
    """An update finds what was there."""
    (tmp_path / "objects.sqlite").touch()
    (tmp_path / "logs").mkdir()
    prepare(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "logs", "lock", "processes", ".hidden"])
def test_a_users_own_directory_is_refused(tmp_path: Path, name: str) -> None:
    """Also when its files happen to have our names; nothing in it is changed."""
    (tmp_path / name).mkdir()
    before = tmp_path.stat()
    with pytest.raises(Unusable, match=r"is not empty and no data directory of zerogate; choose .* --data-dir"):
        prepare(tmp_path)
    assert os.listdir(tmp_path) == [name]
    assert tmp_path.stat().st_mode == before.st_mode


@pytest.mark.parametrize("wrong", [0o777, 0o770, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, wrong: int) -> None:
    """They could have put anything there; what to do is said."""
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(wrong)
    with pytest.raises(Unusable, match=f"chmod go-w {root}"):
        prepare(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    """The directory and each file that we would believe."""
    prepare(tmp_path)
    (tmp_path / "processes").write_text("1 x y\n")
    os.chown(tmp_path / "processes", 1, 1)
    with pytest.raises(Unusable, match="processes belongs to another user: remove it"):
        prepare(tmp_path)
    os.chown(tmp_path, 1, 1)
    with pytest.raises(Unusable, match=f"{tmp_path} belongs to another user; choose a directory of your own"):
        prepare(tmp_path)


@pytest.mark.parametrize("name", ["access.log", "api-port", "processes", "lock", "objects.sqlite", "credentials/token"])
def test_a_symbolic_link_is_never_followed(tmp_path: Path, name: str) -> None:
    """Not to a file that would be written, and not to one that would be believed."""
    root = tmp_path / "data"
    prepare(root)
    (root / "credentials").mkdir()
    target = tmp_path / "target"
    target.write_text("mine")
    (root / name).symlink_to(target)
    with pytest.raises(Unusable, match=f"{name} is no file, which it has to be: remove it"):
        prepare(root)
    with pytest.raises(OSError, match="symbolic link"), open(root / name, "w", opener=private_opener):
        pass
    assert target.read_text() == "mine"


@pytest.mark.parametrize("name", ["logs", "credentials"])
def test_a_folder_is_no_link_and_no_file(tmp_path: Path, name: str) -> None:
    """Logs are removed from `logs`, so it must not be somebody's documents."""
    root = tmp_path / "data"
    prepare(root)
    (tmp_path / "documents").mkdir()
    (root / name).symlink_to(tmp_path / "documents")
    with pytest.raises(Unusable, match=f"{name} is no folder, which it has to be"):
        prepare(root)


def test_modes_are_made_right(tmp_path: Path) -> None:
    """Of our own entries; a file that a user put there keeps his."""
    prepare(tmp_path)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials").chmod(0o777)
    for name in ("credentials/token", "access.log", "api-port", "mine.yaml"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    prepare(tmp_path)
    assert mode(tmp_path / "credentials") == 0o700
    assert {mode(tmp_path / name) for name in ("credentials/token", "access.log", "api-port")} == {0o600}
    assert mode(tmp_path / "mine.yaml") == 0o644


def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    """With the system's reason and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(Unusable, match=r"file/data can't be used: Not a directory; choose another directory"):
        prepare(tmp_path / "file" / "data")
