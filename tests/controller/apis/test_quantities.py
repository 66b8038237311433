"""Numbers in strings."""

from decimal import Decimal

import pytest

from controller.apis.quantities import parse_integer, parse_number, parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", "0"),
        ("1", "1"),
        ("500m", "0.5"),
        ("0.1", "0.1"),
        ("100n", "1E-7"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("1G", "1000000000"),
        ("2e3", "2000"),
        ("1E", "1000000000000000000"),
        ("-1", "-1"),
        (".5", "0.5"),
    ],
)
def test_quantity(text: str, amount: str) -> None:
    """Decimal and binary suffixes and exponents give the exact amount."""
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "1gi", "1KiB", "1_000", "0x10", "nan", "1e", "--1"])
def test_not_a_quantity(text: str) -> None:
    """Wrong case, spaces and other languages' numbers are refused."""
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["", "1_0", "1.0", " 1", "٣", "0x1", "1" * 30])
def test_not_an_integer(text: str) -> None:
    """Python's own int() takes some of these."""
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_integer(text)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_0", "1e", " 1", "1e999"])
def test_not_a_number(text: str) -> None:
    """Python's own float() takes some of these."""
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(text)


def test_numbers() -> None:
    """Signs, fractions and exponents are read."""
    assert (parse_integer("-7"), parse_integer("+7"), parse_number("1e3"), parse_number("-.5")) == (-7, 7, 1000.0, -0.5)
