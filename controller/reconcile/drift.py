"""Does an object still say what we want it to say?

An API server fills in defaults (a Service's clusterIP, a probe's periodSeconds), and JSON has several ways to say
nothing. Two questions are told apart: `same` (nothing more and nothing less, for fields only we write) and `covers`
(all we want is there, for objects that the server completes). Both treat an absent field, null, {}, [] and "" alike,
as Kubernetes' semantic equality does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.apis.meta import JsonObject


def same(have: Any, want: Any) -> bool:
    """Equal, except that there are several ways to say nothing."""
    if _is_nothing(have) and _is_nothing(want):
        return True
    if isinstance(have, dict) and isinstance(want, dict):
        return all(same(have.get(key), want.get(key)) for key in have.keys() | want.keys())
    if isinstance(have, list) and isinstance(want, list):
        return len(have) == len(want) and all(map(same, have, want))
    return bool(have == want)


def covers(have: Any, want: Any) -> bool:
    """Everything wanted is there; fields that `want` does not name may hold anything. Lists match item by item."""
    if _is_nothing(want):
        return True
    if isinstance(have, dict) and isinstance(want, dict):
        return all(covers(have.get(key), value) for key, value in want.items())
    if isinstance(have, list) and isinstance(want, list):
        return len(have) == len(want) and all(map(covers, have, want))
    return bool(have == want)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list | str) and not value)


def changed(
    obj: JsonObject,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    spec: JsonObject | None = None,
) -> JsonObject:
    """A copy of `obj` with those parts replaced, its resourceVersion kept, ready to be a plan's update."""
    meta = dict(obj["metadata"])
    if labels is not None:
        meta["labels"] = dict(labels)
    if annotations is not None:
        meta["annotations"] = dict(annotations)
    new = {**obj, "metadata": meta}
    if spec is not None:
        new["spec"] = spec
    return new
