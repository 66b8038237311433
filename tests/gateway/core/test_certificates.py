"""Which certificate a name gets."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import Certificate, CertificateId
from gateway.core.certificates import CertificateTable

HOSTS = ("a.test", "b.test", "*.test", "*.a.test", "test")
NAMES = ("a.test", "b.test", "c.test", "x.a.test", "y.x.a.test", "test", "")


def certificate(name: str, *hosts: str) -> Certificate:
    return Certificate(CertificateId("ns", name), hosts, "chain", "key")


def found(table: CertificateTable, name: str) -> str | None:
    certificate = table.find(name)
    return None if certificate is None else certificate.id.name


def test_exact_wins_over_a_wildcard_of_one_label() -> None:
    """RFC 6125 section 6.4.3."""
    table = CertificateTable()
    one, wild = certificate("one", "a.test"), certificate("wild", "*.test")
    table.update({one.id: one, wild.id: wild})
    assert [found(table, name) for name in ("a.test", "b.test", "x.b.test", "test")] == ["one", "wild", None, None]


def test_the_first_by_name_has_a_host_that_several_claim() -> None:
    """Whatever came first; and the next has it when that one is gone."""
    table = CertificateTable()
    one, two = certificate("one", "a.test"), certificate("two", "a.test")
    table.update({two.id: two})
    table.update({one.id: one})
    assert found(table, "a.test") == "one"
    table.update({one.id: None})
    assert found(table, "a.test") == "two"


states = st.dictionaries(st.sampled_from("abc"), st.none() | st.sets(st.sampled_from(HOSTS)), max_size=3)


@given(st.lists(states, max_size=5))
def test_the_updates_add_up_to_the_whole(steps: list[dict[str, set[str] | None]]) -> None:
    """A table that was told every change answers as one that was told the end."""
    changing, whole = CertificateTable(), CertificateTable()
    end: dict[CertificateId, Certificate] = {}
    for step in steps:
        changes = {
            CertificateId("ns", name): None if hosts is None else certificate(name, *sorted(hosts))
            for name, hosts in step.items()
        }
        changing.update(changes)
        end = {key: value for key, value in {**end, **changes}.items() if value is not None}
    whole.update(dict(end))
    assert [found(changing, name) for name in NAMES] == [found(whole, name) for name in NAMES]
    assert len(changing) == len(end)
    changing.update(dict.fromkeys(end))
    assert [found(changing, name) for name in NAMES] == [None] * len(NAMES)
