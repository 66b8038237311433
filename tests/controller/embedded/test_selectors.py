"""Label and field selectors."""

from __future__ import annotations

import pytest

from controller.apis import kinds
from controller.embedded.selectors import SelectorError, parse


def _obj(**labels: str) -> dict[str, object]:
    return {"metadata": {"name": "a", "namespace": "n", "labels": labels}, "status": {"phase": "Running"}}


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("", {}, True),
        ("app=x", {"app": "x"}, True),
        ("app==x", {"app": "y"}, False),
        ("app!=x", {}, True),
        ("app", {"app": ""}, True),
        ("!app", {"app": "x"}, False),
        ("app in (x, y),tier", {"app": "y", "tier": "1"}, True),
        ("app in (x,y)", {}, False),
        ("app notin (x)", {}, True),
        ("a.dev/n > 3", {"a.dev/n": "4"}, True),
        ("n<3", {"n": "3"}, False),
        ("n<3", {"n": "many"}, False),
        ("app=", {"app": ""}, True),
    ],
)
def test_label_selectors_match_as_in_kubernetes(selector: str, labels: dict[str, str], matches: bool) -> None:
    """Requirements are and-ed; != and notin match objects without the key."""
    assert parse(selector, "", kinds.POD).matches(_obj(**labels)) is matches


@pytest.mark.parametrize("selector", ["a b", "a in x", "=x", "a=b=c", "n>x", "a=ü", "-a"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    """A selector that can't be parsed selects nothing silently: it is an error."""
    with pytest.raises(SelectorError):
        parse(selector, "", kinds.POD)


def test_fields_compare_the_paths_kubernetes_serves() -> None:
    """= and != on metadata.name and the kind's own paths; any other path is an error that names it."""
    assert parse("", "metadata.name=a,status.phase!=Failed", kinds.POD).matches(_obj())
    assert not parse("", "metadata.name=b", kinds.POD).matches(_obj())
    assert parse("", "metadata.name=a", kinds.POD).exact_name() == "a"
    with pytest.raises(SelectorError, match=r"field label not supported: spec\.replicas"):
        parse("", "spec.replicas=1", kinds.DEPLOYMENT)
