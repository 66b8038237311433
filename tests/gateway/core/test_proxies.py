"""gateway.core.proxies: how far a chain is believed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.proxies import MAX_HOPS, NO_PROXIES, TrustedProxies, last_hops, nodes_of

EDGE = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        (b"10.1.2.3", True),
        (b"::ffff:10.1.2.3", True),
        (b"11.1.2.3", False),
        (b"2001:db8::1", True),
        (b"2001:db9::1", False),
        (b"unknown", False),
        (b"", False),
    ],
)
def test_who_is_trusted(address: bytes, trusted: bool) -> None:
    """An address in one of the networks, however it is written."""
    assert EDGE.trusts(address) == trusted
    assert not NO_PROXIES.trusts(address)


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"", b"10.0.0.1"),
        (b"1.1.1.1", b"1.1.1.1"),
        (b"9.9.9.9, 1.1.1.1", b"1.1.1.1"),
        (b"9.9.9.9, 1.1.1.1,10.2.2.2 , 2001:db8::7", b"1.1.1.1"),
        (b"10.3.3.3, 10.2.2.2", b"10.3.3.3"),
        (b"1.1.1.1, unknown, 10.2.2.2", b"10.2.2.2"),
        (b"1.1.1.1:4711, 10.2.2.2:80", b"1.1.1.1"),
        (b"[2001:db9::5]:443", b"2001:db9::5"),
        (b'fe80::1%"', b"10.0.0.1"),
        (b"1.1.1.1,,", b"10.0.0.1"),
    ],
)
def test_the_client_of_a_chain(chain: bytes, client: bytes) -> None:
    """The last address that is no trusted proxy's; what is no address ends the search."""
    assert EDGE.client(chain, b"10.0.0.1") == client


@given(st.binary(max_size=60))
def test_a_client_is_an_address_whatever_the_chain_says(chain: bytes) -> None:
    """So it needs no escaping in a log."""
    assert set(EDGE.client(chain, b"10.0.0.1")) <= set(b"0123456789abcdef.:")


@pytest.mark.parametrize(
    ("value", "chain"),
    [
        (b"for=1.1.1.1", b"1.1.1.1"),
        (b'proto=https;For="[::1]:80", for=2.2.2.2;by=x', b"[::1]:80, 2.2.2.2"),
        (b"by=for=1.1.1.1", b""),
        (b"for=_hidden", b"_hidden"),
        (b"", b""),
    ],
)
def test_nodes_of_a_forwarded_field(value: bytes, chain: bytes) -> None:
    """RFC 7239 section 4."""
    assert nodes_of(value) == chain


def test_of_a_long_chain_its_end_counts() -> None:
    """What is nearest to us is known best, and a request must not cost what thousands of hops would."""
    assert last_hops(b"") == b""
    hops = [b"10.0.%d.%d" % divmod(number, 256) for number in range(MAX_HOPS + 1)]
    assert last_hops(b", ".join(hops[1:])) == b", ".join(hops[1:])
    assert last_hops(b", ".join(hops)) == b", ".join(hops[1:])
    assert EDGE.client(b"1.1.1.1, " + b", ".join(hops), b"10.9.9.9") == hops[1]
