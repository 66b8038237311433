"""up and controller: what is typed wrong is told before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from controller.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", "--domain", "Example.Com"), "'Example.Com' is not a domain name in lower case"),
        (("up", "--domain", "a..b"), "is not a domain name"),
        (("up", "--image", "hello"), "'hello' is not NAME=COMMAND"),
        (("up", "--image", "=run"), "is not NAME=COMMAND"),
        (("up", "--image", "hello="), "is not NAME=COMMAND"),
        (("up", "--image", "hello='run"), "the command is not shell words"),
        (("up", "--port", "0"), "0 is not in the range 1<=x<=65532"),
        (("up", "--workers", "65"), "65 is not in the range 1<=x<=64"),
        (("up", "-f", "/no/such/file.yaml"), "/no/such/file.yaml: "),
        (("controller",), "--feed-token-file"),
        (("controller", "--feed-token-file", "t", "--feed-listen", "nowhere"), "nowhere"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """Exit status 2, the value repeated, and nothing made in the data directory."""
    where = ("--data-dir", str(tmp_path / "data")) if arguments[0] == "up" else ()
    result = CliRunner().invoke(main, [*arguments, *where], prog_name="zerogate")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "data").exists()


def test_a_manifest_of_an_unknown_kind(tmp_path: Path) -> None:
    """-f is read and its kinds are checked before the platform starts, not after."""
    file = tmp_path / "a.yaml"
    file.write_text("apiVersion: example.com/v1\nkind: Car\nmetadata: {name: a}\n")
    result = CliRunner().invoke(main, ["up", "-f", str(file), "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "Car" in result.stderr
    assert not (tmp_path / "data").exists()
