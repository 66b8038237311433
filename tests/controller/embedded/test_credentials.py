"""The CA, the server certificate, the token and the kubeconfig."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509

from controller.embedded.credentials import GatewayCertificate, load_or_create

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_everything_is_private_and_used_again(tmp_path: Path) -> None:
    """Files are 0600; a second start finds the same credential."""
    first = load_or_create(tmp_path / "pki", NOW)
    first.write_kubeconfig("https://127.0.0.1:6443")
    before = {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()}
    assert load_or_create(tmp_path / "pki", NOW + timedelta(days=30)) == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()} == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "pki").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


def test_the_server_certificate_is_for_loopback(tmp_path: Path) -> None:
    """Its names are localhost, 127.0.0.1 and ::1, and it is signed by our CA."""
    found = load_or_create(tmp_path, NOW)
    certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(found.ca.read_bytes()))


def test_a_certificate_near_its_end_is_made_anew_under_the_same_ca(tmp_path: Path) -> None:
    """A kubeconfig from before stays valid: the CA and the token are the same."""
    first = load_or_create(tmp_path, NOW)
    ca, certificate = first.ca.read_bytes(), first.certificate.read_bytes()
    later = load_or_create(tmp_path, NOW + timedelta(days=380))
    assert later.ca.read_bytes() == ca
    assert later.token == first.token
    assert later.certificate.read_bytes() != certificate


def test_only_the_token_is_accepted(tmp_path: Path) -> None:
    """Any other text is refused, also text that isn't ASCII."""
    found = load_or_create(tmp_path, NOW)
    assert found.accepts(found.token)
    for wrong in ("", found.token[:-1], found.token + "x", "ü", "\udcff"):
        assert not found.accepts(wrong)


def test_the_kubeconfig_holds_all_a_client_needs(tmp_path: Path) -> None:
    """Server, CA and token in one file, and its context is current."""
    found = load_or_create(tmp_path / "pki", NOW, kubeconfig=tmp_path / "kubeconfig")
    found.write_kubeconfig("https://127.0.0.1:1")
    config = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"
    assert config["users"][0]["user"]["token"] == found.token
    assert config["current-context"] == config["contexts"][0]["name"]


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    """The error says which file, and that deleting it helps."""
    load_or_create(tmp_path, NOW)
    (tmp_path / "server.crt").write_text("not PEM")
    with pytest.raises(ValueError, match=r"server\.crt: not a PEM certificate; delete it"):
        load_or_create(tmp_path, NOW)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("token", b"short", r"token: not a token of this program; delete it"),
        ("token", b"\xff" * 40, r"token: not a token of this program; delete it"),
        ("token", b"two words that are more than long enough", r"token: not a token of this program; delete it"),
        ("server.key", b"not PEM", r"server\.key: not the key of server\.crt; delete both"),
        ("ca.key", b"not PEM", r"ca\.key: not an EC private key; delete it"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    """Whatever is in it; following the advice helps."""
    load_or_create(tmp_path, NOW)
    (tmp_path / name).write_bytes(content)
    if name == "ca.key":
        (tmp_path / "server.crt").unlink()  # the CA's key is asked for when there is something to sign
    with pytest.raises(ValueError, match=complaint):
        load_or_create(tmp_path, NOW)
    (tmp_path / name).unlink()
    (tmp_path / "server.crt").unlink(missing_ok=True)
    load_or_create(tmp_path, NOW)


def test_anothers_key_is_not_taken_for_the_servers(tmp_path: Path) -> None:
    """A key that is one, but not this certificate's."""
    load_or_create(tmp_path / "a", NOW)
    load_or_create(tmp_path / "b", NOW)
    (tmp_path / "a" / "server.key").write_bytes((tmp_path / "b" / "server.key").read_bytes())
    with pytest.raises(ValueError, match=r"not the key of server\.crt; delete both"):
        load_or_create(tmp_path / "a", NOW)


def names(path: Path) -> list[str]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )


def test_the_gateways_certificate_grows_with_the_hosts(tmp_path: Path) -> None:
    """A wildcard for each parent, the host itself below a top-level name; one key for all of them, private and ours."""
    credentials = load_or_create(tmp_path, NOW)
    found = GatewayCertificate(credentials, NOW)
    key = found.key.read_bytes()
    assert names(found.chain) == ["localhost"]
    found.cover({"hello.default.localhost", "b.default.localhost", "hello.localhost"}, NOW)
    assert names(found.chain) == ["*.default.localhost", "hello.localhost", "localhost"]
    before = found.chain.read_bytes()
    found.cover({"other.default.localhost"}, NOW)
    assert found.chain.read_bytes() == before, "it is for that one already"
    assert found.key.read_bytes() == key
    certificate = x509.load_pem_x509_certificate(before)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(credentials.ca.read_bytes()))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (found.chain, found.key)} == {0o600}
    assert GatewayCertificate(credentials, NOW).key.read_bytes() == key


def test_a_gateway_key_that_is_none_is_refused(tmp_path: Path) -> None:
    """With what to do about it."""
    credentials = load_or_create(tmp_path, NOW)
    (tmp_path / "gateway.key").write_text("nonsense")
    with pytest.raises(ValueError, match=r"gateway\.key: not an EC private key; delete it"):
        GatewayCertificate(credentials, NOW)
