"""Numbers that arrive as strings: Kubernetes quantities (`500m`, `1.5Gi`, `2e3`), integers and decimals.

The grammar of a quantity is Kubernetes' own: a signed decimal number with either a binary suffix (Ki…Ei), a decimal
suffix (n…E) or a decimal exponent. Values are exact Decimals, so `0.1` and `100m` are the same amount. Integers and
decimals are read by a digits-only rule: Python's own `int` and `float` take `1_0`, `١` and `nan`.
"""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)|[eE]([+-]?[0-9]{1,2}))?", re.ASCII
)
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
_SUFFIXES = {
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1000) ** -power for power, suffix in enumerate(("m", "u", "n"), 1)},
}


def parse_quantity(text: str) -> Decimal:
    """The amount in base units (cores, bytes). Raises ValueError for what is not a quantity."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a quantity; write one such as "500m" or "128Mi"')
    number, suffix, exponent = match.groups()
    scale = _SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0)
    return Decimal(number) * scale


def parse_integer(text: str) -> int:
    """The whole number in `text`. Raises ValueError."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f'"{text}" is not a whole number')
    return int(text)


def parse_number(text: str) -> float:
    """The decimal number in `text`. Raises ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f'"{text}" is not a number')
    return float(text)
