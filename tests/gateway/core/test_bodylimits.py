"""gateway.core.bodylimits: whom a slow body is held against."""

from __future__ import annotations

import pytest

from gateway.core.bodylimits import BodyRate, CountedReader
from gateway.core.http1 import ChunkedReader
from gateway.errors import BadRequest, BodyTooLarge, BodyTooSlow


def test_the_average_over_a_window_counts() -> None:
    """Haste earns a pause in the same window, not in the next."""
    rate = BodyRate(100.0, 10, 5)
    assert rate.deadline == 105.0
    rate.received = 50
    rate.on_deadline(105.0, reading=True)
    assert rate.deadline == 110.0
    rate.received += 49
    with pytest.raises(BodyTooSlow, match="10 bytes per second, averaged over 5 s"):
        rate.on_deadline(110.0, reading=True)


def test_a_window_in_which_we_did_not_read_does_not_count() -> None:
    """Neither the one in which we stopped, nor the one that began before we went on."""
    rate = BodyRate(0.0, 10, 5)
    rate.excused = True
    rate.on_deadline(5.0, reading=False)
    rate.on_deadline(10.0, reading=True)
    with pytest.raises(BodyTooSlow):
        rate.on_deadline(15.0, reading=True)


class Sink:
    def __init__(self) -> None:
        self.content = b""
        self.ended = False

    def body(self, data: bytes) -> None:
        self.content += data

    def end(self, trailers: list[bytes]) -> None:
        self.ended = True


TEXT = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize("cut", range(1, 20))
def test_as_much_content_as_allowed(cut: int) -> None:
    """It passes, and what follows it is given back."""
    sink = Sink()
    reader = CountedReader(ChunkedReader(BadRequest), 5)
    assert reader.feed(TEXT[:cut], sink) is None
    assert reader.feed(TEXT[cut:] + b"rest", sink) == b"rest"
    assert (sink.content, sink.ended) == (b"abcde", True)


def test_content_one_byte_too_large() -> None:
    """The piece that is too much does not pass, and no end."""
    sink = Sink()
    reader = CountedReader(ChunkedReader(BadRequest), 4)
    assert reader.feed(TEXT[:8], sink) is None
    with pytest.raises(BodyTooLarge, match="4 bytes"):
        reader.feed(TEXT[8:], sink)
    assert (sink.content, sink.ended) == (b"abc", False)
