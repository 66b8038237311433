from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from gateway.core.frames import goaway_frame, ping_frame, reset_frame, settings_frame
from gateway.core.onecall import get_call, health_call, health_verdict
from gateway.errors import UpstreamProtocolError

if TYPE_CHECKING:
    from gateway.core.onecall import OneCall

GREETING = settings_frame([])


def answered(call: OneCall, status: bytes, body: bytes, *trailers: tuple[bytes, bytes]) -> list[object]:
    """Let another implementation answer the call, byte by byte; returns what it saw."""
    peer = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    peer.initiate_connection()
    seen: list[object] = []
    for event in peer.receive_data(call.begin):
        if isinstance(event, RequestReceived):
            seen.append([tuple(field) for field in event.headers])
        elif isinstance(event, DataReceived):
            seen.append(event.data)
        elif isinstance(event, StreamEnded):
            peer.send_headers(1, [(b":status", b"103")])
            peer.send_headers(1, [(b":status", status)])
            peer.send_data(1, body, end_stream=not trailers)
            if trailers:
                peer.send_headers(1, trailers, end_stream=True)
    for byte in peer.data_to_send():
        assert not call.done
        peer.receive_data(call.feed(bytes([byte])))
    assert call.done
    return seen


def test_a_get() -> None:
    """One stream, answered past interim responses; a Host among the fields is the authority."""
    call = get_call("127.0.0.1:80", "/ready", (("host", "probe.test"), ("x-a", "b")))
    seen = answered(call, b"404", b"no")
    assert seen == [
        [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"probe.test"),
            (b":path", b"/ready"),
            (b"x-a", b"b"),
        ]
    ]
    assert call.head is not None
    assert (call.head.status, call.content, call.trailers) == (404, b"no", None)


@pytest.mark.parametrize(
    ("service", "message"),
    [("", b"\0\0\0\0\0"), ("a.B", b"\0\0\0\0\5\x0a\3a.B"), ("x" * 200, b"\0\0\0\0\xcb\x0a\xc8\1" + b"x" * 200)],
)
def test_a_health_check(service: str, message: bytes) -> None:
    """HealthCheckRequest{service} as protobuf writes it; the answer SERVING is no complaint."""
    call = health_call("a:1", service, "agent")
    seen = answered(call, b"200", b"\0\0\0\0\2\x08\1", (b"grpc-status", b"0"))
    assert seen[1] == message
    assert health_verdict(call) == ""


@pytest.mark.parametrize(
    ("status", "body", "trailers", "verdict"),
    [
        (b"200", b"\0\0\0\0\2\x08\2", ((b"grpc-status", b"0"),), "the service is NOT_SERVING"),
        (b"200", b"", ((b"grpc-status", b"0"),), "the service is in an unknown state"),
        (b"200", b"", ((b"grpc-status", b"12"),), "the server has no grpc.health.v1.Health service"),
        (b"200", b"", ((b"grpc-status", b"5"), (b"grpc-message", b"no such")), "grpc-status is 5 no such"),
        (b"200", b"", (), "grpc-status is missing"),
        (b"404", b"", (), "the answer is not gRPC (status 404)"),
    ],
)
def test_other_verdicts(status: bytes, body: bytes, trailers: tuple[tuple[bytes, bytes], ...], verdict: str) -> None:
    """A few words that say what is wrong."""
    call = health_call("a:1", "", "agent")
    answered(call, status, body, *trailers)
    assert health_verdict(call) == verdict


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        GREETING + reset_frame(1, 7),
        GREETING + goaway_frame(0, 0),
        GREETING + goaway_frame(1, 2),
    ],
)
def test_peers_that_do_not_answer(answer: bytes) -> None:
    """UpstreamProtocolError with the reason."""
    with pytest.raises(UpstreamProtocolError):
        get_call("a", "/", ()).feed(answer)


def test_what_the_peer_is_owed() -> None:
    """SETTINGS and PING are answered."""
    call = get_call("a", "/", ())
    owed = call.feed(GREETING + ping_frame(b"12345678", acknowledges=False) + goaway_frame(1, 0))
    assert owed.endswith(ping_frame(b"12345678", acknowledges=True))
    assert len(owed) == 9 + 17
