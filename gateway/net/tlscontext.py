"""TLS contexts: versions, ciphers and certificates, for clients, and for the feed between the planes at both ends.

Theory of operation
-------------------
A certificate in files may be replaced at any time (cert-manager, a Secret's volume), and nobody tells: a server looks
at its files at each handshake that needs them, a client reads its CA anew for each connection.

OpenSSL, as Python has it, reads a key from a file only. It gets an anonymous one in memory (memfd) or, where there is
none, a private temporary file that is gone before the call returns.
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["CertificateFiles", "UnusableCertificate", "client_context", "load", "server_context"]

HTTP_PROTOCOLS = ("h2", "http/1.1")  # `Downstream` looks which it became

# Mozilla's "intermediate" configuration, https://wiki.mozilla.org/Security/Server_Side_TLS: forward secrecy and
# authenticated encryption only; TLS 1.3 suites are OpenSSL's own.
_CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)

_log = logging.getLogger(__name__)


class UnusableCertificate(ValueError):
    """Chain and key that TLS can't be offered with; the text says why."""


def server_context(protocols: Sequence[str] = HTTP_PROTOCOLS) -> ssl.SSLContext:
    """A context without certificate. `protocols` are for ALPN, the preferred first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # All suites left are good: a telephone without AES instructions may choose ChaCha20.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(protocols)
    return context


def client_context(ca: Path | None) -> ssl.SSLContext:
    """A context for a client that believes the certificate authorities in the file, or else the system's (15 ms to
    read), and wants the server's name in the certificate. Raises UnusableCertificate, OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    if ca is None:
        context.load_default_certs()
        return context
    with ca.open():  # OpenSSL's own error has no file name
        pass
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise UnusableCertificate(f"{ca} holds no certificate in PEM") from error
    return context


def load(context: ssl.SSLContext, chain: str, key: str) -> None:
    """Give the context its certificate. Raises UnusableCertificate."""
    try:
        with _as_file(f"{chain}\n{key}\n".encode()) as path:
            context.load_cert_chain(path, password=_no_password)
    except ssl.SSLError as error:
        raise UnusableCertificate(_why(error)) from error
    except ValueError as error:
        raise UnusableCertificate(str(error)) from error


def _no_password() -> str:
    """Without this OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted; it has to be without a password")


def _why(error: ssl.SSLError) -> str:
    match error.reason:
        case "KEY_VALUES_MISMATCH":
            return "the key is not the certificate's"
        case "EE_KEY_TOO_SMALL" | "CA_MD_TOO_WEAK" | "CA_KEY_TOO_SMALL":
            return "the certificate is too weak: RSA keys need 2048 bits, signatures SHA-256"
        case _:
            return "that is no certificate chain with its key in PEM"


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path under which only this process can read `content`, for the time of the block."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("zerogate-certificate", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp()  # mode 0600
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield path
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/"):
            os.unlink(path)


class CertificateFiles:
    """A certificate from a file with the chain and one with the key. They are looked at (two `stat`, 3 µs)
    at each handshake that needs them, so a replaced file counts at once; while the new ones can't be used the old
    certificate stays."""

    def __init__(self, chain: Path, key: Path, protocols: Sequence[str] = HTTP_PROTOCOLS) -> None:
        """Raises UnusableCertificate, OSError."""
        self._paths = (chain, key)
        self._protocols = protocols
        self._seen = self._signature()
        self._context = self._loaded()

    def context(self) -> ssl.SSLContext:
        """The context with what is in the files now, or was when they were last usable."""
        seen = self._signature()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = self._loaded()
            except (OSError, UnusableCertificate) as error:
                _log.error("the certificate in %s is not used, the former one stays: %s", self._paths[0], error)
        return self._context

    def front(self) -> ssl.SSLContext:
        """A context for a server that takes only one: each handshake shows what `context` gives by then. It resumes no
        sessions, so that it needs no key for tickets that would live as long as the server does."""
        front = server_context(self._protocols)
        front.options |= ssl.OP_NO_TICKET
        front.num_tickets = 0

        def show(session: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
            session.context = self.context()

        front.sni_callback = show
        return front

    def _signature(self) -> list[tuple[int, int, int] | None]:
        return [_identity(path) for path in self._paths]

    def _loaded(self) -> ssl.SSLContext:
        context = server_context(self._protocols)
        chain, key = self._paths
        load(context, chain.read_text(errors="replace"), key.read_text(errors="replace"))
        return context


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What is another as soon as the file is another; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
