"""The difference between two JSON values, for people: a line for each field that was and for each that is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from controller.apis.fielderror import join

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINES = 20
_WIDTH = 200
"""Enough to see what changed; a template can hold kilobytes of arguments."""


def difference(old: object, new: object) -> str:
    """Lines such as `-containers[0].image: "a"` and `+containers[0].image: "b"`; "" for equal values."""
    lines = list(_lines(old, new, ""))
    shown = [line if len(line) <= _WIDTH else line[:_WIDTH] + "…" for line in lines[:_LINES]]
    if len(lines) > _LINES:
        shown.append(f"… and {len(lines) - _LINES} more lines")
    return "\n".join(shown)


def _lines(old: object, new: object, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from _lines(old.get(name), new.get(name), join(path, name))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else None
            after = new[index] if index < len(new) else None
            yield from _lines(before, after, f"{path}[{index}]")
    elif old != new:
        if old is not None:
            yield f"-{path}: {json.dumps(old, ensure_ascii=False)}"
        if new is not None:
            yield f"+{path}: {json.dumps(new, ensure_ascii=False)}"
