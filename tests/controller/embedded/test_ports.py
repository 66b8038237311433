"""Host ports: free, distinct, not soon again."""

from __future__ import annotations

import socket

import pytest

from controller.embedded.ports import NoPort, PortAllocator


def free_range(count: int) -> int:
    """The first of `count` ports in a row that nobody uses, outside of the range that platforms on this machine use."""
    return next(low for low in range(30100, 32700, count) if all(_binds(port) for port in range(low, low + count)))


def _binds(port: int) -> bool:
    """Nobody listens there, and no connection that has just ended holds it either."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def test_ports_are_distinct_and_a_released_one_is_last_in_line():
    """Endpoints may still name a port that was just given back, so every other one goes first."""
    low = free_range(10)
    ports = PortAllocator(low=low, high=low + 9)
    first = ports.take()
    ports.release(first)
    assert [ports.take() for _ in range(10)][-1] == first


def test_a_port_in_use_is_passed_over():
    """A port that something else listens on is not handed out."""
    low = free_range(4)
    with socket.create_server(("127.0.0.1", low)):
        assert PortAllocator(low=low, high=low + 3).take() == low + 1


def test_a_held_port_is_never_handed_out():
    """A port kept aside stays aside, even when it is the last."""
    low = free_range(2)
    ports = PortAllocator(low=low, high=low + 1)
    ports.hold(low)
    assert ports.take() == low + 1
    with pytest.raises(NoPort):
        ports.take()


def test_the_offset_is_where_it_begins():
    """Two platforms with different offsets do not walk the range in step; beyond the range it wraps."""
    low = free_range(4)
    assert PortAllocator(low=low, high=low + 3, offset=4002).take() == low + 2


def test_none_left_says_so():
    """The error names the range and that all of it is in use."""
    low = free_range(1)
    ports = PortAllocator(low=low, high=low)
    ports.take()
    with pytest.raises(NoPort, match=f"all 1 ports from {low} on are in use"):
        ports.take()
