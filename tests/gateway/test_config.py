"""gateway.config and gateway.options: what can't work is said in one sentence, and the options say what there is."""

from __future__ import annotations

from dataclasses import fields
from math import inf, nan
from pathlib import Path
from resource import RLIM_INFINITY

import pytest
from click.testing import CliRunner

from gateway.__main__ import main, with_files
from gateway.config import Address, ConfigError, GatewayConfig, Limits, parse_network
from gateway.options import limit_arguments

NAMES = [one.name for one in fields(Limits)]
NONE_ALLOWED = {"max_body", "min_body_rate", "max_connections_per_client", "max_requests_per_connection"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, 0, nan, inf])
def test_limits_that_cannot_work(name: str, value: float) -> None:
    """The sentence names the option and the least that would do."""
    if value == 0 and name in NONE_ALLOWED:
        Limits(**{name: value})  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError, match=f"{name.replace('_', '-')}; the least is"):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_field_section", "max_request_line"])
def test_a_head_is_not_read_without_end(name: str) -> None:
    """It is kept whole, so its limits have one of their own."""
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        Limits(**{name: 1048577})  # type: ignore[arg-type]


def test_every_limit_has_an_option_in_its_section_of_the_help() -> None:
    """With its default."""
    text = CliRunner().invoke(main, ["--help"]).output
    _, _, section = text.partition("Limits on what a client may cost:")
    assert [name for name in NAMES if f"--{name.replace('_', '-')} " not in section] == []
    assert "[default: 8192]" in " ".join(section.split())


def test_a_bad_limit_is_one_line_and_status_2() -> None:
    """Without a traceback."""
    arguments = ["--feed", "ws://127.0.0.1:1", "--feed-token-file", "token", "--max-fields", "0"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr == "gateway: 0 is no value for max-fields; the least is 1.\n"


def test_limits_as_name_and_value() -> None:
    """How `zerogate up` takes them."""
    assert limit_arguments(["max-body=10", "head-timeout=0.5"]) == ["--max-body=10", "--head-timeout=0.5"]


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("max-body", "should be NAME=VALUE"),
        ("listen=0.0.0.0:80", "is no limit of the gateway"),
        ("max-body=1k", "'1k' is no value for max-body"),
        ("max-body=-1", "-1 is no value for max-body"),
    ],
)
def test_names_and_values_that_cannot_work(pair: str, words: str) -> None:
    """Said before anything is started."""
    with pytest.raises(ConfigError, match=words):
        limit_arguments([pair])


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0-10.0.0.9"])
def test_bad_networks(text: str) -> None:
    """One sentence that shows what would be right."""
    with pytest.raises(ConfigError, match=r"like 10\.0\.0\.0/8"):
        parse_network(text)


@pytest.mark.parametrize(
    ("allowed", "asked", "files", "connections", "words"),
    [
        ((1024, 1_000_000), 20_000, (40_128, 1_000_000), 20_000, ""),  # the usual soft limit is raised
        ((1024, 20_000), 20_000, (20_000, 20_000), 14_904, ""),  # as many as can be had, and nobody asked for more
        ((1024, 4096), 5000, (4096, 4096), 2976, "a worker takes 2976 connections at most"),
        ((60_000, 60_000), 20_000, None, 20_000, ""),
        ((RLIM_INFINITY, RLIM_INFINITY), 20_000, None, 20_000, ""),
        ((1024, RLIM_INFINITY), 20_000, (40_128, RLIM_INFINITY), 20_000, ""),
    ],
)
def test_open_files(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    allowed: tuple[int, int],
    asked: int,
    files: tuple[int, int] | None,
    connections: int,
    words: str,
) -> None:
    """Two for each connection; where the system allows fewer, the limit on connections is one that can be kept."""
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: allowed)
    monkeypatch.setattr("resource.setrlimit", lambda _, values: raised.append(values))
    here = Address("127.0.0.1", 0)
    config = GatewayConfig("ws://127.0.0.1:1", Path("token"), here, here, here, limits=Limits(max_connections=asked))
    assert with_files(config).limits.max_connections == connections
    assert raised == ([] if files is None else [files])
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


@pytest.mark.parametrize(
    "options",
    [
        ("--feed", "ws://localhost:1"),
        ("--feed", "ws://[::1]:1"),
        ("--feed", "wss://controller:1"),
        ("--feed", "ws://controller:1", "--feed-insecure"),
    ],
)
def test_plain_text_stays_on_this_machine_unless_told(options: tuple[str, ...], tmp_path: Path) -> None:
    """The feed's URL says where it goes."""
    (tmp_path / "token").write_text("secret")
    result = CliRunner().invoke(main, ["--feed-token-file", str(tmp_path / "token"), "--check", *options])
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("0.0.0.0", "'0.0.0.0' is no address at which others reach this gateway; it should be like 10.0.0.7."),
        ("gateway.example", "'gateway.example' is no address at which others reach this gateway"),
        ("192.0.2.1", "--peer-host 192.0.2.1 is no address of this machine: "),
    ],
)
def test_where_others_reach_a_gateway(host: str, message: str, tmp_path: Path) -> None:
    """An address of this machine, that the others can be told; anything else is one line and status 2."""
    (tmp_path / "token").write_text("secret")
    options = ["--feed", "ws://127.0.0.1:1", "--feed-token-file", str(tmp_path / "token"), "--check"]
    assert CliRunner().invoke(main, [*options, "--peer-host", "127.0.0.1"]).exit_code == 0
    result = CliRunner().invoke(main, [*options, "--peer-host", host])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"gateway: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tls-certificate", "c"), "come together"),
        (("--tls-certificate", "c", "--tls-key", "k"), "needs an address"),
        (("--tls-listen", "127.0.0.1:0", "--tls-certificate", "token", "--tls-key", "token"), "no certificate chain"),
        (("--tls-listen", "127.0.0.1:0", "--tls-certificate", "no", "--tls-key", "no"), "no can't be used"),
        (("--tls-listen", "nowhere"), "no address to listen on"),
        (("--feed", "ws://controller:1"), "would be readable on the way from 'ws://controller:1': use wss://"),
        (("--feed", "http://192.0.2.1:1"), "would be readable on the way"),
        (("--feed", "ws://[::1:1"), "The feed URL 'ws://[::1:1' is none: Invalid IPv6 URL"),
        (("--feed-ca", "token"), "needs a feed over TLS: wss:// in place of 'ws://127.0.0.1:1'"),
        (("--feed", "wss://localhost:1", "--feed-ca", "token"), "token holds no certificate in PEM"),
        (("--feed", "wss://localhost:1", "--feed-ca", "no"), "no can't be used"),
    ],
)
def test_tls_that_is_wrong_or_missing_is_one_line_and_status_2(
    options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything listens."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("secret")
    result = CliRunner().invoke(main, ["--feed", "ws://127.0.0.1:1", "--feed-token-file", "token", "--check", *options])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
