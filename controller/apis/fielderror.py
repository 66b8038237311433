"""What is wrong with an object, in Knative's words: a problem, the fields it concerns, and sometimes a detail.

People know these texts from Knative (`Traffic targets sum to 99, want 100: spec.traffic`), and scripts match them.
Several fields with the same problem are one error that lists them all; `merged` does that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One problem. `path` is a field path (`spec.traffic[0].tag`), or several joined by ", "."""

    path: str
    message: str
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.message}: {self.path}"
        return f"{text}\n{self.detail}" if self.detail else text


Errors = list[FieldError]


def missing(*paths: str) -> FieldError:
    """One error for fields that are all required."""
    return FieldError(", ".join(paths), "missing field(s)")


def disallowed(path: str, detail: str = "") -> FieldError:
    """A field that may not be set."""
    return FieldError(path, "must not set the field(s)", detail)


def invalid(path: str, value: object, detail: str = "") -> FieldError:
    """`value` is shown as JSON would: `true`, not `True`."""
    shown = str(value).lower() if isinstance(value, bool) else value
    return FieldError(path, f"invalid value: {shown}", detail)


def out_of_bounds(path: str, value: object, low: object, high: object) -> FieldError:
    """A value outside a range, bounds included, which are written as given."""
    return FieldError(path, f"expected {low} <= {value} <= {high}")


def exactly_one(path: str, *found: str, among: tuple[str, ...]) -> FieldError | None:
    """The error for a union of which not exactly one member is set; `found` and `among` are field names in `path`."""
    if len(found) == 1:
        return None
    got, names = ("both", found) if found else ("neither", among)
    return FieldError(", ".join(join(path, name) for name in names), f"expected exactly one, got {got}")


def join(path: str, name: str) -> str:
    """The path of a field in the object at `path`; "" is the object itself."""
    return f"{path}.{name}" if path else name


def merged(errors: Errors) -> Errors:
    """The errors with those of equal problem and detail made one, sorted by problem, then detail."""
    paths: dict[tuple[str, str], list[str]] = {}
    for error in errors:
        known = paths.setdefault((error.message, error.detail), [])
        if error.path not in known:
            known.append(error.path)
    return [FieldError(", ".join(paths[key]), *key) for key in sorted(paths)]
