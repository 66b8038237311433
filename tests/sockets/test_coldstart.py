"""What a response says of the cold start its request has waited for."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from gateway.contract import Milestones
from gateway.core.coldstart import PHASES
from tests.sockets.http2 import Client

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tests.sockets.gateway import Gateway, Handler

HOST = "hello.default.localhost"
GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
WHOLE = (
    b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n"
    b"Server-Timing: db;dur=53\r\nX-Zerogate-Cold-Start: none\r\n\r\nhi"
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"


def saying(answer: bytes) -> Handler:
    """An endpoint that answers each head so."""

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    return endpoint


def now() -> float:
    return datetime.now(UTC).timestamp()


async def woken(gateway: Gateway, handler: Handler, ask: Callable[[], object]) -> None:
    """A request for a revision without endpoints, and then one that came about meanwhile."""
    port = await gateway.endpoint(handler)
    gateway.route()
    ask()
    await gateway.parked(1)
    gateway.route(port, milestones=Milestones(now(), now(), now()))


def timing(head: str) -> dict[str, float]:
    """The phases in a head's last Server-Timing line, checked against the sum beside them."""
    metrics = re.findall(r"server-timing: (.*)", head, re.IGNORECASE)[-1].strip()
    parts = {name: float(text) for name, text in re.findall(r"([a-z]+);dur=([0-9.]+)(?:, |$)", metrics)}
    (whole,) = re.findall(r"x-zerogate-cold-start: (.*)", head, re.IGNORECASE)
    assert sum(parts.values()) == pytest.approx(float(whole))
    return parts


def counted(gateway: Gateway) -> dict[str, float]:
    """How many waits the histogram has, by phase."""
    samples = gateway.exchanges.cold_starts.family().samples
    return {phase: sum(counts) for (phase,), (_, *counts) in samples.items()}


async def test_a_request_that_waited_is_told_where_the_time_went(gateway: Gateway) -> None:
    """The phases stand beside the application's own Server-Timing; its idea of a cold start is replaced. The next
    response on the same connection is as the application made it, that field and all."""
    client = await gateway.client()
    await woken(gateway, saying(WHOLE), lambda: client.send(GET))
    cold = (await client.response(2)).decode()
    assert tuple(timing(cold)) == PHASES
    assert min(timing(cold).values()) >= 0
    assert "Server-Timing: db;dur=53\r\n" in cold
    assert "none" not in cold
    client.send(GET)
    assert await client.response(2) == WHOLE
    client.close()


async def test_it_is_counted_by_phase(gateway: Gateway) -> None:
    """Once for each request that waited; what was not known is no phase."""
    clients = [await gateway.client(), await gateway.client()]
    port = await gateway.endpoint(saying(WHOLE))
    gateway.route()
    for client in clients:
        client.send(GET)
    await gateway.parked(2)
    gateway.route(port)
    for client in clients:
        assert tuple(timing((await client.response(2)).decode())) == ("ready", "dispatch")
        client.send(GET)
        await client.response(2)
        client.close()
    expected = dict.fromkeys(PHASES, 0) | {"ready": 2, "dispatch": 2}
    assert counted(gateway) == expected


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (GET, CHUNKED),
        (GET.replace(b"GET", b"HEAD"), WHOLE[:-2]),
        (GET.replace(b"HTTP/1.1", b"HTTP/1.0"), CHUNKED),
        (
            GET[:-2] + b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        ),
    ],
    ids=["chunked", "head", "http10", "upgrade"],
)
async def test_every_kind_of_response(gateway: Gateway, request_: bytes, answer: bytes) -> None:
    """Whole or in pieces, without content, of a tunnel."""
    client = await gateway.client()
    await woken(gateway, saying(answer), lambda: client.send(request_))
    assert tuple(timing((await client.head()).decode())) == PHASES
    client.close()


async def test_interim_responses_stay_as_they_are(gateway: Gateway) -> None:
    """It is the final response that tells."""
    client = await gateway.client()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    await woken(gateway, saying(hints + WHOLE), lambda: client.send(GET))
    assert await client.head() == hints
    assert timing((await client.response(2)).decode())
    client.close()


async def test_over_http2(gateway: Gateway) -> None:
    """As any other field of a response, on the stream that waited and on no other."""
    client = Client(*await gateway.connect())
    streams: list[int] = []
    await woken(gateway, saying(WHOLE), lambda: streams.append(client.ask()))
    await client.until(lambda: client.answers[streams[0]].ended)
    fields = client.answers[streams[0]].fields
    assert float(fields["x-zerogate-cold-start"]) > 0
    assert "dispatch;dur=" in fields["server-timing"]
    warm = client.ask()
    await client.until(lambda: client.answers[warm].ended)
    assert client.answers[warm].fields["x-zerogate-cold-start"] == "none"
    client.writer.close()


async def test_a_local_reply_tells_too(gateway: Gateway) -> None:
    """The endpoint took the request and broke off: 502, after a wait that was long enough to be of interest."""

    async def broken(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    client = await gateway.client()
    await woken(gateway, broken, lambda: client.send(GET))
    head = (await client.head()).decode()
    assert head.startswith("HTTP/1.1 502 ")
    assert tuple(timing(head)) == PHASES
    client.close()


async def test_a_full_revision_is_not_cold(gateway: Gateway) -> None:
    """A request that waits for a place at an endpoint that is there has waited for no cold start."""
    gateway.route(await gateway.endpoint(saying(WHOLE)), container_concurrency=1)
    lease = gateway.activator.try_acquire(next(iter(gateway.snapshot.revisions)))
    assert lease is not None
    client = await gateway.client(GET)
    await gateway.parked(1)
    lease.release()
    assert await client.response(2) == WHOLE
    client.close()


async def test_a_wait_in_vain_has_no_phases(gateway: Gateway) -> None:
    """The revision went away: nothing was started that could be told of."""
    gateway.route()
    client = await gateway.client(GET)
    await gateway.parked(1)
    gateway.route(failure="bad image")
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"cold-start" not in head
    assert counted(gateway) == dict.fromkeys(PHASES, 0)
    client.close()
