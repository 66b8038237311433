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


LISTEN = ("--feed-listen", "0.0.0.0:0")
FILES = ("--feed-certificate", "tls.crt", "--feed-key", "tls.key")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LISTEN, "the feed carries secrets and would be readable on 0.0.0.0: give it a certificate"),
        (("--feed-listen", "[::]:0"), "would be readable on ::"),
        (("--feed-listen", "controller:0"), "would be readable on controller"),
        (("--feed-certificate", "tls.crt"), "its key come together: --feed-certificate FILE --feed-key FILE"),
        (("--feed-key", "tls.key"), "its key come together"),
        ((*FILES, "--feed-insecure"), "leave out --feed-insecure"),
        (FILES, "can't read the feed's certificate from tls.crt: No such file"),
        (("--feed-certificate", "token", "--feed-key", "token"), "token with token can't be used: that is no certific"),
        # As far as the next thing that is wrong: the feed may be without a certificate.
        ((*LISTEN, "--feed-insecure"), "kubeconfig"),
        (("--feed-listen", "127.0.0.2:0"), "kubeconfig"),
        (("--feed-listen", "[::1]:0"), "kubeconfig"),
        (("--feed-listen", "localhost:0"), "kubeconfig"),
        ((), "kubeconfig"),
    ],
)
def test_where_the_feed_needs_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    """On each address that is not loopback. One line, exit status 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("secret")
    arguments = ["controller", "--kubeconfig", "none", "--feed-token-file", "token", *options]
    result = CliRunner().invoke(main, arguments, prog_name="zerogate")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("zerogate controller: ")
    assert message in result.stderr


def test_a_manifest_of_an_unknown_kind(tmp_path: Path) -> None:
    """-f is read and its kinds are checked before the platform starts, not after."""
    file = tmp_path / "a.yaml"
    file.write_text("apiVersion: example.com/v1\nkind: Car\nmetadata: {name: a}\n")
    result = CliRunner().invoke(main, ["up", "-f", str(file), "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "Car" in result.stderr
    assert not (tmp_path / "data").exists()
