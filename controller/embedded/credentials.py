"""What makes the embedded API server private: its CA, its server certificate, the bearer token and the kubeconfig; and
the gateway's certificate for TLS on this machine, which the same CA signs.

The server can start processes, so only the user who started it may talk to it. Everything is made once in one
directory (mode 0700, files 0600) and used again at each start, so that a kubeconfig stays valid over restarts; only a
certificate within 30 days of its end is made anew. Keys are ECDSA P-256: a handshake costs a tenth of RSA-2048's.
Files appear whole or not at all (written aside, then renamed).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

USER = "zerogate-admin"
"""The name of the one user; Knative writes it into serving.knative.dev/creator."""

_CA_LIFE = timedelta(days=3650)
_SERVER_LIFE = timedelta(days=397)  # what TLS clients accept at most of a server certificate
_RENEW_BEFORE = timedelta(days=30)
_CLOCK_SKEW = timedelta(minutes=5)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,}")
_NAMES = ("localhost",)
_ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths of the PEM files, and the token. `kubeconfig` is written by `write_kubeconfig` once the URL is known."""

    ca: Path
    certificate: Path
    key: Path
    token: str
    kubeconfig: Path

    @property
    def ca_key(self) -> Path:
        return self.ca.with_name("ca.key")

    def accepts(self, token: str) -> bool:
        """Whether `token` is ours, in constant time."""
        return hmac.compare_digest(_digest(token), _digest(self.token))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.certificate, self.key)
        return context

    def write_kubeconfig(self, url: str) -> None:
        """Points `kubeconfig` at `url` (`https://127.0.0.1:6443`), with everything embedded."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "zerogate", "cluster": {"server": url, "certificate-authority-data": _base64(self.ca)}}
            ],
            "users": [{"name": USER, "user": {"token": self.token}}],
            "contexts": [
                {"name": "zerogate", "context": {"cluster": "zerogate", "user": USER, "namespace": "default"}}
            ],
            "current-context": "zerogate",
        }
        _write(self.kubeconfig, yaml.safe_dump(config, sort_keys=False).encode())


def load_or_create(directory: Path, now: datetime, *, kubeconfig: Path | None = None) -> Credentials:
    """Loads the credentials in `directory`, making what is missing or about to expire. `kubeconfig` defaults to a file
    beside them. Raises OSError, or ValueError when a file there is not what it should be."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = Credentials(
        ca=directory / "ca.crt",
        certificate=directory / "server.crt",
        key=directory / "server.key",
        token=_token(directory / "token"),
        kubeconfig=kubeconfig or directory / "kubeconfig",
    )
    if not _is_current(found.ca, now) or not found.ca_key.exists():
        _make_ca(found.ca, found.ca_key, now)
        found.certificate.unlink(missing_ok=True)
    if not _is_current(found.certificate, now) or not found.key.exists():
        _make_server(found, now)
    try:
        found.server_context()
    except ssl.SSLError as error:
        raise ValueError(
            f"{found.key}: not the key of {found.certificate.name}; delete both to have new ones made"
        ) from error
    return found


class GatewayCertificate:
    """The certificate, signed by our CA, that the gateway shows for all hosts, in `chain` and `key`. It is for the
    parents of the hosts (`*.default.localhost`), and made anew when a host comes that it is not for; the key stays, so
    that the two files never contradict each other."""

    def __init__(self, credentials: Credentials, now: datetime) -> None:
        """Raises OSError, or ValueError when a file there is not what it should be."""
        self._credentials = credentials
        self.chain = credentials.ca.with_name("gateway.crt")
        self.key = credentials.ca.with_name("gateway.key")
        if not self.key.exists():
            _write(self.key, _private_pem(ec.generate_private_key(ec.SECP256R1())))
        self._names = {"localhost"}
        self._issue(now)

    def cover(self, hosts: Iterable[str], now: datetime) -> None:
        """See to it that the certificate is for all of these too. Raises as the constructor does."""
        names = {_widest(host) for host in hosts}
        if not names <= self._names:
            self._names |= names
            self._issue(now)

    def _issue(self, now: datetime) -> None:
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(self._names)]
        key = _ec_key(self.key, "to have a new one made")
        _write(self.chain, _issued(self._credentials, "zerogate gateway", alternatives, key, now))


def _widest(host: str) -> str:
    """The wildcard that takes a host. OpenSSL takes none directly below a top-level name, as in `*.localhost`."""
    parent = host.partition(".")[2]
    return f"*.{parent}" if "." in parent else host


def _token(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(32).encode())
    token = path.read_text(errors="replace").strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{path}: not a token of this program; delete it to have a new one made")
    return token


def _is_current(path: Path, now: datetime) -> bool:
    if not path.exists():
        return False
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not a PEM certificate; delete it to have a new one made") from error
    return certificate.not_valid_after_utc - _RENEW_BEFORE > now


def _make_ca(path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zerogate local CA")])
    builder = (
        _certificate(name, name, key.public_key(), now, _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write(key_path, _private_pem(key))
    _write(path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _make_server(target: Credentials, now: datetime) -> None:
    alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in _NAMES]
    alternatives += [x509.IPAddress(ipaddress.ip_address(each)) for each in _ADDRESSES]
    key = ec.generate_private_key(ec.SECP256R1())
    _write(target.key, _private_pem(key))
    _write(target.certificate, _issued(target, "zerogate API server", alternatives, key, now))


def _issued(
    credentials: Credentials,
    common_name: str,
    alternatives: list[x509.GeneralName],
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> bytes:
    """A server certificate of our CA, in PEM."""
    ca = x509.load_pem_x509_certificate(credentials.ca.read_bytes())
    ca_key = _ec_key(credentials.ca_key, "to have a new CA made")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        _certificate(name, ca.subject, key.public_key(), now, _SERVER_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _ec_key(path: Path, remedy: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):  # no PEM, or one with a password
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path}: not an EC private key; delete it {remedy}")  # noqa: TRY004
    return key


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _digest(text: str) -> bytes:
    # Digests have one length, so that the comparison doesn't tell the token's; and non-ASCII input is no error.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    aside.replace(path)
