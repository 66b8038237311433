"""gateway.core.clients: who counts as one client."""

from __future__ import annotations

import pytest

from gateway.core.clients import ClientCounts, client_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%2", "fe80::2%2", True),
    ],
)
def test_who_is_one_client(one: str, other: str, same: bool) -> None:
    """An IPv4 address, however it is written; the /64 network of an IPv6 address."""
    assert (client_of(one) == client_of(other)) == same


def test_counts_and_forgets() -> None:
    """No trace is left of a client that is gone."""
    counts = ClientCounts(2)
    assert [counts.enter("::1"), counts.enter("10.0.0.1"), counts.enter("::2")] == [1, 1, 2]
    assert len(counts) == 2
    for address in ("::1", "::2", "10.0.0.1"):
        counts.leave(address)
    assert len(counts) == 0
