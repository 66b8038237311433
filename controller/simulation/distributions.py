"""Times by chance, written as a person would say them.

    200ms                   always that
    uniform:100ms-300ms     anything between, evenly
    exponential:200ms       the mean of an exponential distribution
    lognormal:200ms,1s      its median and its 99th percentile, as measured service and start times often are

Durations are Go's (`200ms`, `1.5s`, `1m30s`) or plain seconds.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from controller.apis.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

__all__ = ["DistributionError", "distribution"]

_Z99 = 2.3263478740408408
"""The 99th percentile of the standard normal distribution."""


class DistributionError(ValueError):
    """A text that is none of the above; says what would be right."""


def distribution(text: str, random: Random) -> Callable[[], float]:
    """What gives a time in seconds at each call. Raises DistributionError."""
    name, colon, rest = text.partition(":")
    match name if colon else "":
        case "":
            constant = _seconds(text)
            return lambda: constant
        case "uniform":
            low, high = _pair(text, rest, "-")
            return lambda: random.uniform(low, high)
        case "exponential":
            mean = _positive(text, rest)
            return lambda: random.expovariate(1.0 / mean)
        case "lognormal":
            median, high = _pair(text, rest, ",")
            if median <= 0:
                raise DistributionError(f"{text!r}: the median must be above 0")
            sigma = log(high / median) / _Z99
            return lambda: random.lognormvariate(log(median), sigma)
    raise DistributionError(
        f"{text!r} is no time; it should be like 200ms, uniform:100ms-300ms, exponential:200ms or lognormal:200ms,1s"
    )


def _pair(text: str, rest: str, separator: str) -> tuple[float, float]:
    low, found, high = rest.partition(separator)
    if not found or _seconds(low) > _seconds(high):
        raise DistributionError(f"{text!r} should have two times, the smaller one first, like 100ms{separator}300ms")
    return _seconds(low), _seconds(high)


def _positive(text: str, rest: str) -> float:
    value = _seconds(rest)
    if value <= 0:
        raise DistributionError(f"{text!r}: the mean must be above 0")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text)
    except ValueError:
        value = -1.0
    if value < 0:
        raise DistributionError(f"{text!r} is no duration; it should be like 200ms, 1.5s or 2")
    return value
