"""Names of children and times, as Knative and Kubernetes write them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis.meta import child_name, controller_ref, format_time, is_controlled_by, parse_time


@pytest.mark.parametrize(
    ("parent", "suffix", "expected"),
    [
        ("hello", "-00001", "hello-00001"),
        ("a" * 60, "-00001", "a" * 25 + "cc7ed669cf88f201c3297c6a91e1d18d" + "-00001"),
        (
            "my-service-with-a-very-long-name-that-exceeds-limits-xyz",
            "-deployment",
            "my-service-with-a-ve33e3e4feffe81079154da86ea2a12de0-deployment",
        ),
    ],
)
def test_child_name_vectors(parent: str, suffix: str, expected: str) -> None:
    """Knative's own vectors."""
    assert child_name(parent, suffix) == expected


@given(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=63),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=63).map(lambda tail: "-" + tail),
)
def test_child_name_fits(parent: str, suffix: str) -> None:
    """Any child's name fits in 63 characters and ends in a letter or digit."""
    name = child_name(parent, suffix)
    assert len(name) <= 63
    assert name[-1].isalnum()


def test_controller_reference() -> None:
    """A child knows the incarnation that owns it, not only the name."""
    owner = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "uid": "1"}}
    child = {"metadata": {"ownerReferences": [controller_ref(owner)]}}
    assert is_controlled_by(child, owner)
    assert not is_controlled_by(child, {**owner, "metadata": {"name": "a", "uid": "2"}})


def test_times() -> None:
    """Times are UTC with whole seconds, whatever zone they came in."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(moment) == "2026-01-02T01:04:05Z"
    assert parse_time("2026-01-02T01:04:05Z") == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
