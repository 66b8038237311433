"""What is read from a ClientHello is what OpenSSL put there; anything else is refused, never an accident."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.clienthello import MAX_HELLO, BadHello, NotTls, read_hello


def hello(name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = min(version, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = hello("a.example.com")


def records(message: bytes, *sizes: int) -> bytes:
    """A handshake message in records of these sizes, the last with the rest."""
    pieces = []
    for size in (*sizes, len(message)):
        pieces.append(message[:size])
        message = message[size:]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces if piece)


@pytest.mark.parametrize(
    ("name", "read"),
    [("a.example.com", "a.example.com"), ("A.Example.COM", "a.example.com"), (None, None), ("127.0.0.1", None)],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_server_name(name: str | None, read: str | None, version: ssl.TLSVersion) -> None:
    """Lower-case; None where the client names none (an address is no name)."""
    found = read_hello(hello(name, version))
    assert found is not None
    assert found.name == read


def test_pieces_are_waited_for() -> None:
    """No answer before the last byte, and what follows it does not matter."""
    assert [read_hello(HELLO[:size]) for size in range(len(HELLO))] == [None] * len(HELLO)
    assert read_hello(HELLO) == read_hello(HELLO + b"more") == ("a.example.com",)


@given(st.lists(st.integers(1, 400), max_size=10))
def test_records_may_cut_it_anywhere(sizes: list[int]) -> None:
    """RFC 8446 section 5.1: a message may span records."""
    assert read_hello(records(HELLO[5:], *sizes)) == ("a.example.com",)


@given(st.integers(5, len(HELLO) - 1), st.binary(min_size=1, max_size=4))
def test_no_other_exception_comes_out(position: int, noise: bytes) -> None:
    """Whatever is written into it."""
    spoiled = HELLO[:position] + noise + HELLO[position + len(noise) :]
    with suppress(BadHello, NotTls):
        read_hello(spoiled)


@given(st.binary(max_size=60))
def test_noise(noise: bytes) -> None:
    """Bytes that are no handshake record are not TLS."""
    with suppress(BadHello):
        if noise[:2] in (b"", b"\x16", b"\x16\x03"):
            read_hello(noise)
        else:
            with pytest.raises(NotTls):
                read_hello(noise)


def with_name(extension: bytes) -> bytes:
    """A minimal ClientHello with these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    body += len(extension).to_bytes(2, "big") + extension
    return records(b"\x01" + len(body).to_bytes(3, "big") + body)


def server_name(entries: bytes) -> bytes:
    content = len(entries).to_bytes(2, "big") + entries
    return b"\0\0" + len(content).to_bytes(2, "big") + content


ENTRY = b"\0\0\x06a.test"


def test_the_minimal_one() -> None:
    """The case that those below spoil; a final dot is dropped."""
    assert read_hello(with_name(server_name(ENTRY))) == ("a.test",)
    assert read_hello(with_name(server_name(b"\0\0\x07a.test."))) == ("a.test",)


@pytest.mark.parametrize(
    "extensions",
    [
        server_name(ENTRY) * 2,
        server_name(ENTRY + ENTRY),
        server_name(b"\x01\0\x06a.test"),
        server_name(b"\0\0\0"),
        server_name(b"\0\0\x06a\xff.tst"),
        server_name(b"\0\0\x06a\0.tst"),
        server_name(b"\0\0\x09a.test"),
        server_name(b""),
        b"\0\0\0\x05\0\0",
    ],
)
def test_what_openssl_might_read_otherwise_is_refused(extensions: bytes) -> None:
    """Two names, another kind of name, none, bytes that no host name has, lengths that don't fit."""
    with pytest.raises(BadHello):
        read_hello(with_name(extensions))


@pytest.mark.parametrize(
    "message",
    [
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x01\x02",
        b"\x16\x03\x01\x00\x04\x01\x00\x40\x01",
        records(b"\x01\0\x10\0" + bytes(100), *([1] * 16)),
    ],
)
def test_what_would_cost_too_much_is_refused(message: bytes) -> None:
    """Empty and overlong records, other messages, a message above MAX_HELLO, and one in crumbs."""
    assert MAX_HELLO == 0x4000
    with pytest.raises(BadHello):
        read_hello(message)
