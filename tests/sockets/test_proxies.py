"""Behind a trusted proxy, over real sockets."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from gateway.config import Limits

if TYPE_CHECKING:
    from tests.sockets.gateway import Gateway

GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\nConnection: close\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("trusted_proxies", "client", "chain"),
    [
        ((ip_network("127.0.0.0/8"),), "1.1.1.1", b"1.1.1.1, 127.0.0.1"),
        ((ip_network("10.0.0.0/8"),), "127.0.0.1", b"127.0.0.1"),
        ((), "127.0.0.1", b"1.1.1.1, 127.0.0.1"),
    ],
)
async def test_who_the_client_is(gateway: Gateway, client: str, chain: bytes) -> None:
    """The endpoint gets the chain as far as it is believed, and the access log names whom it leads to."""
    heads = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    gateway.route(await gateway.endpoint(endpoint))
    for message in (GET, GET.replace(b"hello", b"nowhere"), GET.replace(b" / ", b" nonsense ")):
        reader, writer = await gateway.connect()
        writer.write(message)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
    assert b"\r\nx-forwarded-for: %b\r\n" % chain in heads[0]
    gateway.access_log.flush()
    lines = [json.loads(line) for line in gateway.log.read_bytes().splitlines()]
    # A head that could not be read leads nowhere.
    assert [(one["status"], one["client"]) for one in lines] == [(200, client), (404, client), (400, "127.0.0.1")]


@pytest.mark.parametrize("gateway_limits", [Limits(max_connections_per_client=1)])
@pytest.mark.parametrize("trusted_proxies", [(ip_network("127.0.0.1"),)])
async def test_a_trusted_proxys_connections_are_not_one_clients(gateway: Gateway) -> None:
    """It may have as many as it needs."""
    gateway.route()
    connections = [await gateway.connect() for _ in range(3)]
    for _, writer in connections:
        writer.close()
    await gateway.left()
    assert not +gateway.traffic.limit_refusals
