"""When an object still says what we want."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.reconcile.drift import changed, covers, same

values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("nothing", [None, {}, [], ""])
def test_ways_to_say_nothing(nothing):
    """An absent field, null and the empty values are one."""
    assert same({"x": 1, "y": nothing}, {"x": 1})
    assert covers({"x": 1}, {"x": 1, "y": nothing})


@pytest.mark.parametrize(
    ("have", "want"), [({"x": 0}, {}), ({"x": False}, {}), ([1], [1, 2]), ({"x": [1]}, {"x": [2]})]
)
def test_differences(have, want):
    """Zero and False say something; lists differ by length and item."""
    assert not same(have, want)


def test_a_server_may_add():
    """What the server filled in is covered, though not the same; a changed field is neither."""
    have = {"ports": [{"port": 80, "protocol": "TCP"}], "clusterIP": "10.0.0.1"}
    want = {"ports": [{"port": 80}]}
    assert covers(have, want)
    assert not same(have, want)
    assert not covers(have, {"ports": [{"port": 81}]})


@given(values, values)
def test_same_is_an_equality_that_covers(one, other):
    """`same` is reflexive and symmetric, and covers both ways."""
    assert same(one, one)
    assert same(one, other) == same(other, one)
    if same(one, other):
        assert covers(one, other)
        assert covers(other, one)


def test_changed_is_a_copy():
    """The object in the cache is never touched."""
    obj = {"metadata": {"name": "a", "resourceVersion": "1", "labels": {"x": "1"}}, "spec": {"y": 1}}
    new = changed(obj, labels={}, spec={"y": 2})
    assert new == {"metadata": {"name": "a", "resourceVersion": "1", "labels": {}}, "spec": {"y": 2}}
    assert obj["metadata"]["labels"] == {"x": "1"}
