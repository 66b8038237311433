"""Go durations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("90s", 90.0),
        ("1m30s", 90.0),
        ("1h0m0s", 3600.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100ms", 0.1),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("2ns", 2e-9),
        ("-1m", -60.0),
        ("+6s", 6.0),
    ],
)
def test_right(text: str, seconds: float) -> None:
    """What Go's time.ParseDuration takes: units, sums of them, fractions, signs."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "1 s", "1m 30s", "--1s", "1d", ".s", "1_0s", "٣s", "300y", "9999999h"])
def test_wrong(text: str) -> None:
    """What Go refuses is refused, with an example of what is right."""
    with pytest.raises(ValueError, match='is not a duration; write one such as "90s"'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (6, "6s"), (90, "1m30s"), (3600, "1h0m0s"), (0.25, "0.25s"), (-61.5, "-1m1.5s")]
)
def test_format(seconds: float, text: str) -> None:
    """Printed as Go prints it."""
    assert format_duration(seconds) == text


@given(st.integers(-(10**9), 10**9))
def test_round_trip(millis: int) -> None:
    """To the millisecond, what is printed reads back as it was."""
    assert parse_duration(format_duration(millis / 1000)) == pytest.approx(millis / 1000)
