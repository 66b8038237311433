"""The contract between the planes: what one side writes the other reads, and anything else is refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import (
    Ack,
    ContractError,
    Endpoint,
    Hello,
    Probe,
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
    parse_message,
    serialise_message,
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
)


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
        endpoints=tuple(
            draw(st.lists(st.builds(Endpoint, names, st.integers(1, 65535), names, st.booleans()), max_size=2))
        ),
    )


@st.composite
def updates(draw: st.DrawFn) -> Update:
    keys = draw(st.sets(revision_ids, max_size=3))
    return Update(
        base=draw(st.integers(0, 9)),
        version=draw(st.integers(1, 99)),
        routes=draw(st.dictionaries(route_ids, st.none() | st.lists(rules, max_size=2).map(tuple), max_size=3)),
        revisions={key: draw(st.none() | revisions(key)) for key in keys},
    )


stats = st.builds(Stat, revision_ids, seconds, seconds)
messages = (
    updates()
    | st.builds(Hello, names)
    | st.builds(Ack, st.integers(0, 2**53))
    | st.builds(Stats, st.lists(stats, max_size=3).map(tuple))
)


@given(messages)
def test_round_trip(message: Update | Hello | Ack | Stats) -> None:
    """What is serialised is parsed to the same value."""
    assert parse_message(serialise_message(message)) == message


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"type":"update"}', '{"type":"nonsense"}', '{"type":"stats","stats":[[1]]}', "\x00", "é"],
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


def test_apply_whole_state_forgets_the_old() -> None:
    """Base 0 is the whole state: what it does not name is gone."""
    a = RevisionId("default", "a")
    old = apply(Snapshot(), Update(0, 7, {}, {a: _revision("a")}))
    assert not apply(old, Update(0, 1, {}, {})).revisions


def test_apply_refuses_a_gap() -> None:
    """An update from a version that this worker does not hold is refused: a message was lost."""
    with pytest.raises(ContractError, match="version 3"):
        apply(Snapshot(version=2), Update(3, 4, {}, {}))
