from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import RevisionId
from gateway.core.peers import Ask, Cancel, Fail, Free, Grant, Hold, Message, PeerError, Refuse, parse, serialise
from gateway.core.throttler import PlaceId

texts = st.text(max_size=5)
numbers = st.integers(0, 2**53)
revisions = st.builds(RevisionId, texts, texts)
places = st.builds(PlaceId, texts, st.integers(0, 65535), texts)
messages = (
    st.builds(Ask, numbers, revisions)
    | st.builds(Cancel, numbers)
    | st.builds(Free, revisions, places)
    | st.builds(Fail, revisions, places)
    | st.builds(Grant, numbers, numbers, revisions, places)
    | st.builds(Refuse, numbers, numbers, texts, texts)
    | st.builds(
        Hold,
        numbers,
        texts,
        st.dictionaries(revisions, st.dictionaries(places, st.integers(1, 99), max_size=2), max_size=2),
        st.dictionaries(revisions, st.lists(numbers, max_size=3).map(tuple), max_size=2),
    )
)


@given(messages)
def test_round_trip(message: Message) -> None:
    """What is serialised is one line, and is parsed to the same value of the same kind."""
    line = serialise(message)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    parsed = parse(line)
    assert (type(parsed), parsed) == (type(message), message)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'["ask","1","a","b"]',
        b'["grant",1,2,"a","b","host"]',
        b'["free","a","b","host","port","pod"]',
        b'["hold",1,"e",[["a","b",[["h",1,"p",0]]]],[]]',
        b'["hold",1,"e",[["a","b",[["h",1,"p","9"]]]],[]]',
        b'["hold",1,"e",[1],[]]',
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    """Only PeerError comes out."""
    with pytest.raises(PeerError):
        parse(line)


@given(st.binary(max_size=40))
def test_noise_is_refused(noise: bytes) -> None:
    """No bytes make the parser raise anything but PeerError."""
    with pytest.raises(PeerError):
        parse(noise)
