from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from controller.simulation.traces import TraceError, read_trace
from controller.simulation.world import Arrival

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\n"


def read(path: Path, text: str, function: str = "") -> list[Arrival]:
    path = path / "trace"
    path.write_text(text)
    return read_trace(path, function, lambda: 0.1, Random(1))


def test_arrivals(tmp_path: Path) -> None:
    """A time a line, with its own seconds of work or the usual ones; comments and empty lines are nothing."""
    assert read(tmp_path, "# made by hand\n0.5\n\n2,0.75\n2\n") == [
        Arrival(0.5, 0.1),
        Arrival(2, 0.75),
        Arrival(2, 0.1),
    ]
    assert read(tmp_path, "") == []
    assert read(tmp_path, "\ufeff1\n") == [Arrival(1, 0.1)]  # as spreadsheets write it


def test_minute_counts(tmp_path: Path) -> None:
    """As many requests as each minute has, inside it, in order; the function is chosen by the beginning of its name."""
    found = read(tmp_path, HEADER + "o,a,abc,http,0,3,1\no,a,def,timer,7,7,7\n", "ab")
    assert [int(arrival.time // 60) for arrival in found] == [1, 1, 1, 2]
    assert found == sorted(found)
    assert len(read(tmp_path, HEADER + "o,a,abc,http,0,3,1\n")) == 4


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        ("1\ntwo\n", "", ["line 2", "'two'"]),
        ("1,x\n", "", ["line 1", "'x'"]),
        ("-1\n", "", ["line 1", "'-1'"]),
        ("nan\n", "", ["line 1", "'nan'"]),
        ("1e12\n", "", ["line 1", "'1e12'", "2592000"]),
        ("2\n1\n", "", ["line 2", "sort"]),
        ("1\n", "f", ["arrivals", "'f'"]),
        ("a,b,c,d\n", "", ["line 1", "column"]),
        (HEADER + "o,a,f,http,1,-2,3\n", "", ["line 2", "'-2'"]),
        (HEADER + "o,a,f,http,1,1e3,3\n", "", ["line 2", "'1e3'"]),
        (HEADER + "o,a,f1,http,1,1,1\no,a,f2,http,1,1,1\n", "", ["f1 and f2", "--function"]),
        (HEADER + "o,a,f1,http,1,1,1\n", "g", ["'g'"]),
        (HEADER + "o,a,f1,http,99999999,1,1\n", "", ["more than"]),
    ],
)
def test_what_is_no_trace(tmp_path: Path, text: str, function: str, words: list[str]) -> None:
    """Is refused with where it is wrong and what would be right."""
    with pytest.raises(TraceError) as caught:
        read(tmp_path, text, function)
    for word in words:
        assert word in str(caught.value)
