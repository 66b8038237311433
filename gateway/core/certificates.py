"""Which certificate answers for a name.

An exact host wins over a wildcard, and a wildcard stands for one label (RFC 6125 section 6.4.3): `*.example.com` takes
`a.example.com`, neither `a.b.example.com` nor `example.com`. Where several certificates claim a host, the first by
namespace and name has it, so that all workers agree and no order of arrival decides. An update touches only the hosts
it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.contract import Certificate, CertificateId

__all__ = ["CertificateTable"]


class CertificateTable:
    """The certificates of a snapshot by host. Start empty, then `update` with each change."""

    __slots__ = ("_certificates", "_claims")

    def __init__(self) -> None:
        self._certificates: dict[CertificateId, Certificate] = {}
        self._claims: dict[str, list[CertificateId]] = {}  # sorted; the first has the host

    def update(self, changes: Mapping[CertificateId, Certificate | None]) -> None:
        """Set some certificates, or drop them where None."""
        for key, certificate in changes.items():
            before = self._certificates.pop(key, None)
            for host in () if before is None else before.hosts:
                claims = self._claims[host]
                claims.remove(key)
                if not claims:
                    del self._claims[host]
            if certificate is None:
                continue
            self._certificates[key] = certificate
            for host in certificate.hosts:
                claims = self._claims.setdefault(host, [])
                claims.append(key)
                claims.sort()

    def find(self, name: str) -> Certificate | None:
        """The certificate for a lower-case host name, None if there is none."""
        claims = self._claims.get(name) or self._claims.get("*." + name.partition(".")[2])
        return None if claims is None else self._certificates[claims[0]]

    def __len__(self) -> int:
        return len(self._certificates)
