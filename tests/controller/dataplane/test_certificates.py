"""TLS Secrets: what is taken, why the rest is not, and what gateways are told."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from controller.dataplane.certificates import BrokenCertificate, CertificateTable, Claim, Material, material
from gateway.contract import CertificateId, RouteId

ID = CertificateId("ns", "tls")
NOW = datetime.now(UTC)
ONE, TWO = RouteId("ns", "one"), RouteId("ns", "two")


def secret(chain, key):
    return {"data": {"tls.crt": encoded(chain), "tls.key": encoded(key)}}


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def test_a_good_one(authority):
    """Names in lower case, PEM that is ours (comments and the like are gone), the time of its end."""
    chain, key = authority.issue("A.test", "*.b.test")
    found = material(ID, secret("a comment\n" + chain + authority.pem, key), NOW)
    assert found.names == ("*.b.test", "a.test")
    assert found.chain == chain + authority.pem
    assert timedelta(days=29) < found.expires - NOW < timedelta(days=31)
    assert "PRIVATE" in found.key
    assert "PRIVATE" not in repr(found)


@pytest.mark.parametrize("host", ["a.test", "x.b.test", "*.b.test"])
def test_hosts_it_is_for(authority, host):
    """Exact names, and one label in the place of a wildcard."""
    assert material(ID, secret(*authority.issue("a.test", "*.b.test")), NOW).covers(host)


@pytest.mark.parametrize("host", ["b.test", "x.a.test", "y.x.b.test", "*.test", "*.x.b.test", ""])
def test_hosts_it_is_not_for(authority, host):
    """No more than one label, nor a wider wildcard."""
    assert not material(ID, secret(*authority.issue("a.test", "*.b.test")), NOW).covers(host)


def test_keys_of_other_kinds(authority):
    """RSA of 2048 bits; a certificate without DNS names is for no host."""
    key = rsa.generate_private_key(65537, 2048)
    assert material(ID, secret(*authority.issue("a.test", key=key)), NOW).names == ("a.test",)
    key = ed25519.Ed25519PrivateKey.generate()
    assert material(ID, secret(*authority.issue(key=key)), NOW).names == ()


def broken(authority):
    chain, key = authority.issue("a.test")
    weak = rsa.generate_private_key(65537, 1024)
    return {
        "there is no Secret ns/tls of type kubernetes.io/tls": None,
        "Secret ns/tls: tls.crt is missing": {},
        "Secret ns/tls: tls.key is missing": {"data": {"tls.crt": encoded(chain)}},
        "Secret ns/tls: tls.crt is not base64": {"data": {"tls.crt": "?", "tls.key": encoded(key)}},
        "Secret ns/tls: tls.crt is no certificate": secret("nonsense", key),
        "Secret ns/tls: tls.key is no private key": secret(chain, "nonsense"),
        "Secret ns/tls: tls.key is encrypted": secret(chain, authority.encrypted(key)),
        "Secret ns/tls: tls.key is not the key of": secret(chain, authority.issue("a.test")[1]),
        "Secret ns/tls: its certificate expired at 20": secret(*authority.issue("a.test", days=-1)),
        "Secret ns/tls: an RSA key of 1024 bits": secret(*authority.issue("a.test", key=weak)),
    }


def test_what_cannot_be_used_says_why(authority):
    """One sentence that names the Secret and the entry, and holds nothing of the key."""
    for reason, value in broken(authority).items():
        with pytest.raises(BrokenCertificate) as refused:
            material(ID, value, NOW)
        assert str(refused.value).startswith(reason)


# --- table ------------------------------------------------------------------------------------------------------------


def known(*names, key="key"):
    return Material(tuple(names), NOW, "chain", key)


def told(table):
    return {key: None if value is None else (value.hosts, value.key) for key, value in table.drain().items()}


def test_a_certificate_is_told_while_it_is_claimed():
    """For the hosts of all who claim it that it is really for; and dropped with the last claim."""
    table = CertificateTable()
    table.set(ID, known("a.test"))
    assert not table.is_claimed(ID)
    table.claim(ONE, [Claim(ID, ("a.test", "b.test"))])
    assert told(table) == {}, "it was not claimed when it was set"
    table.set(ID, known("a.test", "*.c.test"))
    assert told(table) == {ID: (("a.test",), "key")}
    table.claim(TWO, [Claim(ID, ("x.c.test",))])
    assert told(table) == {ID: (("a.test", "x.c.test"), "key")}
    table.claim(ONE, ())
    assert told(table) == {ID: (("x.c.test",), "key")}
    table.claim(TWO, ())
    assert told(table) == {ID: None}
    assert not table.is_claimed(ID)


def test_a_claim_without_hosts_is_for_all_its_names():
    """As in Knative, where an entry may leave them out."""
    table = CertificateTable()
    table.claim(ONE, [Claim(ID, ())])
    table.set(ID, known("a.test", "*.c.test"))
    assert told(table) == {ID: (("*.c.test", "a.test"), "key")}


def test_what_came_out_the_same_is_not_told_again():
    """And a replaced one is."""
    table = CertificateTable()
    table.claim(ONE, [Claim(ID, ("a.test",))])
    table.set(ID, known("a.test"))
    table.drain()
    table.set(ID, known("a.test"))
    table.claim(ONE, [Claim(ID, ("a.test",))])
    assert told(table) == {}
    table.set(ID, known("a.test", key="new"))
    assert told(table) == {ID: (("a.test",), "new")}
    table.set(ID, known("other.test"))
    assert told(table) == {ID: None}
