"""gateway.core.coldstart: what a wait is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Milestones
from gateway.core.coldstart import BOUNDS, PHASES, ColdStarts, Phase, phases, response_lines

WALL = 1_700_000_000.0
"""How far the wall clock is ahead."""


def milliseconds(*moments: float | None, opened: float = 90, dispatched: float = 100) -> dict[str, float]:
    """The phases of a request that arrived at 0, of milestones in milliseconds."""
    told = Milestones(*(None if moment is None else WALL + 50 + moment / 1000 for moment in moments))
    parts = phases(50, told, 50 + opened / 1000, 50 + dispatched / 1000, offset=WALL)
    return {part.name: part.microseconds / 1000 for part in parts}


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ((1, 4, 9), {"decide": 1, "create": 3, "start": 5, "ready": 81, "dispatch": 10}),
        # What is not known is part of what follows.
        ((None, None, None), {"ready": 90, "dispatch": 10}),
        ((1, 4, None), {"decide": 1, "create": 3, "ready": 86, "dispatch": 10}),
        ((None, 4, 9), {"create": 4, "start": 5, "ready": 81, "dispatch": 10}),
        # Somebody else's request woke the revision 30 ms before; by now the pod runs.
        ((-29, -26, -1), {"decide": 0, "create": 0, "start": 0, "ready": 90, "dispatch": 10}),
        ((-29, -26, 3), {"decide": 0, "create": 0, "start": 3, "ready": 87, "dispatch": 10}),
        # The pod that answers is older than the decision: that was not what made it.
        ((20, 4, 9), {"create": 4, "start": 5, "ready": 81, "dispatch": 10}),
        # The controller's clock is ahead: nothing it says can be placed.
        ((5001, 5004, 5009), {"ready": 90, "dispatch": 10}),
    ],
)
def test_a_wait_is_cut_at_what_is_known(moments: tuple[float | None, ...], expected: dict[str, float]) -> None:
    """By the moments that can be true; the rest of the time belongs to the phase that follows."""
    assert milliseconds(*moments) == expected


@given(
    st.lists(st.none() | st.floats(-1e4, 1e4), min_size=3, max_size=3),
    st.floats(-10, 1e4),
    st.floats(0, 1e4),
    st.floats(-1e5, 2e9),
)
def test_the_parts_are_the_whole(moments: list[float | None], opened: float, waited: float, offset: float) -> None:
    """Whatever the clocks say: no part is negative, they come in order, and their sum is the wait."""
    told = Milestones(*(None if moment is None else moment + offset for moment in moments))
    parts = phases(0.0, told, opened, waited, offset=offset)
    names = [part.name for part in parts]
    assert names == [name for name in PHASES if name in names]
    assert names[-2:] == ["ready", "dispatch"]
    assert min(part.microseconds for part in parts) >= 0
    assert sum(part.microseconds for part in parts) == round(waited * 1e6)


def test_what_a_response_says() -> None:
    """Each phase and the whole, in milliseconds."""
    assert response_lines((Phase("ready", 12_045), Phase("dispatch", 9))) == (
        b"server-timing: ready;dur=12.045, dispatch;dur=0.009\r\nx-zerogate-cold-start: 12.054\r\n"
    )


def test_the_histogram() -> None:
    """Seconds; every phase has its series from the start; a wait at a bound is in its bucket."""
    cold_starts = ColdStarts()
    assert {phase: sum(counts) for (phase,), (_, *counts) in cold_starts.family().samples.items()} == dict.fromkeys(
        PHASES, 0
    )
    cold_starts.observe((Phase("ready", 2500), Phase("dispatch", 0)))
    cold_starts.observe((Phase("ready", 900_000_000), Phase("dispatch", 10)))
    family = cold_starts.family()
    assert (family.kind, family.bounds) == ("histogram", BOUNDS)
    total, *counts = family.samples["ready",]
    assert total == pytest.approx(900.0025)
    assert [number for number, count in enumerate(counts) if count] == [BOUNDS.index(0.0025), len(BOUNDS)]
    assert family.samples["dispatch",][1] == 2
    assert sum(family.samples["decide",]) == 0
