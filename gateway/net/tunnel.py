"""Bytes both ways after an Upgrade, until both sides have ended.

End of file from one side is passed to the other, which may still have something to say (RFC 9112 has no word on it; TCP
has: half-close). The tunnel is over when both have ended, or when either connection is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.net.sides import Responder
    from gateway.net.upstream import Upstream

__all__ = ["Tunnel"]


class Tunnel:
    """Joins two connections that have both switched protocols."""

    __slots__ = ("_client_ended", "_downstream", "_endpoint_ended", "_upstream")

    def __init__(self, downstream: Responder, upstream: Upstream) -> None:
        self._downstream = downstream
        self._upstream = upstream
        self._client_ended = False
        self._endpoint_ended = False

    def client_ended(self) -> bool:
        """The client sent its last byte. True if that ends the tunnel."""
        self._client_ended = True
        if not self._endpoint_ended:
            self._upstream.write_end()
        return self._endpoint_ended

    def endpoint_ended(self) -> bool:
        """The endpoint sent its last byte. True if that ends the tunnel."""
        self._endpoint_ended = True
        if not self._client_ended:
            self._downstream.write_end()
        return self._client_ended

    def close(self) -> None:
        """Close both after what is already written."""
        self._upstream.close_tunnel()
        self._downstream.close_tunnel()
