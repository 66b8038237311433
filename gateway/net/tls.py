"""TLS towards clients: handshakes, the choice of certificates, and connections that decrypt and encrypt.

Theory of operation
-------------------
`TlsListener.protocol` makes a `TlsConnection` for each TCP connection. It is the protocol of the socket's transport and
itself the transport of the HTTP connection above it, so `Downstream` cannot tell it from a socket. uvloop's own TLS is
not used: it tells nobody of a connection before its handshake succeeded, holds 256 KiB for each, and ends every read
with an exception. Here the handshake counts against the connection limit from the first moment, has a time-out, and
nothing is made for a client before its ClientHello is complete.

The ClientHello is read first (`core.clienthello`). Its server name finds a certificate of the snapshot
(`core.certificates`), else the default certificate; without either the client gets the alert unrecognized_name, having
cost no TLS machinery at all. The same goes for plain HTTP (answered with a 400) and for noise. What a failed handshake
leaves behind is one count, by reason; nothing is logged, since anybody can make handshakes fail.

One `SSLContext` makes every connection's session, and the context of the certificate is put in its place before the
handshake. So session tickets are of one key whatever the certificate, outlive its replacement, and the session cache
for TLS 1.2 clients without tickets is one, bounded by OpenSSL (20,480 entries). The key lives for TICKET_KEY_LIFE.
Workers do not share it: with N workers one in N reconnects resumes (of 400: 399 with one worker, 189 with two, 117 with
four), the others make a full handshake. There is no honest way around: Python's `ssl` has no call for ticket keys or an
outside session cache (SSL_CTX_set_tlsext_ticket_key_cb, SSL_CTX_sess_set_get_cb), nor does it hand out its SSL_CTX, and
the kernel chooses the worker by the client's port, which differs at each reconnect.

A context is made when a certificate is first asked for (1 ms), and the MAX_CONTEXTS used last are kept (25 KiB each):
ten thousand certificates that nobody uses cost their PEM text and 1 KiB each. A replaced certificate has another
context from the next handshake on; live connections keep theirs.

All connections share two memory BIOs, as the loop serves one at a time: each call feeds what arrived, takes everything
out, and only then calls the HTTP connection. Both are empty whenever other code runs, so an idle connection holds no
buffer, but only OpenSSL's 14 KiB of session. A write becomes one record (16 KiB each if it is longer) and one write of
the socket; decrypted pieces of one read go up in one call, and back-pressure is the socket's, both ways.

What TLS is offered with (versions, ciphers, certificates from files) is `net.tlscontext`'s.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from gateway.core.certificates import CertificateTable
from gateway.core.clienthello import BadHello, NotTls, read_hello
from gateway.core.fields import normalise_host
from gateway.errors import Overloaded, TooManyConnections
from gateway.net.tlscontext import UnusableCertificate, load, server_context

if TYPE_CHECKING:
    from gateway.contract import Certificate, CertificateId, Update
    from gateway.errors import GatewayError
    from gateway.net.listener import Listener
    from gateway.net.tlscontext import CertificateFiles

__all__ = ["Certificates", "TlsConnection", "TlsListener"]

HANDSHAKE_TIMEOUT = 10.0
MAX_CONTEXTS = 1000
TICKET_KEY_LIFE = 24 * 3600.0
_RECORD = 16 * 1024
_ALERT_DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"
_ALERT_UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
_PLAIN_TEXT = b"This port speaks HTTPS, and the request came without TLS.\n"
_PLAIN_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\ndate: %%b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_PLAIN_TEXT), _PLAIN_TEXT)
)

# Why a handshake failed, for the metrics. OpenSSL's reasons are hundreds; these are the ones an operator can act upon.
_REASONS = {
    "UNSUPPORTED_PROTOCOL": "version",
    "WRONG_VERSION_NUMBER": "version",
    "VERSION_TOO_LOW": "version",
    "NO_SHARED_CIPHER": "cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "cipher",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "cipher",
    "NO_SUITABLE_KEY_SHARE": "cipher",
    "NO_SHARED_GROUPS": "cipher",
}

_log = logging.getLogger(__name__)


# --- the choice -------------------------------------------------------------------------------------------------------


class Certificates:
    """All that the handshakes of a worker choose from: the snapshot's certificates and the default."""

    def __init__(self, default: CertificateFiles | None) -> None:
        self._default = default
        self._table = CertificateTable()
        # The ones used last are at the end; None for a certificate that OpenSSL does not take.
        self._contexts: dict[CertificateId, tuple[Certificate, ssl.SSLContext | None]] = {}

    def apply(self, update: Update) -> None:
        """Take over the certificates an update changed."""
        self._table.update(update.certificates)
        for key in update.certificates:
            self._contexts.pop(key, None)

    def covers(self, host: bytes) -> bool:
        """Whether a client that asks for `host` (a Host value) over TLS gets a certificate; as far as is known, of one
        that nobody has asked for yet."""
        if self._default is not None:
            return True
        certificate = self._table.find(normalise_host(host).decode("ascii", "replace"))
        if certificate is None:
            return False
        known = self._contexts.get(certificate.id)
        return known is None or known[1] is not None

    def context(self, name: str | None) -> ssl.SSLContext | None:
        """The context for a server name, None if there is no certificate to show."""
        certificate = None if name is None else self._table.find(name)
        found = None if certificate is None else self._context_of(certificate)
        if found is None and self._default is not None:
            found = self._default.context()
        return found

    def _context_of(self, certificate: Certificate) -> ssl.SSLContext | None:
        found = self._contexts.pop(certificate.id, None)
        if found is None:
            found = (certificate, self._made(certificate))
            if len(self._contexts) >= MAX_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
        self._contexts[certificate.id] = found
        return found[1]

    def _made(self, certificate: Certificate) -> ssl.SSLContext | None:
        context = server_context()
        try:
            load(context, certificate.chain, certificate.key)
        except UnusableCertificate as error:
            _log.error("the certificate of Secret %s is not used: %s", certificate.id, error)
            return None
        return context

    def __len__(self) -> int:
        return len(self._table)


# --- connections ------------------------------------------------------------------------------------------------------


class TlsListener:
    """What the connections of one listening address share. `above` makes the HTTP connections, and has the limits."""

    def __init__(self, above: Listener, certificates: Certificates) -> None:
        self.loop = asyncio.get_running_loop()
        self.above = above
        self.certificates = certificates
        self.traffic = above.traffic
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.handshaking: set[TlsConnection] = set()
        self._front = server_context()
        self._front_until = self.loop.time() + TICKET_KEY_LIFE
        self._lull: float | None = None

    def protocol(self) -> TlsConnection:
        """The protocol factory for `create_server`: one connection."""
        return TlsConnection(self)

    def session(self, context: ssl.SSLContext) -> ssl.SSLObject:
        """A new session that shows the context's certificate."""
        now = self.loop.time()
        if now > self._front_until:
            self._front = server_context()
            self._front_until = now + TICKET_KEY_LIFE
        session = self._front.wrap_bio(self.incoming, self.outgoing, server_side=True)
        session.context = context
        return session

    def is_full(self) -> bool:
        """Whether a connection more is one too many; those that negotiate count."""
        traffic = self.traffic
        return traffic.downstream_connections + traffic.tls_handshaking >= self.above.limits.max_connections

    def drain(self, lull: float) -> None:
        """Close the connections on which nothing comes for `lull` seconds; others finish their handshake, and then are
        as those that had finished it before."""
        self._lull = lull
        for connection in self.handshaking:
            connection.drain(lull)

    def break_off(self) -> None:
        """End the handshakes in hand, now."""
        for connection in list(self.handshaking):
            connection.abort()

    def begin_http(self, transport: TlsConnection) -> None:
        """A session has been made; the HTTP connection over it begins."""
        above = self.above.protocol()
        transport.set_protocol(above)
        above.connection_made(transport)
        if self._lull is not None:
            self.above.drain(self._lull)  # again, for this one too


class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """See the module. The protocol of a socket below, the transport of an HTTP connection above."""

    __slots__ = (
        "_above",
        "_begun",
        "_broken",
        "_closing",
        "_half_closed",
        "_listener",
        "_peer",
        "_raw",
        "_session",
        "_timer",
        "_write_ended",
        "_write_paused",
    )

    def __init__(self, listener: TlsListener) -> None:
        super().__init__()
        self._listener = listener
        self._above: asyncio.Protocol | None = None
        self._session: ssl.SSLObject | None = None
        self._begun = b""
        self._closing = False
        self._broken = False  # OpenSSL must not be asked to say goodbye after a fatal error
        self._half_closed = False
        self._write_ended = False
        self._write_paused = False
        self._timer: asyncio.TimerHandle | None = None

    # --- the handshake ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        listener = self._listener
        self._raw = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        self._peer = listener.above.peer(transport)
        # Who is refused learns why only after a handshake, and that is what the limits are to spare us: cut off, then.
        if listener.is_full():
            self._refuse(Overloaded)
            return
        if listener.above.enter(self._peer) > 0:
            listener.above.leave(self._peer)
            self._refuse(TooManyConnections)
            return
        listener.handshaking.add(self)
        listener.traffic.tls_handshaking += 1
        self._timer = listener.loop.call_later(HANDSHAKE_TIMEOUT, self._fail, "timeout")

    def _refuse(self, error: type[GatewayError]) -> None:
        self._closing = True
        self._listener.traffic.limit_refusals[error.limit] += 1
        self._raw.abort()

    def data_received(self, data: bytes) -> None:
        if self._above is not None:
            self._decrypt(data)
        elif not self._closing:
            self._negotiate(data)

    def _negotiate(self, data: bytes) -> None:
        session = self._session
        if session is None:
            self._begun += data
            session = self._session = self._try_begin(self._begun)
            if session is None:
                return
            data, self._begun = self._begun, b""
        listener = self._listener
        listener.incoming.write(data)
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._broken = True
            listener.incoming.read()
            self._flush()  # the alert
            self._fail(_REASONS.get(error.reason or "", "other"))
        else:
            self._flush()
            self._established(session)

    def _try_begin(self, begun: bytes) -> ssl.SSLObject | None:
        """The session once the ClientHello is complete and names a host that is served."""
        try:
            hello = read_hello(begun)
        except NotTls:
            if begun[:1].isalpha():
                self._raw.write(_PLAIN_REPLY % self._listener.above.date())
            self._fail("plain")
            return None
        except BadHello:
            self._raw.write(_ALERT_DECODE_ERROR)
            self._fail("other")
            return None
        if hello is None:
            return None
        context = self._listener.certificates.context(hello.name)
        if context is None:
            self._raw.write(_ALERT_UNRECOGNIZED_NAME)
            self._fail("name")
            return None
        return self._listener.session(context)

    def _fail(self, reason: str) -> None:
        if not self._end_handshake():
            return
        self._listener.traffic.tls_failures[reason] += 1
        self._closing = True
        if reason == "timeout":
            self._raw.abort()
        else:
            self._raw.close()

    def _end_handshake(self) -> bool:
        """Take the connection off the list of those that negotiate, and say whether it was there."""
        if self._timer is None:
            return False
        self._timer.cancel()
        self._timer = None
        self._listener.handshaking.discard(self)
        self._listener.traffic.tls_handshaking -= 1
        self._listener.above.leave(self._peer)
        return True

    def _established(self, session: ssl.SSLObject) -> None:
        self._end_handshake()
        listener = self._listener
        listener.traffic.tls_handshakes += 1
        listener.traffic.tls_resumed += session.session_reused is True
        early = listener.incoming.read()  # the first request may come along with the client's last message
        listener.begin_http(self)
        if early and not self._closing:
            self._decrypt(early)

    def drain(self, lull: float) -> None:
        """Close if the client says nothing for `lull` seconds."""
        if self._timer is not None and self._session is None and not self._begun:
            self._timer.cancel()
            self._timer = self._listener.loop.call_later(lull, self._lulled)

    def _lulled(self) -> None:
        if self._session is None and not self._begun:
            self._fail("timeout")
        else:
            self._timer = self._listener.loop.call_later(HANDSHAKE_TIMEOUT, self._fail, "timeout")

    # --- from the client ----------------------------------------------------------------------------------------------

    def _decrypt(self, data: bytes) -> None:
        session, above = self._session, self._above
        if session is None or above is None:
            return
        incoming = self._listener.incoming
        incoming.write(data)
        pieces: list[bytes] = []
        ended = False
        try:
            while incoming.pending and not ended:
                piece = session.read(_RECORD)  # never more than a record's worth
                if piece:
                    pieces.append(piece)
                else:
                    ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._broken = True
        if incoming.pending:
            incoming.read()  # what came after the client's goodbye, or after an error
        if self._listener.outgoing.pending and not self._answered():
            return
        if pieces:
            above.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._broken:
            self._raw.close()
        elif ended and not self._closing and self._above is not None:
            self._half_closed = bool(self._above.eof_received())
            if not self._half_closed:
                self.close()

    def _answered(self) -> bool:
        """Send what OpenSSL itself has to say: an alert, a key update. A client that has it say more and more and
        doesn't read is cut off."""
        if self._write_paused:
            self._listener.outgoing.read()
            self._raw.abort()
            return False
        self._flush()
        return True

    def eof_received(self) -> bool:
        """The end of the socket. Without the client's goodbye before it the rest may be missing (RFC 8446 section 6.1),
        so that is a connection that broke; after it, the connection above has said whether to stay."""
        if self._above is None:
            self._fail("closed")
            return False
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("closed")
        above, self._above = self._above, None
        self._session = None
        if above is not None:
            above.connection_lost(exc)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another connection above takes over."""
        self._above = cast("asyncio.Protocol", protocol)

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._above is not None:
            self._above.resume_writing()

    # --- to the client ------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        session = self._session
        if session is None or self._closing or self._broken or self._write_ended or not data:
            return
        if len(data) <= _RECORD:
            session.write(data)
            self._raw.write(self._listener.outgoing.read())
            return
        whole = memoryview(data)
        for start in range(0, len(whole), _RECORD):
            session.write(whole[start : start + _RECORD])
            self._raw.write(self._listener.outgoing.read())

    def _flush(self) -> None:
        outgoing = self._listener.outgoing
        if outgoing.pending:
            self._raw.write(outgoing.read())

    def _say_goodbye(self) -> None:
        """Send close_notify; the client's own is not waited for (RFC 8446 section 6.1)."""
        if self._session is not None and not self._broken and not self._write_ended:
            self._write_ended = True
            with suppress(ssl.SSLError):
                self._session.unwrap()
            self._flush()

    def close(self) -> None:
        """Say goodbye, and close once everything is sent."""
        if not self._closing:
            self._say_goodbye()
            self._closing = True
            self._raw.close()

    def abort(self) -> None:
        """Close at once and without a goodbye: the client must not take what it got for the whole."""
        self._closing = True
        self._raw.abort()

    def write_eof(self) -> None:
        """Say goodbye and go on reading."""
        self._say_goodbye()
        self._raw.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object` is the session; anything else is the socket's."""
        return self._session if name == "ssl_object" else self._raw.get_extra_info(name, default)
