"""The contract between the planes: what one side writes the other reads, and anything else is refused with a reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import (
    PART,
    Ack,
    Certificate,
    CertificateId,
    ContractError,
    Endpoint,
    Hello,
    InFlight,
    Leaving,
    Milestones,
    Peer,
    Peers,
    Probe,
    Resync,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Snapshot,
    Split,
    Stat,
    Stats,
    Update,
    apply,
    is_loopback,
    parse_message,
    serialise_message,
    whole,
)

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
texts = st.text(max_size=12)
fields = st.lists(st.tuples(names, texts), max_size=2).map(tuple)
revision_ids = st.builds(RevisionId, names, names)
route_ids = st.builds(RouteId, names, names)
seconds = st.floats(0, 1e6, allow_nan=False)
rules = st.builds(
    RouteRule,
    host=names,
    splits=st.lists(st.builds(Split, revision_ids, st.integers(1, 100), fields), min_size=1, max_size=3).map(tuple),
    cluster_local=st.booleans(),
    path=texts,
    match_fields=fields,
    append_fields=fields,
    rewrite_host=st.none() | names,
    redirect_port=st.integers(0, 65535),
)
certificate_ids = st.builds(CertificateId, names, names)
endpoints = st.builds(Endpoint, names, st.integers(1, 65535), names, st.booleans(), st.booleans())


@st.composite
def revisions(draw: st.DrawFn, key: RevisionId) -> Revision:
    return Revision(
        id=key,
        service=draw(names),
        configuration=draw(names),
        container_concurrency=draw(st.integers(0, 1000)),
        timeout=draw(seconds),
        response_start_timeout=draw(st.none() | seconds),
        idle_timeout=draw(st.none() | seconds),
        protocol=draw(st.sampled_from(["http1", "h2c"])),
        probe=draw(st.none() | st.builds(Probe, st.none() | texts, fields, seconds)),
        failure=draw(texts),
        queue_timeout=draw(st.none() | seconds),
        shrinking=draw(st.booleans()),
        endpoints=tuple(draw(st.lists(endpoints, max_size=2))),
    )


def certificates(key: CertificateId) -> st.SearchStrategy[Certificate]:
    return st.builds(Certificate, id=st.just(key), hosts=st.lists(names, max_size=2).map(tuple), chain=texts, key=texts)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    keys = draw(st.sets(revision_ids, max_size=3))
    return Update(
        base=draw(st.integers(0, 9)),
        version=draw(st.integers(1, 99)),
        routes=draw(st.dictionaries(route_ids, st.none() | st.lists(rules, max_size=2).map(tuple), max_size=3)),
        revisions={key: draw(st.none() | revisions(key)) for key in keys},
        certificates={key: draw(st.none() | certificates(key)) for key in draw(st.sets(certificate_ids, max_size=2))},
    )


stats = st.builds(Stat, revision_ids, seconds, seconds)
messages = (
    updates()
    | st.builds(Hello, names, texts)
    | st.just(Leaving())
    | st.builds(Peers, texts, st.lists(st.builds(Peer, names, texts, st.booleans()), max_size=3).map(tuple))
    | st.builds(Ack, st.integers(0, 2**53))
    | st.builds(Stats, st.lists(stats, max_size=3).map(tuple))
    | st.builds(InFlight, st.dictionaries(revision_ids, st.dictionaries(names, st.integers(1, 2**31)), max_size=3))
)


@given(messages)
def test_round_trip(message: Update | Peers | Hello | Ack | Stats | InFlight | Leaving) -> None:
    """What is serialised is parsed to the same value."""
    assert parse_message(serialise_message(message)) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"type":"update"}',
        '{"type":"nonsense"}',
        '{"type":"hello","worker":"w"}',
        '{"type":"peers","epoch":"e","workers":["w"]}',
        '{"type":"stats","stats":[[1]]}',
        '{"type":"inFlight","revisions":[["a","b",[]]]}',
        "\x00",
        "é",
    ],
)
def test_foreign_text_is_refused(text: str) -> None:
    """Only ContractError comes out for what is not a message, and it quotes the text."""
    with pytest.raises(ContractError):
        parse_message(text)


@given(st.binary(max_size=40))
def test_noise_is_refused(noise: bytes) -> None:
    """No bytes make the parser raise anything but ContractError."""
    with pytest.raises(ContractError):
        parse_message(noise)


def _revision(name: str) -> Revision:
    return Revision(RevisionId("default", name))


def test_apply_sets_and_drops() -> None:
    """An update replaces what it names, drops what it names with None and keeps the rest."""
    a, b = RevisionId("default", "a"), RevisionId("default", "b")
    first = apply(Snapshot(), Update(0, 1, {RouteId("default", "r"): ()}, {a: _revision("a"), b: _revision("b")}))
    second = apply(first, Update(1, 2, {}, {a: None}))
    assert second.version == 2
    assert dict(second.revisions) == {b: _revision("b")}
    assert dict(second.routes) == {RouteId("default", "r"): ()}
    assert a in first.revisions, "the old snapshot is untouched"


def test_certificates_change_as_the_rest_does() -> None:
    """Set, kept, dropped."""
    key = CertificateId("default", "tls")
    certificate = Certificate(key, ("a.test",), "chain", "key")
    first = apply(Snapshot(), Update(0, 1, {}, {}, {key: certificate}))
    second = apply(first, Update(1, 2, {}, {}))
    assert second.certificates == {key: certificate}
    assert not apply(second, Update(2, 3, {}, {}, {key: None})).certificates


def test_a_key_is_told_to_nobody() -> None:
    """Neither a log of the value nor the error about a frame shows the private key."""
    key = CertificateId("default", "tls")
    assert "SECRET" not in repr(Certificate(key, ("a.test",), "chain", "SECRET"))
    text = serialise_message(Update(0, 1, {}, {}, {key: Certificate(key, (), "c" * 200, "SECRET")}))
    with pytest.raises(ContractError) as refused:
        parse_message(text[:-1])
    assert "SECRET" not in str(refused.value)


def _state(version: int, *names: str) -> Snapshot:
    routes = {
        RouteId("default", name): (RouteRule(name, (Split(RevisionId("default", name), 100),)),) for name in names
    }
    certificates = {
        key: Certificate(key, (key.name,), "chain", "key") for key in (CertificateId("default", name) for name in names)
    }
    return Snapshot(version, routes, {RevisionId("default", name): _revision(name) for name in names}, certificates)


@pytest.mark.parametrize("count", [0, 1, PART // 2, PART, 3 * PART])
def test_a_whole_state_arrives_as_it_was(count: int) -> None:
    """In parts of PART entries at most, every one but the last announcing another; small states in one."""
    state = _state(7, *(f"n{number}" for number in range(count)))
    parts = [parse_message(serialise_message(part)) for part in whole(state)]
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert all(len(part.routes) + len(part.revisions) + len(part.certificates) <= PART for part in parts)
    assert (len(parts) == 1) is (3 * count <= PART)
    resync = Resync(Snapshot(), 7)
    for part in parts:
        resync.add(part)
    assert apply(Snapshot(), resync.change()) == state


def test_a_whole_state_changes_only_what_differs() -> None:
    """Whoever holds nearly the same gets a small change: what is new or other is set, what is missing dropped."""
    held, state = _state(9, "kept", "gone", "other"), _state(3, "kept", "other", "new")
    other = RevisionId("default", "other")
    revisions = {**state.revisions, other: replace(_revision("other"), timeout=1.0)}
    state = replace(state, revisions=revisions)
    resync = Resync(held, 3)
    for part in whole(state):
        resync.add(part)
    change = resync.change()
    assert {key.name: value is None for key, value in change.routes.items()} == {"gone": True, "new": False}
    assert {key.name: value is None for key, value in change.certificates.items()} == {"gone": True, "new": False}
    assert {key.name: value is None for key, value in change.revisions.items()} == {
        "gone": True,
        "new": False,
        "other": False,
    }
    assert apply(held, change) == state


@pytest.mark.parametrize("stray", [Update(3, 4, {}, {}), Update(0, 8, {}, {})])
def test_a_whole_state_takes_its_own_parts_only(stray: Update) -> None:
    """A change, or a part of another version, between them means that something was lost."""
    resync = Resync(Snapshot(), 7)
    with pytest.raises(ContractError, match="amid the whole state 7"):
        resync.add(stray)


def test_apply_refuses_a_gap() -> None:
    """An update from a version that this worker does not hold is refused: a message was lost."""
    with pytest.raises(ContractError, match="version 3"):
        apply(Snapshot(version=2), Update(3, 4, {}, {}))


@pytest.mark.parametrize(
    ("host", "stays"),
    [("127.8.9.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("host", False), ("", False)],
)
def test_what_stays_on_this_machine(host: str, *, stays: bool) -> None:
    """Loopback addresses and the name that means one; any other name may mean any address."""
    assert is_loopback(host) == stays


@given(st.builds(Milestones, *[st.none() | seconds] * 3))
def test_milestones_come_along_and_make_no_change(milestones: Milestones) -> None:
    """They travel with their endpoint, and an endpoint that differs in nothing else is the same one."""
    key = RevisionId("ns", "rev")
    plain = Revision(key, endpoints=(Endpoint("127.0.0.1", 1, "pod"),))
    told = Revision(key, endpoints=(Endpoint("127.0.0.1", 1, "pod", milestones=milestones),))
    arrived = parse_message(serialise_message(Update(0, 1, {}, {key: told})))
    assert isinstance(arrived, Update)
    (endpoint,) = arrived.revisions[key].endpoints  # type: ignore[union-attr]
    assert endpoint.milestones == milestones
    assert told == plain
