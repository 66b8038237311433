"""TLS Secrets in, the gateways' certificates out.

Theory of operation
-------------------
A KIngress claims hosts for Secrets (`spec.tls`); a Secret of type kubernetes.io/tls is read into `Material`, once, and
checked for all that would make a handshake fail: that it is PEM, that the key is the certificate's and strong enough,
that it has not expired. What does not pass is refused with a sentence, and whoever calls keeps what there was before:
a certificate that is about to expire is better than none.

`CertificateTable` joins the two. A certificate goes to the gateways while a KIngress claims it, for those hosts it is
really for (RFC 6125: the DNS names in subjectAltName, where a wildcard stands for one label; the common name is not
looked at, as in browsers and Go). Other hosts of the claim get none, so they are not sent to https either.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from controller.apis.meta import format_time
from gateway.contract import Certificate, CertificateId

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from controller.apis.meta import JsonObject
    from gateway.contract import RouteId

SECRET_TYPE = "kubernetes.io/tls"
_LEAST_RSA_BITS = 2048
"""OpenSSL's security level 2, the default, takes no shorter ones."""


class BrokenCertificate(ValueError):
    """A Secret that TLS can't be offered with; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A KIngress' wish to have `hosts` served with the certificate in a Secret; () stands for all of its names."""

    secret: CertificateId
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """What a TLS Secret holds, in PEM as we would write it. `names` are the DNS names that it is for, lower-case."""

    names: tuple[str, ...]
    expires: datetime
    chain: str
    key: str = field(repr=False)

    def covers(self, host: str) -> bool:
        """Whether a client that asks for `host`, a name or a wildcard, accepts it."""
        return host in self.names or (not host.startswith("*.") and f"*.{host.partition('.')[2]}" in self.names)


# --- Secrets ----------------------------------------------------------------------------------------------------------


def material(secret_id: CertificateId, secret: JsonObject | None, now: datetime) -> Material:
    """The certificate and key in a Secret (None: there is none of this type). Raises BrokenCertificate."""
    if secret is None:
        raise BrokenCertificate(f"there is no Secret {secret_id} of type {SECRET_TYPE}")
    where = f"Secret {secret_id}"
    chain = _chain(where, _entry(where, secret, "tls.crt"))
    key = _key(where, _entry(where, secret, "tls.key"))
    leaf = chain[0]
    if leaf.public_key() != key.public_key():
        raise BrokenCertificate(f"{where}: tls.key is not the key of the certificate in tls.crt")
    if leaf.not_valid_after_utc <= now:
        raise BrokenCertificate(f"{where}: its certificate expired at {format_time(leaf.not_valid_after_utc)}")
    return Material(
        names=_names(leaf),
        expires=leaf.not_valid_after_utc,
        chain="".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in chain),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


def _entry(where: str, secret: JsonObject, name: str) -> bytes:
    text = (secret.get("data") or {}).get(name)
    if not text:
        raise BrokenCertificate(f"{where}: {name} is missing")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenCertificate(f"{where}: {name} is not base64") from error


def _chain(where: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise BrokenCertificate(f"{where}: tls.crt is no certificate in PEM") from error


def _key(where: str, pem: bytes) -> PrivateKeyTypes:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise BrokenCertificate(f"{where}: tls.key is encrypted; it has to be without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BrokenCertificate(f"{where}: tls.key is no private key in PEM") from error
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _LEAST_RSA_BITS:
        raise BrokenCertificate(
            f"{where}: an RSA key of {key.key_size} bits is too weak; {_LEAST_RSA_BITS} is the least"
        )
    return key


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(sorted({name.lower() for name in names.get_values_for_type(x509.DNSName)}))


# --- what gateways have to be told ------------------------------------------------------------------------------------


class CertificateTable:
    """What is claimed, what the Secrets hold, and what was told; `drain` is the difference, and takes it as told."""

    __slots__ = ("_by_route", "_claims", "_known", "_sent", "_touched")

    def __init__(self) -> None:
        self._by_route: dict[RouteId, tuple[Claim, ...]] = {}
        self._claims: defaultdict[CertificateId, dict[RouteId, set[str]]] = defaultdict(dict)
        self._known: dict[CertificateId, Material] = {}
        self._sent: dict[CertificateId, Certificate] = {}
        self._touched: set[CertificateId] = set()

    def claim(self, route_id: RouteId, claims: Iterable[Claim]) -> None:
        """All that a KIngress claims from now on; () when it is gone."""
        for claim in self._by_route.pop(route_id, ()):
            self._claims[claim.secret].pop(route_id, None)
            self._touched.add(claim.secret)
        kept = tuple(claims)
        for claim in kept:
            self._claims[claim.secret].setdefault(route_id, set()).update(claim.hosts or (_EVERY,))
            self._touched.add(claim.secret)
        if kept:
            self._by_route[route_id] = kept
        for secret in [secret for secret in self._touched if not self._claims[secret]]:
            del self._claims[secret]
            self._known.pop(secret, None)

    def is_claimed(self, secret: CertificateId) -> bool:
        """Whether any KIngress asks for it."""
        return secret in self._claims

    def set(self, secret: CertificateId, value: Material) -> None:
        """What a Secret holds now. One that is broken is not set: the former value stays."""
        if secret in self._claims:
            self._known[secret] = value
            self._touched.add(secret)

    def drain(self) -> dict[CertificateId, Certificate | None]:
        """What changed since the last drain; None for what is to be dropped."""
        changes: dict[CertificateId, Certificate | None] = {}
        for secret in self._touched:
            value = self._certificate(secret)
            if value == self._sent.get(secret):
                continue
            changes[secret] = value
            if value is None:
                del self._sent[secret]
            else:
                self._sent[secret] = value
        self._touched.clear()
        return changes

    def _certificate(self, secret: CertificateId) -> Certificate | None:
        known = self._known.get(secret)
        if known is None:
            return None
        wanted = set[str]().union(*self._claims[secret].values())
        hosts = {host for host in wanted if known.covers(host)}
        if _EVERY in wanted:
            hosts |= set(known.names)
        return Certificate(secret, tuple(sorted(hosts)), known.chain, known.key) if hosts else None


_EVERY = ""
"""In place of a host: every name of the certificate."""
