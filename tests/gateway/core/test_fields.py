"""gateway.core.fields: the head that goes to an endpoint."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.core.fields import (
    MAX_PASSES,
    Additions,
    Peer,
    client_address,
    forwarded,
    https_location,
    may_switch,
    normalise_host,
    request_head,
    scheme,
)
from gateway.core.http1 import parse_request
from gateway.core.proxies import TrustedProxies
from gateway.errors import LoopDetected


@pytest.mark.parametrize(
    ("chain", "host", "proto", "value"),
    [
        (b"127.0.0.1, ::1", b"foo.com", b"https", b'for=127.0.0.1;host=foo.com;proto=https, for="[::1]"'),
        (b"", b"", b"http", b"proto=http"),
        (b"", b"", b"", b""),
        (b"::1", b"", b"", b'for="[::1]"'),
        (b"10.0.0.1", b"foo.com:8080", b"", b'for=10.0.0.1;host="foo.com:8080"'),
        # A client's X-Forwarded-For must not become other pairs than `for`.
        (b"1.1.1.1;proto=https", b"a.b", b"http", b'for="1.1.1.1;proto=https";host=a.b;proto=http'),
        (b'::1";proto=https;x="', b"", b"http", b'for="[::1\\";proto=https;x=\\"]";proto=http'),
        (b'[::1]";proto=https;x="', b"", b"http", b'for="[::1]\\";proto=https;x=\\"";proto=http'),
        (b"a\\, b=c", b"", b"http", b'for="a\\\\";proto=http, for="b=c"'),
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


EDGE = TrustedProxies([ip_network("10.0.0.0/8")])


def sent(
    *lines: bytes,
    additions: Additions | None = None,
    host: bytes = b"a.b",
    request_id: bytes = b"",
    peer: Peer | None = None,
    version: bytes = b"1.1",
) -> list[bytes]:
    head = parse_request(b"\r\n".join([b"GET /x HTTP/" + version, b"Host: a.b", *lines]) + b"\r\n\r\n")
    assert head is not None
    out = request_head(head, host, additions or Additions(), peer or Peer(b"10.0.0.9", b"http"), request_id)
    assert out.endswith(b"\r\n\r\n")
    assert parse_request(out) is not None
    return out[:-4].split(b"\r\n")


def about(peer: Peer, *lines: bytes) -> dict[bytes, bytes]:
    """What the endpoint is told about earlier hops."""
    pairs = [line.partition(b": ")[::2] for line in sent(*lines, peer=peer)[2:]]
    told = {name.lower(): value for name, value in pairs if b"forwarded" in name.lower()}
    assert len(told) == len(pairs) - 1  # Via
    return told


def test_a_plain_request() -> None:
    """Host first, the client's lines as they were, then what the proxy says."""
    assert sent(b"Accept: */*", request_id=b"7") == [
        b"GET /x HTTP/1.1",
        b"host: a.b",
        b"Accept: */*",
        b"via: 1.1 zerogate",
        b"x-forwarded-for: 10.0.0.9",
        b"x-forwarded-proto: http",
        b"forwarded: for=10.0.0.9;proto=http;host=a.b",
        b"x-forwarded-host: a.b",
        b"x-request-id: 7",
    ]


@pytest.mark.parametrize(
    ("lines", "peer", "version", "via"),
    [
        ((), Peer(b"10.0.0.9", b"http"), b"1.1", b"via: 1.1 zerogate"),
        ((b"TE: trailers",), Peer(b"10.0.0.9", b"http"), b"1.1", b"via: 1.1 zerogate"),
        ((), Peer(b"10.0.0.9", b"http"), b"1.0", b"via: 1.0 zerogate"),
        ((), Peer(b"10.0.0.9", b"http", version=b"2"), b"1.1", b"via: 2 zerogate"),
        (
            (b"Via: 1.0 fred", b"Via: 1.1 p.example.com, HTTP/2 zerogate"),
            Peer(b"10.0.0.9", b"http"),
            b"1.1",
            b"via: 1.0 fred, 1.1 p.example.com, HTTP/2 zerogate, 1.1 zerogate",
        ),
    ],
)
def test_via(lines: tuple[bytes, ...], peer: Peer, version: bytes, via: bytes) -> None:
    """Each hop adds itself and the version in which the request came to it (RFC 9110 section 7.6.3)."""
    told = [line for line in sent(*lines, peer=peer, version=version) if line.lower().startswith(b"via:")]
    assert told == [via]


def test_a_request_that_goes_in_circles() -> None:
    """It is let by so many times, then answered."""
    sent(b"Via: " + b", ".join([b"1.1 zerogate"] * (MAX_PASSES - 1)))
    with pytest.raises(LoopDetected):
        sent(b"Via: " + b", ".join([b"1.1 zerogate"] * MAX_PASSES))


@pytest.mark.parametrize(
    ("lines", "goes_on"),
    [
        (
            (b"Transfer-Encoding: chunked", b"Trailer: X-Sum, Content-Length", b"Trailer: x y,Via,Other"),
            b"X-Sum, Other",
        ),
        ((b"Transfer-Encoding: chunked", b"Trailer: Host"), None),
        ((b"Transfer-Encoding: chunked", b"Trailer: X-Sum", b"Connection: trailer"), None),
        ((b"Content-Length: 5", b"Trailer: X-Sum"), None),
        ((b"Trailer: X-Sum",), None),
    ],
)
def test_trailers_are_announced_where_they_go(lines: tuple[bytes, ...], goes_on: bytes | None) -> None:
    """Behind chunks, and only those that may be there (RFC 9110 sections 6.5.1 and 6.6.2)."""
    told = [line for line in sent(*lines) if line.lower().startswith(b"trailer:")]
    assert told == ([] if goes_on is None else [b"trailer: " + goes_on])


def test_a_rule_that_sets_the_request_id() -> None:
    """Its value is the only one."""
    lines = sent(b"X-Request-Id: 1", additions=Additions((("X-Request-Id", "2"),)), request_id=b"1")
    assert [line for line in lines if b"request-id" in line.lower()] == [b"x-request-id: 2"]


TOLD = (b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: c.d", b"Forwarded: for=x;host=y")


def test_a_peer_where_no_proxy_is_trusted() -> None:
    """X-Forwarded-For grows, as at Knative's ingresses; all else is what we see ourselves."""
    assert about(Peer(b"10.0.0.9", b"http"), *TOLD) == {
        b"x-forwarded-for": b"1.1.1.1, 10.0.0.9",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"a.b",
        b"forwarded": b"for=1.1.1.1;host=a.b;proto=http, for=10.0.0.9",
    }


def test_a_chain_without_end() -> None:
    """Its last hundred hops are sent on, so that Forwarded is not several times as long as what came."""
    told = about(Peer(b"10.0.0.9", b"http"), b"X-Forwarded-For: 1.1.1.1," + b";," * 10_000 + b"2.2.2.2")
    assert told[b"x-forwarded-for"] == b";," * 99 + b"2.2.2.2, 10.0.0.9"
    assert told[b"forwarded"].count(b"for=") == 101


def test_a_peer_that_is_not_one_of_the_trusted_proxies() -> None:
    """Nothing of what it says is believed."""
    assert about(Peer(b"11.0.0.9", b"http", EDGE), *TOLD) == {
        b"x-forwarded-for": b"11.0.0.9",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"a.b",
        b"forwarded": b"for=11.0.0.9;host=a.b;proto=http",
    }


def test_a_trusted_proxy() -> None:
    """What it says stays, and it is added itself."""
    assert about(Peer(b"10.0.0.9", b"http", EDGE), *TOLD) == {
        b"x-forwarded-for": b"1.1.1.1, 10.0.0.9",
        b"x-forwarded-proto": b"https",
        b"x-forwarded-host": b"c.d",
        b"forwarded": b"for=x;host=y, for=10.0.0.9",
    }


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (TOLD[:1], b"for=1.1.1.1;host=a.b;proto=http, for=10.0.0.9"),
        (TOLD[:2], b"for=1.1.1.1;host=a.b;proto=https, for=10.0.0.9"),
        (
            (b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-For: ::1"),
            b'for=1.1.1.1;host=a.b;proto=http, for="[::1]", for=10.0.0.9',
        ),
        ((b"X-Forwarded-Proto: ftp",), b"for=10.0.0.9;host=a.b;proto=http"),
        ((b"X-Forwarded-For:",), b"for=10.0.0.9;host=a.b;proto=http"),
        ((), b"for=10.0.0.9;proto=http;host=a.b"),
    ],
)
def test_what_a_trusted_proxy_leaves_out(lines: tuple[bytes, ...], told: bytes) -> None:
    """Forwarded is made of what there is; a scheme that can't be is none."""
    assert about(Peer(b"10.0.0.9", b"http", EDGE), *lines)[b"forwarded"] == told


def test_a_trusted_proxy_that_only_knows_forwarded() -> None:
    """Its nodes become X-Forwarded-For."""
    told = about(Peer(b"10.0.0.9", b"http", EDGE), b'Forwarded: for=1.1.1.1;proto=https, For="[::1]:80"')
    assert told[b"x-forwarded-for"] == b"1.1.1.1, [::1]:80, 10.0.0.9"


@pytest.mark.parametrize(
    ("peer", "lines", "address", "proto"),
    [
        (b"10.0.0.9", TOLD, b"1.1.1.1", b"https"),
        (b"11.0.0.9", TOLD, b"11.0.0.9", b"http"),
        (b"10.0.0.9", (), b"10.0.0.9", b"http"),
        (b"10.0.0.9", (b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.1.1.1",), b"2.2.2.2", b"http"),
        (b"10.0.0.9", (b'Forwarded: for="[2001:db8::1]:80";proto=https',), b"2001:db8::1", b"http"),
    ],
)
def test_the_client_by_what_is_believed(peer: bytes, lines: tuple[bytes, ...], address: bytes, proto: bytes) -> None:
    """For the access log and for redirects to https."""
    head = parse_request(b"\r\n".join([b"GET /x HTTP/1.1", b"Host: a.b", *lines]) + b"\r\n\r\n")
    assert head is not None
    assert client_address(head, Peer(peer, b"http", EDGE)) == address
    assert scheme(head, Peer(peer, b"http", EDGE)) == proto


def test_a_client_cannot_have_the_chain_dropped() -> None:
    """By naming it in Connection (RFC 9110 section 7.6.1)."""
    told = about(Peer(b"11.0.0.9", b"http", EDGE), b"Connection: x-forwarded-for, forwarded", *TOLD)
    assert told[b"x-forwarded-for"] == b"11.0.0.9"


@pytest.mark.parametrize("name", [b"X_Forwarded_Proto", b"x-forwarded_for", b"X_FORWARDED-HOST"])
def test_a_client_cannot_spell_a_proxys_fields_otherwise(name: bytes) -> None:
    """With underscores they would be the same to a CGI or WSGI application."""
    assert not any(line.startswith(name) for line in sent(name + b": https", b"X_Mine: 1"))
    assert b"X_Mine: 1" in sent(b"X_Mine: 1")


def test_trace_context_passes_untouched() -> None:
    """W3C Trace Context: both fields, and tracestate in several lines."""
    lines = (
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"tracestate: a=1",
        b"tracestate: b=2",
    )
    assert sent(*lines)[2:5] == list(lines)


def test_knatives_internal_fields_are_not_trusted_from_outside() -> None:
    """They never reach an endpoint; the tag, which a client may choose, does."""
    internal = (
        b"Knative-Serving-Namespace: other",
        b"Knative-Serving-Revision: other",
        b"Knative-Serving-Default-Route: true",
        b"Knative-Direct-Lb: true",
        b"K-Proxy-Request: activator",
        b"K-Original-Host: other",
        b"K-Passthrough-Lb: true",
        b"K-Kubelet-Probe: x",
        b"K-Network-Probe: queue",
        b"K-Network-Hash: override",
    )
    lines = sent(*internal, b"Knative-Serving-Tag: blue")
    assert [line for line in lines if line.lower().startswith((b"k-", b"knative-"))] == [b"Knative-Serving-Tag: blue"]


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


@pytest.mark.parametrize(
    ("te", "passed"),
    [
        (b"trailers", True),
        (b"Trailers", True),
        (b"gzip;q=0.5, trailers", True),
        (b"trailers;q=1", True),
        (b"gzip", False),
        (b"xtrailers", False),
        (b"", False),
    ],
)
def test_of_te_only_trailers_goes_on(te: bytes, passed: bool) -> None:
    """The codings are for one hop; trailers are passed on, so whether they are welcome is too, as an option of this
    hop (RFC 9110 section 10.1.4)."""
    lines = sent(b"TE: " + te)
    assert (lines[-2:] == [b"te: trailers", b"connection: te"]) is passed
    assert sum(line.lower().startswith(b"te:") for line in lines) == passed


def test_a_rewritten_host() -> None:
    """The endpoint sees the rule's host; X-Forwarded-Host tells the client's."""
    lines = sent(host=b"inner.svc")
    assert lines[1] == b"host: inner.svc"
    assert b"x-forwarded-host: a.b" in lines


@pytest.mark.parametrize(
    ("asked", "chosen", "may"),
    [
        (b"websocket", b"websocket", True),
        (b"h2c, WebSocket", b"websocket", True),
        (b"a/1,b/2", b"B/2 , a/1", True),
        (b"a/1", b"a/2", False),
        (b"a", b"a, b", False),
        (b"a", None, False),
        (None, b"a", False),
        (None, None, False),
    ],
)
def test_a_switch_is_to_what_was_asked_for(asked: bytes | None, chosen: bytes | None, may: bool) -> None:
    """RFC 9110 section 7.8: a server must not switch to a protocol that the request does not list."""
    assert may_switch(asked, chosen) is may


@pytest.mark.parametrize(
    ("host", "target", "port", "location"),
    [
        (b"a.test", b"/", 443, b"https://a.test/"),
        (b"A.test.:80", b"/b?c=%2F", 443, b"https://a.test/b?c=%2F"),
        (b"[::1]:80", b"//x", 8443, b"https://[::1]:8443//x"),
        (b"a.test", b"/.well-known/acme-challenge/token", 443, None),
        (b"a.test", b"/.well-known/acme-challenge/a-_Z9?b", 443, None),
        (b"a.test", b"/.well-known/acme-challenge", 443, b"https://a.test/.well-known/acme-challenge"),
        *(
            (b"a.test", b"/.well-known/acme-challenge/" + way, 443, b"https://a.test/.well-known/acme-challenge/" + way)
            for way in (b"", b"../../login", b"%2e%2e/%2e%2e/login", b"token/..", b"..;/login")
        ),
        (b"a.test", b"*", 443, None),
    ],
)
def test_where_https_is(host: bytes, target: bytes, port: int, location: bytes | None) -> None:
    """Path and query as they are, https's port unless it is 443; a challenge (RFC 8555) is served where it is."""
    assert https_location(host, target, port) == location
