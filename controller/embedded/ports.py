"""Host ports for pods: every replica on one machine needs its own.

Ports are handed out round robin from 20000–29999 (below the ephemeral ranges of Linux, 32768+, and macOS, 49152+, so
that an outgoing connection doesn't take one first), so a port is not used again before 10,000 others were: a client
that still talks to a dead replica meets a refusal, not a stranger. Each is tried with a bind before, without
SO_REUSEADDR, which also passes over ports in TIME_WAIT. Between that bind and the application's own another program
could take the port; then the application fails and the pod says so.
"""

from __future__ import annotations

import socket

LOW, HIGH = 20000, 29999


class NoPort(Exception):
    """All ports of the range are taken."""


class PortAllocator:
    """Hands out ports in [low, high]; `offset` is where to begin, so that two instances don't walk in step."""

    def __init__(self, *, low: int = LOW, high: int = HIGH, offset: int = 0) -> None:
        self._low = low
        self._count = high - low + 1
        self._next = offset % self._count
        self._held: set[int] = set()

    def propose(self) -> int:
        """A port nobody is bound to, for somebody who will `hold` it or not. Raises NoPort."""
        for _ in range(self._count):
            port = self._low + self._next
            self._next = (self._next + 1) % self._count
            if port not in self._held and _is_free(port):
                return port
        raise NoPort(f"all {self._count} ports from {self._low} on are in use on this machine")

    def take(self) -> int:
        """A port nobody is bound to, held until `release`. Raises NoPort."""
        port = self.propose()
        self._held.add(port)
        return port

    def hold(self, port: int) -> None:
        """Don't hand this port out before its `release`: endpoints name it, and must not lead to another pod."""
        self._held.add(port)

    def release(self, port: int) -> None:
        self._held.discard(port)


def _is_free(port: int) -> bool:
    """Bound to all addresses, so that a listener on any of them counts; it never listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
