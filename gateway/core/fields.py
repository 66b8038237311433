"""What a proxy changes in a request's fields, and the head it sends on.

Theory of operation
-------------------
`core.http1` has already dropped framing, Host, hop-by-hop fields and Knative's internal ones; here the rest is put
together in one buffer: Host (the client's, unless the rule rewrites it), the client's end-to-end lines, the rule's
fields with *set* semantics, and what a proxy says about itself:

- `X-Forwarded-For` is appended to: each hop adds the peer it saw. `X-Forwarded-Proto` and `X-Forwarded-Host` are set.
- `Forwarded` (RFC 7239) is made from those three, as Knative's queue-proxy does: `for=<first>;host=<h>;proto=<p>`, then
  `, for=<next>` for each further hop.
- `X-Request-Id` is the client's first that is not empty, else made by the worker: one line, the one that is logged.
- Spellings of the X-Forwarded fields and X-Request-Id with underscores are dropped: a WSGI application can't tell them
  from ours.
- `Via` grows by `<version> zerogate`, as RFC 9110 section 7.6.3 has gateways do in requests. Most don't (nginx, Envoy,
  HAProxy and Knative's own send none, Caddy, Varnish and Google's do), and one default knows it: nginx as the *server*
  behind compresses nothing for a request with Via unless `gzip_proxied` says `any`. It finds loops, which cost dearly
  where the endpoints scale with the load: a service that sends requests back to its own host gets LoopDetected at the
  MAX_PASSES-th. Responses get none: there it is a MAY, and nobody's use.
- `Max-Forwards` of OPTIONS becomes one less (RFC 9110 section 7.6.2), in any other request it means nothing.
- `Trailer` goes on where trailers do: in a chunked request, with the names that a trailer section may have. (Trailers
  go to all clients that speak HTTP/1.1 or 2, as in Knative: who reads chunks can read past them, RFC 9112 section
  7.1.2.)
- `traceparent` and `tracestate` pass as they are, several lines and all.
- Framing is written anew from what the parser understood; `Expect` and `Upgrade` only where they were valid, and of
  `TE` only `trailers`.

What a peer says about earlier hops is believed if it is a trusted proxy (`--trusted-proxy`): its X-Forwarded-Proto and
-Host stay, its Forwarded is appended to (and stands in for an X-Forwarded-For that it did not send), and the access log
names the client that the chain leads to. For any other peer Proto and Host are this connection's, Forwarded is written
anew, and its X-Forwarded-For

- is dropped where trusted proxies have been named: somebody has then said where the edge is, and it is not the peer
  (Caddy and Traefik do so, nginx with `$remote_addr`);
- is kept and appended to where none have been (Envoy with `use_remote_address`, nginx's `$proxy_add_x_forwarded_for`,
  Knative's ingresses): behind a load balancer that nobody told us about, applications still find their clients. Only
  the last address is then known to be true.

Of a chain that is kept the last MAX_HOPS are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.core.heads import announced, without
from gateway.core.http1 import serialise_request
from gateway.core.proxies import NO_PROXIES, last_hops, nodes_of
from gateway.errors import LoopDetected

if TYPE_CHECKING:
    from gateway.contract import Fields
    from gateway.core.http1 import RequestHead
    from gateway.core.proxies import TrustedProxies

__all__ = [
    "MAX_PASSES",
    "Additions",
    "Peer",
    "client_address",
    "forwarded",
    "https_location",
    "is_last_hop",
    "may_switch",
    "normalise_host",
    "request_head",
    "scheme",
]

MAX_PASSES = 16
_PSEUDONYM = b"zerogate"

# The token is base64url, so that no `..` after the prefix leads elsewhere.
_ACME_CHALLENGE = re.compile(rb"/\.well-known/acme-challenge/[0-9A-Za-z_-]+(?:\?.*)?")


def normalise_host(host: bytes) -> bytes:
    """The name in a Host value: lower-case, without port and trailing dot."""
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1].lower()
    return host.partition(b":")[0].lower().removesuffix(b".")


def https_location(host: bytes, target: bytes, port: int) -> bytes | None:
    """Where a request for `target` (origin-form) at `host` (its Host) is sent to have it over TLS. None if it has to be
    served without: a certificate authority looks for its challenge there (RFC 8555 section 8.3), and `OPTIONS *` is
    about the server itself."""
    if not target.startswith(b"/") or _ACME_CHALLENGE.fullmatch(target):
        return None
    return b"https://%b%b%b" % (normalise_host(host), b"" if port == 443 else b":%d" % port, target)


_LONGEST_NAME = 253 + len(":65535")  # RFC 1035 section 2.3.4, as text


class Peer:
    """Who is at the other end of a downstream connection, ready to be written into heads. `proto` is the connection's:
    http or https; `version` the one of HTTP that it speaks, as Via says it. `about` is what was said about the last
    request, which was for `host`: a connection's requests are nearly always for one host."""

    __slots__ = ("_before_host", "about", "address", "host", "is_trusted", "proto", "proxies", "version")

    def __init__(
        self, address: bytes, proto: bytes, proxies: TrustedProxies = NO_PROXIES, version: bytes = b"1.1"
    ) -> None:
        self.address = address
        self.proto = proto
        self.proxies = proxies
        self.version = version
        self.is_trusted = proxies.trusts(address)
        self._before_host = (
            b"via: %b %b\r\nx-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nforwarded: for=%b;proto=%b;host="
            % (version, _PSEUDONYM, address, proto, _node(address), proto)
        )
        self.host: bytes | None = None
        self.about = b""

    def lines(self, host: bytes) -> bytes:
        """What is said about a request for `host` that came straight from its client, as complete lines."""
        if host == self.host:
            return self.about
        about = b"%b%b\r\nx-forwarded-host: %b\r\n" % (self._before_host, _quoted(host), host)
        if len(host) <= _LONGEST_NAME:  # else no name that is routed: not worth its memory in an idle connection
            self.host, self.about = host, about
        return about


class Additions:
    """Fields that a rule and its split set on each request, prepared once.

    `text` is complete lines, `names` the lower-case names whose lines from the client have to go; `replaces` says
    whether any of them can get here at all.
    """

    __slots__ = ("names", "replaces", "text")

    def __init__(self, *groups: Fields) -> None:
        # A split's fields come after its rule's and win over them (Knative: path, then split).
        merged = {name.lower(): value for group in groups for name, value in group}
        self.names = frozenset(name.encode() for name in merged)
        self.replaces = not self.names <= _NEVER_FROM_CLIENT
        self.text = "".join(f"{name}: {value}\r\n" for name, value in merged.items()).encode("latin-1")

    def value(self, name: bytes) -> bytes | None:
        """What is set for `name`, None if nothing is."""
        for line in self.text.split(b"\r\n"):
            found, _, value = line.partition(b": ")
            if found == name:
                return value
        return None


# Lines with these names never reach `head.fields`, so setting them needs no search for the client's.
_NEVER_FROM_CLIENT = frozenset(
    (b"knative-serving-revision", b"knative-serving-namespace", b"knative-serving-default-route", b"k-original-host")
)


def request_head(head: RequestHead, host: bytes, additions: Additions, peer: Peer, request_id: bytes) -> bytes:
    """The head to send to an endpoint, in one buffer. `host` is the Host to send, `request_id` the X-Request-Id unless
    the rule sets it. Raises LoopDetected."""
    fields = head.fields
    if additions.replaces:
        fields = without(fields, additions.names)
        if b"x-request-id" in additions.names:
            request_id = b""
    if head.others is not None or not head.persistent:
        about = _about(head, head.others or {}, peer)
    else:
        about = peer.about if head.host == peer.host else peer.lines(head.host or b"")
    return serialise_request(head, host, fields, about, additions.text, request_id)


def _about(head: RequestHead, others: dict[bytes, bytes], peer: Peer) -> bytes:
    """What is said about a request with fields of the rarer kind."""
    if others == _TE_OF_GRPC:
        return peer.lines(head.host or b"") + _TE_LINES
    text = _via(others.get(b"via"), peer.version if head.persistent else b"1.0")
    text += b"".join(_forwarding(others, head.host or b"", peer))
    forwards = others.get(b"max-forwards")
    if forwards is not None:
        text += b"max-forwards: %b\r\n" % (_one_less(forwards) if head.method == b"OPTIONS" else forwards)
    trailers = announced(others.get(b"trailer", b"")) if head.chunked else b""
    if trailers:
        text += b"trailer: %b\r\n" % trailers
    upgrade = head.upgrade
    if upgrade is not None:
        return b"%bconnection: upgrade\r\nupgrade: %b\r\n" % (text, upgrade)
    if b"expect" in others:
        text += b"expect: 100-continue\r\n"
    if _takes_trailers(others.get(b"te", b"")):
        text += _TE_LINES
    return text


def is_last_hop(head: RequestHead) -> bool:
    """Whether Max-Forwards says that the request is for this gateway itself."""
    return head.method == b"OPTIONS" and (head.other(b"max-forwards") or b"1").strip(b"0") == b""


def _one_less(number: bytes) -> bytes:
    return b"%d" % (int(number) - 1) if number.isdigit() and len(number) < 19 else number


def _via(earlier: bytes | None, version: bytes) -> bytes:
    """RFC 9110 section 7.6.3. Raises LoopDetected."""
    if not earlier:
        return b"via: %b %b\r\n" % (version, _PSEUDONYM)
    if earlier.count(_PSEUDONYM) >= MAX_PASSES:
        raise LoopDetected(f"The request has passed gateways like this one {MAX_PASSES} times: its path is a circle.")
    return b"via: %b, %b %b\r\n" % (earlier, version, _PSEUDONYM)


_TE_LINES = b"te: trailers\r\nconnection: te\r\n"
_TE_OF_GRPC = {b"te": b"trailers"}  # nothing else, as in nearly every gRPC call


def _takes_trailers(te: bytes) -> bool:
    """Of TE only `trailers` holds beyond one hop, because trailers are passed on (RFC 9110 section 10.1.4); gRPC asks
    for it."""
    return any(part.partition(b";")[0].strip(b" \t").lower() == b"trailers" for part in te.split(b","))


def _forwarding(others: dict[bytes, bytes], host: bytes, peer: Peer) -> tuple[bytes, ...]:
    proto, earlier, forwarded_before = peer.proto, others.get(b"x-forwarded-for"), None
    if peer.is_trusted:
        proto = _told_proto(others) or proto
        host = others.get(b"x-forwarded-host") or host
        forwarded_before = others.get(b"forwarded")
        if not earlier and forwarded_before:
            earlier = nodes_of(forwarded_before)
    elif peer.proxies:
        earlier = None
    chain = last_hops(earlier) + b", " + peer.address if earlier else peer.address
    if forwarded_before:
        value = forwarded_before + b", for=" + _node(peer.address)
    else:
        value = forwarded(chain, host, proto)
    lines = (b"x-forwarded-for: " + chain, b"x-forwarded-proto: " + proto, b"x-forwarded-host: " + host)
    return tuple(line + b"\r\n" for line in (*lines, b"forwarded: " + value))


def _told_proto(others: dict[bytes, bytes]) -> bytes | None:
    """What a trusted proxy says that the client spoke, if it says one of the two things that can be."""
    told = others.get(b"x-forwarded-proto", b"").partition(b",")[0].strip().lower()
    return told if told in (b"http", b"https") else None


def scheme(head: RequestHead, peer: Peer) -> bytes:
    """http or https: what the client spoke, as far as we know or believe."""
    if not peer.is_trusted or head.others is None:
        return peer.proto
    return _told_proto(head.others) or peer.proto


def client_address(head: RequestHead, peer: Peer) -> bytes:
    """The address of the client, as far as we know or believe."""
    if not peer.is_trusted or head.others is None:
        return peer.address
    chain = head.others.get(b"x-forwarded-for") or nodes_of(head.others.get(b"forwarded", b""))
    return peer.proxies.client(chain, peer.address)


def forwarded(chain: bytes, host: bytes, proto: bytes) -> bytes:
    """The Forwarded value for the X-Forwarded-For chain, -Host and -Proto (each b"" for none); b"" if none of them."""
    hops = [hop.strip() for hop in chain.split(b",") if hop.strip()]
    pairs = ((b"for=", _node(hops[0]) if hops else b""), (b"host=", _quoted(host)), (b"proto=", proto))
    first = b";".join(name + value for name, value in pairs if value)
    return b", ".join(part for part in (first, *(b"for=" + _node(hop) for hop in hops[1:])) if part)


def _node(address: bytes) -> bytes:
    """An address as RFC 7239 section 6 writes it: IPv6 bracketed and quoted."""
    return _quoted(b"[%b]" % address if address.count(b":") > 1 and not address.startswith(b"[") else address)


_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")


def _quoted(value: bytes) -> bytes:
    """A token as it is, anything else as a quoted string: a host with a port has a colon, and what a client calls an
    address may have a semicolon and a `proto` of its own."""
    if _TOKEN.fullmatch(value):
        return value
    return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def may_switch(asked: bytes | None, chosen: bytes | None) -> bool:
    """Whether an endpoint may switch to the protocols it chose: at least one, each among those that the request's
    Upgrade field lists (RFC 9110 section 7.8)."""
    return bool(chosen) and _protocols(chosen) <= _protocols(asked)


def _protocols(value: bytes | None) -> set[bytes]:
    return set() if value is None else {name.strip(b" \t").lower() for name in value.split(b",")}
