"""The listening sockets of a gateway, bound by the parent before all else, or taken over from its last image.

Theory of operation
-------------------
With several workers each gets a socket of its own for each address (SO_REUSEPORT, the kernel spreads the connections).
The parent keeps them all open, so that what waits on a socket outlives the worker that serves it, and the parent's own
image too (`gateway.supervisor`): closing a listening socket resets the connections in its queue, those whose handshake
is on its way included, even if another socket listens on the same port.

When the gateway stops for good nobody takes over. So that no client that got through is reset, `refuse` has the kernel
drop what would begin a new connection, while what has begun completes, is accepted and served. A client whose SYN was
dropped sends it again after a second, and is refused or finds whoever listens then. That is a classic BPF filter on the
socket (socket(7), SO_ATTACH_FILTER), which sees TCP headers and needs no privilege; elsewhere than on Linux the sockets
just close.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from gateway.config import Address, ConfigError, GatewayConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ADMIN", "Listeners", "bind"]

ADMIN = "admin"

# linux/filter.h: load the flags of the TCP header; if of SYN and ACK only SYN is set, drop, else pass the whole.
_FILTER = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),
        (0x54, 0, 0, 0x12),
        (0x15, 0, 1, 0x02),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    )
)
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it

Role = list[list[socket.socket]]
"""For each worker its sockets for one purpose."""


class Listeners:
    """`roles` by the names that `Assignment` has for them, and ADMIN, whose sockets are the parent's own.
    `addresses` are those asked for, by the same names."""

    def __init__(self, roles: dict[str, Role], addresses: dict[str, Address]) -> None:
        self._roles = roles
        self.addresses = addresses
        self.admin = roles[ADMIN][0]

    def of(self, index: int) -> dict[str, list[socket.socket]]:
        """One worker's sockets by role."""
        return {name: role[index] for name, role in self._roles.items() if name != ADMIN}

    def bound(self, name: str) -> Address:
        """Where the listener of that role really is: a port 0 has become a number."""
        return _name(self._roles[name][0][0])

    def descriptors(self) -> dict[str, list[list[int]]]:
        """By role and worker."""
        return {name: [[sock.fileno() for sock in one] for one in role] for name, role in self._roles.items()}

    def refuse(self) -> None:
        """Let nothing new arrive on the workers' sockets; what has arrived can still be accepted."""
        if sys.platform != "linux":
            return
        program = ctypes.create_string_buffer(_FILTER)
        option = struct.pack("HP", len(_FILTER) // 8, ctypes.addressof(program))
        for sock in self._workers_sockets():
            with suppress(OSError):  # a sandbox may not let us; then arrivals of the last moment are lost, as elsewhere
                sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)

    def close(self) -> None:
        """Close the workers' sockets; the workers have their own descriptors of them."""
        for sock in self._workers_sockets():
            sock.close()

    def _workers_sockets(self) -> Iterator[socket.socket]:
        for name, role in self._roles.items():
            if name != ADMIN:
                for one in role:
                    yield from one


def bind(config: GatewayConfig, inherited: Mapping[tuple[str, str], list[list[int]]]) -> Listeners:
    """Listen where the configuration says. `inherited` are the descriptors that the parent's last image left, by role
    and address; what is not wanted of them is closed. Raises ConfigError."""
    addresses = {"external": config.listen, "cluster_local": config.cluster_local_listen, ADMIN: config.admin_listen}
    if config.tls_listen is not None:
        addresses["tls"] = config.tls_listen
    left = dict(inherited)
    roles = {}
    for name, address in addresses.items():
        workers = 1 if name == ADMIN else config.workers
        descriptors = left.get((name, str(address)), [])
        if len(descriptors) == workers:
            del left[name, str(address)]
            roles[name] = [[_adopted(one) for one in each] for each in descriptors]
        else:
            roles[name] = _bind(address, workers)
    for unwanted in left.values():
        for each in unwanted:
            for one in each:
                socket.close(one)
    return Listeners(roles, addresses)


def _adopted(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    sock.set_inheritable(False)  # only by the workers they are for
    return sock


def _name(sock: socket.socket) -> Address:
    return Address(*sock.getsockname()[:2])


def _bind(address: Address, workers: int) -> list[list[socket.socket]]:
    """Sockets for each worker. 127.0.0.1 brings [::1] along: *.localhost resolves to either. Raises ConfigError."""
    # SO_REUSEPORT would let a second gateway share the port unnoticed; the first socket of each address is therefore
    # bound without it, as a test, where there are to be several.
    if workers > 1:
        probe = _bound(address, shared=False)
        address = Address(address.host, _name(probe).port)
        probe.close()
    first = _bound(address, shared=workers > 1)
    address = Address(address.host, _name(first).port)
    result = [[first], *([_bound(address, shared=True)] for _ in range(workers - 1))]
    if address.host == "127.0.0.1" and socket.has_ipv6:
        for bound in result:
            try:
                bound.append(_bound(Address("::1", address.port), shared=workers > 1))
            except ConfigError:
                if _has_ipv6_loopback():
                    raise
    return result


def _bound(address: Address, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            _listen(sock, target, shared=shared)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{address} is in use by another program; choose another port or stop that one."
            ) from error
        raise ConfigError(f"It can't listen on {address}: {error.strerror or error}.") from error
    return sock


def _listen(sock: socket.socket, target: tuple[object, ...], *, shared: bool) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(target)
    sock.listen(1024)
    sock.setblocking(False)


def _has_ipv6_loopback() -> bool:
    try:
        _bound(Address("::1", 0), shared=False).close()
    except ConfigError:
        return False
    return True
