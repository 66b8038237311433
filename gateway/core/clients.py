"""How many connections each client has.

A client is an IPv4 address, or the /64 network of an IPv6 one: whoever has one address there has 2^64. The map holds
clients with a connection only, so it is never larger than the number of connections.
"""

from __future__ import annotations

from ipaddress import IPv6Address

__all__ = ["ClientCounts", "client_of"]


def client_of(address: str) -> str:
    """What stands for the client that connects from `address`, a textual IP address."""
    if ":" not in address:
        return address
    parsed = IPv6Address(address)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> 64:x}::/64"


class ClientCounts:
    """Connections by client, over all listeners of a worker. `limit` is for each, 0 for no limit: then nobody needs to
    call."""

    __slots__ = ("_counts", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def enter(self, address: str) -> int:
        """A connection from `address` is here; how many the client has now. To be followed by `leave`."""
        client = client_of(address)
        count = self._counts[client] = self._counts.get(client, 0) + 1
        return count

    def leave(self, address: str) -> None:
        """A connection from `address` has ended."""
        client = client_of(address)
        count = self._counts[client] - 1
        if count:
            self._counts[client] = count
        else:
            del self._counts[client]
