"""Tells when the client of a half-closed connection has in fact left.

Theory of operation
-------------------
End of file says that the peer will send no more; whether it still reads, TCP does not say (RFC 9293 section 3.6). It
shows when something is sent: a peer whose socket is closed answers with a reset. So whoever wants to know sends a byte,
and this watches for the reset, on a connection whose read side is at its end and which the event loop therefore no
longer looks at: an epoll set of its own, asked for nothing but the two conditions that epoll always reports, error and
hang-up (epoll_ctl(2)). Registered with the loop as one more readable descriptor, it costs nothing until it fires.

Where nothing can be sent (a response's head is out and its content pauses), the kernel's keep-alive probes ask in our
place. A host that closed its socket answers those as well, while it waits for our side to close: 60 s on Linux
(tcp_fin_timeout); from then on it answers with a reset. So a silent client that left is noticed in about 75 s.

Only Linux has epoll. Elsewhere `watch` says no, and end of file counts as the client's leaving.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ResetWatch"]

KEEP_ALIVE_PROBES = 15
"""Seconds between the kernel's probes of a half-closed connection."""


class ResetWatch:
    """The half-closed connections of one listener. To be made within the running loop."""

    __slots__ = ("_epoll", "_loop", "_watched")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll: select.epoll | None = None  # made for the first half-closed connection: there may never be one
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, transport: asyncio.Transport, on_reset: Callable[[], None], *, ends: bool = False) -> bool:
        """Have `on_reset` called, at most once, when the peer resets the connection; with `ends`, or when it sends end
        of file, however much is unread before that. False if this system can't tell. Watching ends with `forget`."""
        if not hasattr(select, "epoll"):
            return False
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._on_event)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_PROBES)
        self._epoll.register(sock.fileno(), select.EPOLLONESHOT | (select.EPOLLRDHUP if ends else 0))
        self._watched[sock.fileno()] = on_reset
        return True

    def forget(self, transport: asyncio.Transport) -> None:
        """To be called while the connection's descriptor is still its own: in `connection_lost` at the latest."""
        descriptor = transport.get_extra_info("socket").fileno()
        if self._epoll is not None and self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Watch no more."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
            self._watched.clear()

    def _on_event(self) -> None:
        if self._epoll is not None:
            for descriptor, _ in self._epoll.poll(0):
                self._watched[descriptor]()
