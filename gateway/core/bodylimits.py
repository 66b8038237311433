"""How fast a request's content has to come, and how much of it there may be.

`BodyRate` is against clients that hold a request, and with it a place at an endpoint, by sending next to nothing. The
content's average counts over windows of some seconds, so a pause costs nothing that haste before it has earned within
the same window. A window does not count against the client when it is not the client's turn: when this side did not
read for any part of it (the endpoint is slow, or there is none yet and the early content waits), or when the server
side spoke. No client gets out of the count that way: to have us stop reading it must first send more than the least.

What it bounds, where `containerConcurrency` makes places few: who sends a head and nothing else has its place for one
window (30 s), who sends just enough for as long as the revision's `timeoutSeconds`. As with Knative's own queue-proxy,
a request has its place from its head on; content is not gathered before, as that would take from applications what they
may do with it as it comes. Who needs a closer bound has a shorter window, and `max_connections_per_client`.

gRPC's streams are not counted at all, for they may be silent by design (`net.downstream2`).

The count begins when content is waited for: with the head, but after `Expect: 100-continue` only with the endpoint's
100, or with content that came without it.

`CountedReader` ends chunked content that grows too large; a Content-Length says so beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import BodyTooLarge, BodyTooSlow

if TYPE_CHECKING:
    from gateway.core.http1 import BodyReader, BodySink

__all__ = ["BodyRate", "CountedReader", "too_large"]


class BodyRate:
    """The content of one request. `rate` is in bytes per second, `window` in seconds.

    The owner adds what came to `received`, calls `on_deadline` at `deadline`, and sets `excused` when it stops reading
    or the server side speaks.
    """

    __slots__ = ("_rate", "_window", "deadline", "excused", "received")

    def __init__(self, now: float, rate: float, window: float) -> None:
        self._rate = rate
        self._window = window
        self.deadline = now + window
        self.received = 0
        self.excused = False

    def on_deadline(self, now: float, *, reading: bool) -> None:
        """A window is over; the next begins, with an excuse if we are not `reading`. Raises BodyTooSlow."""
        if self.received < self._rate * self._window and not self.excused and reading:
            raise BodyTooSlow(
                f"The request's content comes at less than {self._rate:g} bytes per second, averaged over "
                f"{self._window:g} s."
            )
        self.deadline = now + self._window
        self.received = 0
        self.excused = not reading


class CountedReader:
    """A reader of content that may have `limit` bytes; raises BodyTooLarge before it passes on more."""

    __slots__ = ("_left", "_limit", "_reader", "_sink")

    def __init__(self, reader: BodyReader, limit: int) -> None:
        self._reader = reader
        self._limit = limit
        self._left = limit

    def feed(self, data: bytes, sink: BodySink) -> bytes | None:
        self._sink = sink
        return self._reader.feed(data, self)

    def body(self, data: bytes) -> None:
        """From the reader."""
        self._left -= len(data)
        if self._left < 0:
            raise too_large(self._limit)
        self._sink.body(data)

    def end(self, trailers: list[bytes]) -> None:
        """From the reader."""
        self._sink.end(trailers)


def too_large(limit: int) -> BodyTooLarge:
    """What a client is told whose request has more than `limit` bytes of content."""
    return BodyTooLarge(f"The request's content is larger than the {limit} bytes that this gateway takes.")
