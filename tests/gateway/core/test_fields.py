"""gateway.core.fields: the head that goes to an endpoint."""

from __future__ import annotations

import pytest

from gateway.core.fields import Additions, Peer, forwarded, normalise_host, request_head
from gateway.core.http1 import parse_request


@pytest.mark.parametrize(
    ("chain", "host", "proto", "value"),
    [
        (b"127.0.0.1, ::1", b"foo.com", b"https", b'for=127.0.0.1;host=foo.com;proto=https, for="[::1]"'),
        (b"", b"", b"http", b"proto=http"),
        (b"", b"", b"", b""),
        (b"::1", b"", b"", b'for="[::1]"'),
        (b"10.0.0.1", b"foo.com:8080", b"", b'for=10.0.0.1;host="foo.com:8080"'),
    ],
)
def test_forwarded(chain: bytes, host: bytes, proto: bytes, value: bytes) -> None:
    """RFC 7239 from the X-Forwarded fields, as Knative's queue-proxy makes it."""
    assert forwarded(chain, host, proto) == value


@pytest.mark.parametrize(
    ("host", "name"),
    [(b"A.b:80", b"a.b"), (b"a.b.", b"a.b"), (b"[::1]:80", b"[::1]"), (b"[::1]", b"[::1]"), (b"a", b"a")],
)
def test_normalise_host(host: bytes, name: bytes) -> None:
    """Without port, case and final dot."""
    assert normalise_host(host) == name


def sent(
    *lines: bytes, additions: Additions | None = None, host: bytes = b"a.b", request_id: bytes = b""
) -> list[bytes]:
    head = parse_request(b"\r\n".join([b"GET /x HTTP/1.1", b"Host: a.b", *lines]) + b"\r\n\r\n")
    assert head is not None
    out = request_head(head, host, additions or Additions(), Peer(b"10.0.0.9", b"http"), request_id)
    assert out.endswith(b"\r\n\r\n")
    assert parse_request(out) is not None
    return out[:-4].split(b"\r\n")


def test_a_plain_request() -> None:
    """Host first, the client's lines as they were, then what the proxy says."""
    assert sent(b"Accept: */*", request_id=b"7") == [
        b"GET /x HTTP/1.1",
        b"host: a.b",
        b"Accept: */*",
        b"x-forwarded-for: 10.0.0.9",
        b"x-forwarded-proto: http",
        b"forwarded: for=10.0.0.9;proto=http;host=a.b",
        b"x-forwarded-host: a.b",
        b"x-request-id: 7",
    ]


def test_a_chain_of_proxies() -> None:
    """X-Forwarded-For grows; Proto and Host are ours, whatever the client says; an existing Forwarded stays."""
    lines = sent(
        b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil", b"Forwarded: for=x"
    )
    assert b"x-forwarded-for: 1.1.1.1, 10.0.0.9" in lines
    assert b"x-forwarded-proto: http" in lines
    assert b"x-forwarded-host: a.b" in lines
    assert b"forwarded: for=x" in lines


def test_additions_are_set_not_added() -> None:
    """A client's own value is replaced; a split's value wins over its rule's."""
    additions = Additions((("X-Set", "rule"), ("x-rule", "1")), (("x-set", "split"),))
    lines = sent(b"x-SET: client", b"X-Keep: 1", additions=additions)
    assert [line for line in lines if line.lower().startswith(b"x-set")] == [b"x-set: split"]
    assert b"x-rule: 1" in lines
    assert b"X-Keep: 1" in lines
    assert additions.value(b"x-set") == b"split"
    assert additions.value(b"x-none") is None


def test_framing_upgrade_and_expect_are_written_where_valid() -> None:
    """Each at most once, and never both of the framing fields."""
    assert sent(b"content-length: 5").count(b"content-length: 5") == 1
    assert sent(b"Transfer-Encoding: Chunked").count(b"transfer-encoding: chunked") == 1
    assert sent(b"Connection: upgrade", b"Upgrade: websocket")[-2:] == [b"connection: upgrade", b"upgrade: websocket"]
    assert b"expect: 100-continue" in sent(b"Expect: 100-Continue")
    assert not any(line.startswith(b"upgrade") for line in sent(b"Upgrade: websocket"))


def test_a_rewritten_host() -> None:
    """The endpoint sees the rule's host; X-Forwarded-Host tells the client's."""
    lines = sent(host=b"inner.svc")
    assert lines[1] == b"host: inner.svc"
    assert b"x-forwarded-host: a.b" in lines
