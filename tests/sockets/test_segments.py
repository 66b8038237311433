"""What came in one piece leaves in one: each write of ours is a system call here and a segment, a wake-up, there."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.sockets.gateway import Gateway

_SEGMENTS_AT = 152  # of tcpi_data_segs_in in Linux's struct tcp_info
HEAD = b"POST / HTTP/1.1\r\nHost: hello.default.localhost\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def segments_in(writer: asyncio.StreamWriter) -> int:
    """How many segments with data the connection has received."""
    info = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (count,) = struct.unpack_from("I", info, _SEGMENTS_AT)
    return int(count)


@pytest.mark.parametrize(
    ("request_bytes", "segments"),
    [
        (HEAD.replace(b"POST", b"GET") + b"\r\n", 1),
        (HEAD + b"Content-Length: 5\r\n\r\nhello", 1),
        (HEAD.replace(b"POST", b"PUT") + b"Content-Length: 5\r\n\r\nhello", 1),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 2),  # the head does not wait for chunks
    ],
)
async def test_a_request_that_came_whole(gateway: Gateway, request_bytes: bytes, segments: int) -> None:
    """Head and content go to the endpoint together; the same for one that waited for its connection."""
    counts: asyncio.Queue[int] = asyncio.Queue()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before = 0
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"\r\n\r\n" in request_bytes[:-4]:
                await reader.readuntil(b"0\r\n\r\n" if b"chunked" in head else b"hello")
            counts.put_nowait(segments_in(writer) - before)
            before = segments_in(writer)
            writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client()
    for expected in (1, segments):  # the first had to wait, until all of it was here
        client.send(request_bytes)
        await client.response(2)
        assert counts.get_nowait() == expected
    client.close()


@pytest.mark.parametrize(
    "response",
    [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
)
async def test_a_response_that_came_whole(gateway: Gateway, response: bytes) -> None:
    """Head, content and the last chunk go to the client together."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(response)

    gateway.route(await gateway.endpoint(endpoint))
    client = await gateway.client()
    for number in (1, 2):
        client.send(HEAD.replace(b"POST", b"GET") + b"\r\n")
        await client.exactly(len(response))
        assert segments_in(client.writer) == number
    client.close()
