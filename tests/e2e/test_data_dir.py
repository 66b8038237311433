"""What `zerogate up` makes of the directory it is given, as a process: one line and exit status 2, or a start."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import ZEROGATE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.harness import Platform


def refused(platform: Platform, *before: str) -> str:
    """The one line that `zerogate up` says, run by the command `before`."""
    options = ("--data-dir", str(platform.data_dir), "--port", str(platform.port))
    result = platform.run(*before, ZEROGATE, "up", *options, check=False)
    assert result.returncode == 2, result
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_directory_of_the_users_own_is_left_alone(stopped_platform: Platform) -> None:
    """Nothing is removed, overwritten or added, though its names are some of ours."""
    root = stopped_platform.data_dir
    (root / "logs" / "important").mkdir(parents=True)
    for name in ("logs/important/thesis.txt", "processes", "lock", "access.log"):
        (root / name).write_text("mine")
    before = files(root)
    message = refused(stopped_platform)
    assert f"{root} is not empty" in message
    assert "--data-dir" in message
    assert files(root) == before


def test_a_directory_open_to_others_is_refused(stopped_platform: Platform) -> None:
    """Links that somebody put there are not followed."""
    root = stopped_platform.data_dir
    root.mkdir()
    root.chmod(0o777)
    assert f"chmod go-w {root}" in refused(stopped_platform)


def test_a_start_leaves_and_a_restart_makes_modes_right(stopped_platform: Platform) -> None:
    """The second start takes back what was opened meanwhile; a foreign folder among the logs stays."""
    platform = stopped_platform
    root = platform.data_dir
    platform.start()
    assert platform.stop() == 0
    (root / "logs" / "important").mkdir(parents=True)
    for name in ("credentials", "access.log", "api-port", "credentials/feed-token"):
        (root / name).chmod(0o755)
    platform.start()
    modes = {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
    assert platform.stop() == 0
    assert modes["credentials"] == modes["logs"] == 0o700
    # SQLite's two files, and a token, come and go; what is there is nobody else's.
    assert {mode for name, mode in modes.items() if name.partition("/")[0] != "logs"} == {0o600, 0o700}
    assert (root / "logs" / "important").is_dir()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("objects.sqlite", "put a backup in its place, or move"),
        ("credentials/token", "delete it to have a new one made"),
        ("credentials/server.key", "delete both to have new ones made"),
        ("credentials/ca.crt", "delete it to have a new one made"),
    ],
)
def test_a_damaged_file_is_one_line(stopped_platform: Platform, name: str, advice: str) -> None:
    """It names the file and says what to do."""
    platform = stopped_platform
    platform.start()
    assert platform.stop() == 0
    (platform.data_dir / name).write_bytes(b"\xff rubbish" * 1000)
    message = refused(platform)
    assert str(platform.data_dir / name) in message
    assert advice in message


def test_a_disk_without_room_is_named(stopped_platform: Platform) -> None:
    """Files of 64 KiB at most stand for a full disk: the database's log soon needs more."""
    message = refused(stopped_platform, "sh", "-c", 'ulimit -f 128; exec "$@"', "sh")
    assert f"{stopped_platform.data_dir} can't be written: " in message
    assert "--data-dir" in message


def test_a_port_in_use_on_ipv6_is_named_too(stopped_platform: Platform) -> None:
    """`localhost` is either loopback address, and a service has to answer on both."""
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", stopped_platform.port))
        except OSError:
            pytest.skip("no IPv6 here")
        other.listen()
        assert f"port {stopped_platform.port} (for services) can't be used" in refused(stopped_platform)


def test_what_can_be_made_anew_is(stopped_platform: Platform) -> None:
    """A port that is none, and a journal of nothing, are no reason not to start."""
    platform = stopped_platform
    platform.start()
    assert platform.stop() == 0
    (platform.data_dir / "api-port").write_text("99999")
    (platform.data_dir / "processes").write_bytes(os.urandom(1000) + b"\n\xff 1 2\n")
    platform.start()
    assert platform.stop() == 0
