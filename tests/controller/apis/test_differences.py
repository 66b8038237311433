"""Differences, for people."""

from controller.apis.differences import difference


def test_lines_name_the_field() -> None:
    """A line for each value that was and for each that is."""
    old = {"a": {"b": [1, 2], "same": 0}, "gone": "x"}
    new = {"a": {"b": [1, 3, 4], "same": 0}, "new": None}
    assert difference(old, new) == '-a.b[1]: 2\n+a.b[1]: 3\n+a.b[2]: 4\n-gone: "x"'
    assert difference(old, old) == ""


def test_long_differences_are_cut() -> None:
    """A message stays readable: long values are shortened, and lines beyond the limit are counted only."""
    text = difference({}, {f"f{i:02}": "x" * 1000 for i in range(30)})
    assert text.endswith("… and 10 more lines")
    assert all(len(line) < 210 for line in text.splitlines())
