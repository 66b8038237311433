"""The three clocks of a request: total, response start, idle.

Knative's fields (`timeoutSeconds`, `responseStartTimeoutSeconds`, `idleTimeoutSeconds`), with one decision of ours:
they count from dispatch, when an endpoint has been found, and not from arrival, so that a cold start does not eat a
request's time (users of Knative ask for it). Idle means no byte in either direction. An upgrade starts the response.

Pure: the owner keeps one timer, set to `next_deadline()`, and calls `on_deadline(now)` when it fires.
"""

from __future__ import annotations

from math import inf

from gateway.errors import GatewayError, IdleTimeout, RequestTimeout, ResponseStartTimeout

__all__ = ["Deadlines"]


class Deadlines:
    """Times are seconds on the loop's clock; None means no limit."""

    __slots__ = ("_idle", "_idle_from", "_start_at", "_total_at", "timeout")

    def __init__(self, now: float, timeout: float, response_start: float | None, idle: float | None) -> None:
        self.timeout = timeout
        self._total_at = now + timeout
        self._start_at = inf if response_start is None else now + response_start
        self._idle = inf if idle is None else idle
        self._idle_from = now

    @property
    def watches_idle(self) -> bool:
        """Whether `activity` needs to be told."""
        return self._idle != inf

    def activity(self, now: float) -> None:
        """A byte went one way or the other."""
        self._idle_from = now

    def response_started(self) -> None:
        """The response's head came, or a switch of protocols: that clock is out of the race."""
        self._start_at = inf

    def next_deadline(self) -> float:
        """When to call `on_deadline`; activity only ever moves it later."""
        return min(self._total_at, self._start_at, self._idle_from + self._idle)

    def on_deadline(self, now: float) -> GatewayError | None:
        """What has run out by `now`, None if nothing has."""
        if now >= self._total_at:
            return RequestTimeout(f"The request took longer than its revision's time-out of {self.timeout:g} s.")
        if now >= self._start_at:
            return ResponseStartTimeout("The revision did not start its response in time.")
        if now >= self._idle_from + self._idle:
            return IdleTimeout(f"No byte went either way for {self._idle:g} s.")
        return None
