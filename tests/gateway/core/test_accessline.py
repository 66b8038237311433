"""gateway.core.accessline and its twin in C."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http1 import COMPILED, PYTHON, RequestHead

if TYPE_CHECKING:
    from gateway.core.http1 import Codec

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z


def head_of(host: bytes | None = b"host", target: bytes = b"/", agent: bytes = b"") -> RequestHead:
    head = RequestHead(b"GET", target, True, b"", 0)
    head.host = host
    head.user_agent = agent
    return head


def line(codec: Codec, **values: Any) -> dict[str, Any]:
    given = {
        "when": NOON,
        "duration": 0.0,
        "head": head_of(),
        "status": 200,
        "sent": 0,
        "revision": b"default/hello-00001",
        "endpoint": b"127.0.0.1:9000",
        "flag": "-",
        "request_id": b"0af7",
        "client": b"192.0.2.1",
        "protocol": b"HTTP/1.1",
    } | values
    written = codec.access_line(*given.values())
    assert written.endswith(b"}\n")
    read: dict[str, Any] = json.loads(written)
    return read


def test_it_says_what_happened(codec: Codec) -> None:
    """One JSON object with these names, in this order."""
    read = line(codec, when=NOON + 0.25, duration=1.5, sent=12, head=head_of(b"a.b:80", b"/x?y=1", b"curl/8"))
    assert list(read.items()) == [
        ("time", "2026-11-21T12:00:00.250Z"),
        ("method", "GET"),
        ("host", "a.b:80"),
        ("path", "/x?y=1"),
        ("status", 200),
        ("bytes", 12),
        ("duration", 1.5),
        ("revision", "default/hello-00001"),
        ("endpoint", "127.0.0.1:9000"),
        ("flag", "-"),
        ("requestId", "0af7"),
        ("userAgent", "curl/8"),
        ("client", "192.0.2.1"),
        ("protocol", "HTTP/1.1"),
    ]


def test_a_request_without_a_host(codec: Codec) -> None:
    """It is refused, and logged with an empty one."""
    assert line(codec, head=head_of(None))["host"] == ""


@pytest.mark.parametrize("duration", [0.0, 0.0000004, 0.000123, 0.25, 1.000001, 59.999999, 86_400.5])
@pytest.mark.parametrize("sent", [0, 7, 999, 1000, 2**40])
def test_numbers(codec: Codec, duration: float, sent: int) -> None:
    """Durations in seconds to the microsecond, sizes in bytes, whatever their size."""
    read = line(codec, duration=duration, sent=sent, status=503)
    assert (read["status"], read["bytes"]) == (503, sent)
    assert read["duration"] == pytest.approx(duration, abs=1.1e-6)


def test_time_goes_on(codec: Codec) -> None:
    """Also backwards, when the clock was set."""
    times = [line(codec, when=when)["time"] for when in (NOON - 0.5, NOON, NOON + 3600.0015, NOON - 86_400, 0.0)]
    assert times == [
        "2026-11-21T11:59:59.500Z",
        "2026-11-21T12:00:00.000Z",
        "2026-11-21T13:00:00.001Z",
        "2026-11-20T12:00:00.000Z",
        "1970-01-01T00:00:00.000Z",
    ]


@pytest.mark.parametrize("when", [-1.5, 1e18])
def test_no_time_at_all(codec: Codec, when: float) -> None:
    """Out of the calendar: an error, and no line that nobody can read."""
    with pytest.raises(ValueError, match="no such time"):
        line(codec, when=when)


@pytest.mark.parametrize(
    "value", [b"", b"plain agent/1.0", b'"quoted" and more', b"back\\slash", b"\xe9t\xe9", b"a\tb" * 9]
)
def test_what_clients_choose_is_escaped(codec: Codec, value: bytes) -> None:
    """Quotes, backslashes and what is not ASCII leave the line valid JSON."""
    read = line(codec, head=head_of(agent=value), request_id=value)
    assert read["userAgent"] == read["requestId"] == value.decode("latin-1")


@given(
    st.floats(0, 253402300799),
    st.floats(0, 1e9),
    st.integers(0, 2**62),
    st.binary(max_size=40),
    st.binary(max_size=40),
)
def test_the_twins_agree(when: float, duration: float, sent: int, agent: bytes, request_id: bytes) -> None:
    """To the byte."""
    if COMPILED is None:
        pytest.skip("the compiled codec was not built")
    values = (b"r", b"e", "UF", request_id, b"c", b"p")
    lines = [one.access_line(when, duration, head_of(agent=agent), 200, sent, *values) for one in (PYTHON, COMPILED)]
    assert lines[0] == lines[1]
    json.loads(lines[0])


def test_only_what_it_says(codec: Codec) -> None:
    """A wrong argument is a TypeError, and nothing worse."""
    values: tuple[Any, ...] = (NOON, 0.0, head_of(), 200, 0, b"", b"", "-", b"", b"", b"HTTP/1.1")
    for index in range(len(values)):
        with pytest.raises((TypeError, AttributeError)):
            codec.access_line(*values[:index], object(), *values[index + 1 :])
