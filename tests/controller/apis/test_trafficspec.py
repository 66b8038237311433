"""Which traffic is refused, in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis.trafficspec import validate_traffic


def _firsts(traffic: list[dict[str, Any]], *, in_service: bool = True) -> list[str]:
    errors = validate_traffic({"traffic": traffic}, "spec", in_service=in_service)
    return [str(error).partition("\n")[0] for error in errors]


T0, T1 = "spec.traffic[0]", "spec.traffic[1]"


@pytest.mark.parametrize(
    ("traffic", "problems"),
    [
        (
            [{"percent": 50}, {"revisionName": "a", "percent": 49}],
            ["Traffic targets sum to 99, want 100: spec.traffic"],
        ),
        ([], ["Traffic targets sum to 0, want 100: spec.traffic"]),
        (
            [{"percent": 101}],
            [f"expected 0 <= 101 <= 100: {T0}.percent", "Traffic targets sum to 101, want 100: spec.traffic"],
        ),
        ([{"percent": -1}, {"revisionName": "a", "percent": 101}], None),
        (
            [{"percent": 100, "tag": "x"}, {"revisionName": "a", "percent": 0, "tag": "x"}],
            [f'Multiple definitions for "x": {T0}.tag, {T1}.tag'],
        ),
        ([{"percent": 100, "url": "http://x"}], [f"must not set the field(s): {T0}.url"]),
        (
            [{"percent": 100, "revisionName": "a", "latestRevision": True}],
            [f'may not set revisionName "a" when latestRevision is true: {T0}.latestRevision'],
        ),
        (
            [{"percent": 100, "latestRevision": False}],
            [f"may not set latestRevision to false without a revisionName: {T0}.latestRevision"],
        ),
        ([{"percent": 100, "revisionName": "a b"}], [f'invalid key name "a b": {T0}.revisionName']),
    ],
)
def test_in_a_service(traffic: list[dict[str, Any]], problems: list[str] | None) -> None:
    """The percents sum to 100, each from 0 to 100; tags are unique; targets name revisions without contradiction."""
    found = _firsts(traffic)
    assert found == problems if problems is not None else len(found) == 2


@pytest.mark.parametrize("tag", ["Green", "1a", "a.b", "a" * 64, "-"])
def test_tags_become_host_names(tag: str) -> None:
    """A tag is a DNS label, because a host name begins with it."""
    [text] = _firsts([{"percent": 100, "tag": tag}])
    assert text.startswith("not a DNS 1035 label: [")
    assert text.endswith(f"]: {T0}.tag")


def test_configurations_are_a_routes_business() -> None:
    """A Service has one Configuration, its own: its targets do not name one."""
    target = {"percent": 100, "configurationName": "c"}
    assert _firsts([target]) == [f"must not set the field(s): {T0}.configurationName"]
    assert _firsts([{**target, "latestRevision": True}], in_service=False) == []


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ({}, f"expected exactly one, got neither: {T0}.configurationName, {T0}.revisionName"),
        (
            {"configurationName": "c", "revisionName": "r"},
            f"expected exactly one, got both: {T0}.configurationName, {T0}.revisionName",
        ),
        (
            {"configurationName": "c", "latestRevision": False},
            f"may not set latestRevision to false without a revisionName: {T0}.latestRevision",
        ),
        ({"configurationName": "c!"}, f'invalid key name "c!": {T0}.configurationName'),
    ],
)
def test_in_a_route(target: dict[str, Any], problem: str) -> None:
    """A target names a Configuration or a revision, and exactly one of them."""
    assert _firsts([{"percent": 100, **target}], in_service=False) == [problem]


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_percents_sum_to_100(percents: list[int]) -> None:
    """That is all there is about valid percents."""
    traffic = [{"revisionName": f"r{index}", "percent": percent} for index, percent in enumerate(percents)]
    assert (_firsts(traffic) == []) == (sum(percents) == 100)
