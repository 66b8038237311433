"""gateway.core.deadlines: three clocks, one timer."""

from __future__ import annotations

from gateway.core.deadlines import Deadlines
from gateway.errors import IdleTimeout, RequestTimeout, ResponseStartTimeout


def test_total_counts_from_dispatch_whatever_happens() -> None:
    """`timeoutSeconds` fires regardless of progress."""
    clocks = Deadlines(10.0, 5.0, None, None)
    clocks.activity(14.9)
    clocks.response_started()
    assert clocks.next_deadline() == 15.0
    assert clocks.on_deadline(14.999) is None
    assert isinstance(clocks.on_deadline(15.0), RequestTimeout)


def test_response_start_ends_with_the_response() -> None:
    """It only limits the wait for the head."""
    clocks = Deadlines(0.0, 100.0, 2.0, None)
    assert clocks.next_deadline() == 2.0
    assert isinstance(clocks.on_deadline(2.0), ResponseStartTimeout)
    clocks.response_started()
    assert clocks.on_deadline(2.0) is None
    assert clocks.next_deadline() == 100.0


def test_idle_moves_with_each_byte() -> None:
    """`idleTimeoutSeconds` is the longest silence."""
    clocks = Deadlines(0.0, 100.0, None, 3.0)
    assert clocks.watches_idle
    clocks.activity(2.0)
    assert clocks.on_deadline(3.0) is None
    assert clocks.next_deadline() == 5.0
    assert isinstance(clocks.on_deadline(5.0), IdleTimeout)
    assert not Deadlines(0.0, 100.0, None, None).watches_idle
