"""Channels between workers, over real sockets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.contract import RevisionId
from gateway.core.peers import Ask, Cancel, Grant, Message
from gateway.core.throttler import PlaceId
from gateway.net import peers as module
from gateway.net.peers import Channels
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

REVISION = RevisionId("default", "hello-00001")
GRANT = Grant(1, 7, REVISION, PlaceId("127.0.0.1", 8080, "pod"))


class Worker:
    """One that writes down what it is told."""

    def __init__(self, name: str, token: str = "secret") -> None:
        self.is_led = True
        self.events: list[tuple[str, str] | tuple[str, Message]] = []
        self.channels = Channels(name, token, "127.0.0.1", is_led=lambda: self.is_led)

    def on_reachable(self, name: str) -> None:
        self.events.append(("reachable", name))

    def on_unreachable(self, name: str) -> None:
        self.events.append(("unreachable", name))

    def on_arrival(self, name: str) -> None:
        self.events.append(("arrival", name))

    def on_departure(self, name: str) -> None:
        self.events.append(("departure", name))

    def on_message(self, name: str, message: Message) -> None:
        self.events.append((name, message))

    def on_death(self, name: str) -> None:
        self.events.append(("death", name))

    async def saw(self, *events: tuple[str, str] | tuple[str, Message]) -> None:
        """Wait for exactly these events since the last call."""
        await until(lambda: len(self.events) >= len(events))
        assert self.events == list(events)
        self.events.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self.channels.run(self))
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[Worker]]]:
    """Starts workers: `await start(name, token)`."""
    async with AsyncExitStack() as stack:

        async def start_one(name: str, token: str = "secret") -> Worker:
            worker = Worker(name, token)
            await stack.enter_async_context(worker.running())
            return worker

        yield start_one


async def test_asks_go_one_way_and_answers_come_back(start) -> None:
    """In order, each end knowing whose they are."""
    one, two = await start("one"), await start("two")
    one.channels.follow({"one": "nowhere", "two": two.channels.address})
    await one.saw(("reachable", "two"))
    await two.saw(("arrival", "one"))
    asks = [Ask(number, REVISION) for number in range(1000)]
    for ask in asks:
        one.channels.send("two", ask)
    two.channels.send("one", GRANT)
    await two.saw(*(("one", ask) for ask in asks))
    await one.saw(("two", GRANT))
    two.channels.send("one", Ask(1, REVISION))  # it has no channel of its own
    one.channels.follow({})
    await one.saw(("unreachable", "two"))
    await two.saw(("departure", "one"))


async def test_a_lost_channel_is_opened_again(start) -> None:
    """Both ends are told of the end and of the new beginning."""
    one, two = await start("one"), await start("two")
    one.channels.follow({"two": two.channels.address})
    await one.saw(("reachable", "two"))
    await two.saw(("arrival", "one"))
    two.channels._answering["one"].abort("test")
    await one.saw(("unreachable", "two"), ("reachable", "two"))
    await two.saw(("departure", "one"), ("arrival", "one"))


async def test_a_second_channel_of_a_worker_ends_its_first(start) -> None:
    """It has lost that one, noticed here or not."""
    one, two, again = await start("one"), await start("two"), await start("one")
    one.channels.follow({"two": two.channels.address})
    await two.saw(("arrival", "one"))
    await one.saw(("reachable", "two"))
    again.channels.follow({"two": two.channels.address})
    await two.saw(("departure", "one"), ("arrival", "one"))
    again.channels.send("two", Cancel(1))
    one.channels.follow({})
    await until(lambda: two.events)
    assert two.events == [("one", Cancel(1))]


@pytest.mark.parametrize("fault", ["token", "name"])
async def test_only_who_knows_the_token_and_is_the_one_gets_through(
    start, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither end tells the other anything before; the log says which worker can't be asked."""
    monkeypatch.setattr(module, "DEATH", 0.0)
    one, two = await start("one"), await start("two", "secret" if fault == "name" else "other")
    wanted = "two" if fault == "token" else "three"
    one.channels.follow({wanted: two.channels.address})
    await until(lambda: f"worker {wanted} can't be asked for places at {two.channels.address}" in caplog.text)
    assert one.events == two.events == []


@pytest.mark.parametrize(
    "lines",
    [
        b"GET / HTTP/1.1\r\n",
        b'["proof","x"]\n',
        b'["hello","one","somebody else","n"]\n',
        b'["hello","one","two","n"]\n["proof","wrong"]\n',
        b"x" * 2000,
    ],
)
async def test_strangers_are_cut_off(start, lines: bytes) -> None:
    """At the first thing that is wrong, and without a word that would help them."""
    two = await start("two")
    host, _, port = two.channels.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(lines)
    with suppress(ConnectionError):
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b"secret" not in answer
    writer.close()
    await until(lambda: not two.channels.strangers)
    assert two.events == []


async def test_who_says_nothing_is_cut_off(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not become a channel does not stay; and there is a limit to how many wait."""
    monkeypatch.setattr(module, "HANDSHAKE", 0.05)
    monkeypatch.setattr(module, "STRANGERS", 2)
    two = await start("two")
    host, _, port = two.channels.address.partition(":")
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
    async with asyncio.timeout(5):
        for reader, writer in connections:
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()


async def known(start) -> tuple[Worker, asyncio.StreamReader, asyncio.StreamWriter]:
    """A worker, and a channel to it by hand."""
    two = await start("two")
    host, _, port = two.channels.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b'["hello","one","two","n"]\n')
    _, challenge, _ = orjson.loads(await reader.readline())
    writer.write(orjson.dumps(["proof", two.channels.proof("asking", "one", "two", "n", challenge)]) + b"\n")
    await two.saw(("arrival", "one"))
    return two, reader, writer


async def test_nonsense_ends_a_channel(start) -> None:
    """Like a lost one, it begins anew."""
    two, reader, writer = await known(start)
    writer.write(b'["cancel",1]\n["what"]\n["cancel",2]\n')
    with suppress(ConnectionError):
        await reader.read()
    await two.saw(("one", Cancel(1)), ("departure", "one"))
    writer.close()


async def test_who_does_not_read_is_cut_off(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is bounded."""
    monkeypatch.setattr(module, "PENDING", 2**16)
    two, _, writer = await known(start)
    for _ in range(100):
        for _ in range(1000):
            two.channels.send("one", GRANT)
        await asyncio.sleep(0)
    await two.saw(("departure", "one"))
    writer.close()


async def test_a_worker_that_is_gone_is_told_when_nobody_else_can(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the controller, after a while without a channel to it; with it, that is the controller's business."""
    monkeypatch.setattr(module, "DEATH", 0.05)
    one = await start("one")
    gone = Worker("two")
    async with gone.running():
        one.channels.follow({"two": gone.channels.address})
        await one.saw(("reachable", "two"))
    await one.saw(("unreachable", "two"))
    one.is_led = False
    await until(lambda: one.events)
    assert one.events == [("death", "two")]
