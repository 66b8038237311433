from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from controller.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["simulate", *map(str, arguments)], prog_name="zerogate")
    return result.exit_code, result.output


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Twenty requests a second for a minute."""
    path = tmp_path / "arrivals.txt"
    path.write_text("".join(f"{number / 20}\n" for number in range(1200)))
    return path


def test_settings_side_by_side(trace: Path) -> None:
    """A line for each; a lower target has more pods and more pod-seconds."""
    status, text = run(trace, "-s", "default", "-s", "small:target=2", "--service-time", "500ms")
    assert status == 0
    heading, default, small = text.splitlines()
    assert heading.split()[:3] == ["SETTINGS", "REQUESTS", "COLD"]
    assert (default.split()[:2], small.split()[:2]) == (["default", "1200"], ["small", "1200"])
    assert int(small.split()[-1]) > int(default.split()[-1]) == 1
    assert int(small.split()[-2]) > int(default.split()[-2])


def test_json_has_the_timeline(trace: Path) -> None:
    """And the same seed gives the same result."""
    arguments = (trace, "-s", "one:target=1", "--service-time", "exponential:300ms", "--cold-start", "uniform:1s-3s")
    first, again = (run(*arguments, "-o", "json") for _ in range(2))
    assert first == again
    [result] = json.loads(first[1])
    assert (result["settings"], result["requests"], result["lost"]) == ("one", 1200, 0)
    assert result["timeline"][-1]["replicas"] == 0
    assert run(*arguments, "-o", "json", "--seed", 5)[1] != first[1]


@pytest.mark.parametrize(("ending", "first"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_picture(trace: Path, tmp_path: Path, ending: str, first: bytes) -> None:
    """Of the kind that its name says."""
    path = tmp_path / f"plot{ending}"
    assert run(trace, "--plot", path)[0] == 0
    assert path.read_bytes().startswith(first)


def test_time_has_an_end(trace: Path) -> None:
    """A simulation without one would never print anything."""
    for tail in ("inf", "-1", "1e9"):
        assert run(trace, "--tail", tail)[0] == 2


def test_what_goes_wrong_is_one_line_and_status_2(trace: Path, tmp_path: Path) -> None:
    """A bad trace, setting, time, picture or place for it."""
    bad = tmp_path / "bad.txt"
    bad.write_text("soon\n")
    for arguments in (
        (bad,),
        (trace, "-s", "x:windows=3"),
        (trace, "-s", "x:window=20s", "-s", "x:window=30s"),
        (trace, "--cold-start", "quick"),
        (trace, "--plot", tmp_path / "plot.doc"),
        (trace, "--plot", tmp_path / "nowhere" / "plot.png"),
    ):
        status, text = run(*arguments)
        assert (status, len(text.splitlines())) == (2, 1), text
        assert text.startswith("zerogate simulate: ")
