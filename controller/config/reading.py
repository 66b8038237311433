"""Reading the values of a ConfigMap: strings in, typed and bounded values out, or an error that helps.

A ConfigMap holds only strings. Each module beside this one wraps its map in a `Reader` and asks for keys with their
default and bounds; the first value that does not fit raises `ConfigError` with the map, the key, the value and what
would be right. Keys nobody asks for are ignored, `_example` (the documentation inside the map) among them: an older
zerogate must start with a newer one's maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from controller.apis.durations import format_duration, parse_duration
from controller.apis.quantities import parse_integer, parse_number, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INT32_MAX = 2**31 - 1
# The spellings of Go's strconv.ParseBool.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class ConfigError(ValueError):
    """A ConfigMap that cannot be used; the text names map, key, value and what would be right."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Typed access to the data of one ConfigMap. Every method returns `default` where the key is absent and raises
    ConfigError where the value does not fit. Bounds are inclusive."""

    name: str
    data: Mapping[str, str]

    def error(self, key: str, wanted: str) -> ConfigError:
        """The error to raise for a key that is present with a value that is not `wanted`."""
        return ConfigError(f'{self.name}: {key} is "{self.data.get(key, "")}", must be {wanted}')

    def text(self, key: str, default: str) -> str:
        """The trimmed value; an empty one counts as absent."""
        return self.data.get(key, "").strip() or default

    def integer(self, key: str, default: int, *, low: int = 0, high: int = INT32_MAX) -> int:
        """A whole number in decimal."""
        raw = self.text(key, "")
        if not raw:
            return default
        try:
            value = parse_integer(raw)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            span = f"of at least {low}" if high == INT32_MAX else f"from {low} to {high}"
            raise self.error(key, f"a whole number {span}")
        return value

    def number(self, key: str, default: float, *, low: float, high: float | None = None, above: bool = False) -> float:
        """A decimal number; with `above`, `low` itself is out of bounds."""
        raw = self.text(key, "")
        if not raw:
            return default
        try:
            value = parse_number(raw)
        except ValueError:
            value = float("-inf")
        if value < low or (above and value == low) or (high is not None and value > high):
            span = f"above {low:g}" if above else f"of at least {low:g}"
            raise self.error(key, f"a number {span}" + ("" if high is None else f" and at most {high:g}"))
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """`true` or `false`, in any of the spellings that Go takes."""
        raw = self.text(key, "")
        if not raw:
            return default
        if raw not in _TRUE and raw not in _FALSE:
            raise self.error(key, "true or false")
        return raw in _TRUE

    def duration(
        self, key: str, default: float, *, low: float = 0.0, high: float | None = None, whole: bool = False
    ) -> float:
        """A Go duration in seconds; `whole` refuses fractions of a second."""
        raw = self.text(key, "")
        if not raw:
            return default
        wanted = f"a duration{' of whole seconds' if whole else ''} of at least {format_duration(low)}"
        wanted += ' such as "90s"' if high is None else f" and at most {format_duration(high)}"
        try:
            value = parse_duration(raw)
        except ValueError:
            raise self.error(key, wanted) from None
        if value < low or (high is not None and value > high) or (whole and value % 1):
            raise self.error(key, wanted)
        return value

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """One of `choices`, in their spelling, whatever the case of the value."""
        raw = self.text(key, "")
        if not raw:
            return default
        for choice in choices:
            if raw.lower() == choice.lower():
                return choice
        raise self.error(key, "one of " + ", ".join(choices))

    def quantity(self, key: str) -> str | None:
        """A Kubernetes quantity (`500m`, `128Mi`) as it stands, or None where it is absent."""
        raw = self.text(key, "")
        if not raw:
            return None
        try:
            value = parse_quantity(raw)
        except ValueError:
            value = Decimal(-1)
        if value < 0:
            raise self.error(key, 'a quantity such as "500m" or "128Mi"')
        return raw
