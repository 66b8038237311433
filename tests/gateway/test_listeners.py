"""The gateway's listening sockets: bound, inherited, closed to new connections."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import Address, ConfigError, GatewayConfig
from gateway.listeners import ADMIN, Listeners, bind

CONFIG = GatewayConfig(
    feed_url="ws://127.0.0.1:1/v1/feed",
    feed_token_file=Path("token"),
    listen=Address("127.0.0.1", 0),
    cluster_local_listen=Address("127.0.0.1", 0),
    admin_listen=Address("127.0.0.1", 0),
)


def close(listeners: Listeners) -> None:
    listeners.close()
    for sock in listeners.admin:
        sock.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_each_worker_has_its_own_sockets_on_one_port(workers: int) -> None:
    """And as many for cluster-local hosts; the admin port has one."""
    listeners = bind(replace(CONFIG, workers=workers), {})
    for role in ("external", "cluster_local"):
        ports = {sock.getsockname()[1] for index in range(workers) for sock in listeners.of(index)[role]}
        assert ports == {listeners.bound(role).port}
    descriptors = [sock.fileno() for index in range(workers) for each in listeners.of(index).values() for sock in each]
    assert len(set(descriptors)) == len(descriptors)
    assert ADMIN not in listeners.of(0)
    close(listeners)


def test_what_the_last_image_left_is_taken_over() -> None:
    """The same sockets, where address and number of workers are the same; what is not wanted any more is closed."""
    first = bind(replace(CONFIG, workers=2), {})
    port = first.bound("external").port
    left = {
        (role, str(first.addresses[role])): [[os.dup(one) for one in each] for each in workers]
        for role, workers in first.descriptors().items()
    }
    close(first)
    unwanted = left[ADMIN, "127.0.0.1:0"][0][0]
    second = bind(replace(CONFIG, workers=2, admin_listen=Address("127.0.0.2", 0)), left)
    assert second.bound("external").port == port
    assert second.bound(ADMIN).host == "127.0.0.2"
    assert not any(sock.get_inheritable() for sock in second.of(1)["external"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(unwanted)
    with socket.create_connection(("127.0.0.1", port)):
        pass
    close(second)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_in_use(workers: int) -> None:
    """One sentence with the address, even where sockets could share the port."""
    listeners = bind(replace(CONFIG, workers=workers), {})
    address = listeners.bound("external")
    with pytest.raises(ConfigError, match=f"{address} is in use"):
        bind(replace(CONFIG, workers=workers, listen=address), {})
    close(listeners)


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_refused_connections_are_the_new_ones_only() -> None:
    """What was connected before can be accepted and goes on; nothing joins it."""
    listeners = bind(CONFIG, {})
    (listening, *_) = listeners.of(0)["external"]
    address = listening.getsockname()
    with socket.create_connection(address) as before, socket.socket() as late:
        before.sendall(b"early")
        listeners.refuse()
        before.sendall(b"late")
        late.setblocking(False)
        late.connect_ex(address)
        accepted, _ = listening.accept()
        with accepted:
            accepted.setblocking(True)
            assert accepted.recv(9, socket.MSG_WAITALL) == b"earlylate"
        with pytest.raises(BlockingIOError):
            listening.accept()
    close(listeners)
