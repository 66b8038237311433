"""Reading what nobody has checked yet: a part of the wrong type reads as an absent one."""

import pytest

from controller.apis import shape

WRONG = [None, 1, "a", [1], True]


@pytest.mark.parametrize("value", WRONG)
def test_wrong_types_read_as_absent(value: object) -> None:
    """The schema refuses wrong types; whoever reads past it sees nothing there, and never raises."""
    parent = {"x": value}
    assert shape.struct(parent, "x", "y") == {}
    assert shape.structs(parent, "x") == []
    assert list(shape.indexed(parent, "x", "p")) == []
    assert shape.texts(parent, "x") == {}
    assert shape.members(value) == []
    assert shape.text(parent, "x") == ("a" if value == "a" else "")
    assert shape.number(parent, "x") == (1 if value == 1 and value is not True else 0)


def test_right_types() -> None:
    """Values come out as they are, lists with the path of each item, entries of wrong type left out."""
    parent = {"a": {"b": {"c": 1, "d": None}}, "list": [{"n": 1}, 2, {"n": 3}], "labels": {"x": "y", "z": 1}}
    assert shape.struct(parent, "a", "b") == {"c": 1, "d": None}
    assert shape.members(shape.struct(parent, "a", "b")) == ["c"]
    assert shape.structs(parent, "list") == [{"n": 1}, {"n": 3}]
    assert list(shape.indexed(parent, "list", "p")) == [({"n": 1}, "p.list[0]"), ({"n": 3}, "p.list[2]")]
    assert shape.texts(parent, "labels") == {"x": "y"}
