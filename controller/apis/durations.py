"""Durations as Go writes them (`1m30s`), which is how Knative's annotations and ConfigMaps spell time.

Inside zerogate a time is float seconds; these two functions are the border. The grammar is that of Go's
`time.ParseDuration`: an optional sign, then numbers with units, or a bare `0`.
"""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),  # U+00B5
    "μs": Decimal("1e-6"),  # U+03BC
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LIMIT = Decimal(2**63 - 1) / Decimal(10**9)
"""Go counts in an int64 of nanoseconds (292 years); longer is an error there and here."""


def parse_duration(text: str) -> float:
    """The seconds in a Go duration. Raises ValueError with a sentence that says what would be right."""
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0.0
    total, position = Decimal(0), 0
    while match := _TERM.match(unsigned, position):
        total += Decimal(match[1]) * _UNITS[match[2]]
        position = match.end()
    if position == 0 or position != len(unsigned) or total > _LIMIT:
        raise ValueError(f'"{text}" is not a duration; write one such as "90s" or "1m30s"')
    return float(-total if text.startswith("-") else total)


def format_duration(seconds: float) -> str:
    """The duration as Go prints it: `1h0m0s`, `1m30s`, `6s`, `1.5s`, `0s`. Fractions are kept to the millisecond."""
    sign = "-" if seconds < 0 else ""
    millis = round(abs(seconds) * 1000)
    minutes, rest = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text
