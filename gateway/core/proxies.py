"""Whom to believe about where a request came from.

Each proxy on a request's way appends the address it got it from to X-Forwarded-For. The last address is one that this
gateway has seen itself: its peer. Each one before it is the word of the one after it. So the chain is followed from its
end for as long as the addresses are those of trusted proxies; the first other one is the client.

A client may send a chain as long as a head may be, of thousands of hops, and in HTTP/2 by a few bytes that point to a
table. Reading it took 15 ms, and writing it as Forwarded made a head five times as long. So the last MAX_HOPS count.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_HOPS", "NO_PROXIES", "Network", "TrustedProxies", "last_hops", "nodes_of"]

Network = IPv4Network | IPv6Network

MAX_HOPS = 100  # far beyond any real chain; a request's default limit on fields, too

# RFC 7239 section 4: a `for` pair, its value a token or a quoted string.
_FOR = re.compile(rb'(?:^|[;,])[ \t]*[Ff][Oo][Rr]=(?:"([^"\\]*)"|([^;,"\\ \t]+))')


class TrustedProxies:
    """The networks whose word counts; false if there are none."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: bytes) -> bool:
        """Whether `address`, as text, belongs to a trusted proxy."""
        return bool(self._networks) and self._holds(_parsed(address))

    def client(self, chain: bytes, peer: bytes) -> bytes:
        """The address of the client by a chain like X-Forwarded-For's, with `peer` after its end. What is no address is
        not believed, and neither is what stands before it."""
        client = peer
        for hop in reversed(last_hops(chain).split(b",")):
            address = _parsed(hop)
            if address is None:
                break
            client = str(address).encode()
            if not self._holds(address):
                break
        return client

    def _holds(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


NO_PROXIES = TrustedProxies(())


def last_hops(chain: bytes) -> bytes:
    """The end of a chain like X-Forwarded-For's: MAX_HOPS hops at most, the ones nearest to us."""
    if chain.count(b",") < MAX_HOPS:
        return chain
    return b",".join(chain.rsplit(b",", MAX_HOPS)[1:]).lstrip(b" \t")


def nodes_of(forwarded: bytes) -> bytes:
    """The `for` nodes of a Forwarded value, as a chain like X-Forwarded-For's."""
    return b", ".join(quoted or token for quoted, token in _FOR.findall(forwarded))


def _parsed(hop: bytes) -> IPv4Address | IPv6Address | None:
    """An address that may have a port and brackets (Azure's X-Forwarded-For, RFC 7239's nodes); None for anything
    else, IPv6 zones included, which mean nothing elsewhere."""
    text = hop.strip(b" \t")
    if text.startswith(b"["):
        text = text[1:].partition(b"]")[0]
    elif text.count(b":") == 1:
        text = text.partition(b":")[0]
    try:
        address = ip_address(text.decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id is not None else address.ipv4_mapped or address
    return address
