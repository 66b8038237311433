from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSMsgType, web

from gateway import feed as module
from gateway.contract import (
    FEED_PATH,
    Ack,
    Certificate,
    CertificateId,
    ContractError,
    Hello,
    InFlight,
    Leaving,
    Peer,
    Peers,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Snapshot,
    Split,
    Stat,
    Stats,
    Update,
    parse_message,
    serialise_message,
)
from gateway.feed import Feed, backoff
from tests.idle import Idle
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ID = RevisionId("default", "hello-00001")
ROUTES = {RouteId("default", "hello"): (RouteRule("hello.default.localhost", (Split(ID, 100),)),)}
OTHER = RevisionId("default", "other-00001")
WHOLE = Update(0, 7, ROUTES, {ID: Revision(ID)})
REMOVAL = Update(7, 8, dict.fromkeys(ROUTES), {ID: None})


class Controller:
    """A feed server under the test's control: what it received, and the connections it has."""

    def __init__(self, token: str = "secret") -> None:
        self.token = token
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.connections: asyncio.Queue[web.WebSocketResponse] = asyncio.Queue()
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{FEED_PATH}"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get(FEED_PATH, self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await self.connections.put(socket)
        async for frame in socket:
            assert frame.type is WSMsgType.TEXT
            await self.received.put(parse_message(frame.data))
        return socket

    async def next(self) -> Any:
        return await asyncio.wait_for(self.received.get(), 5)

    async def connection(self) -> web.WebSocketResponse:
        """The next connection, its Hello taken."""
        socket = await asyncio.wait_for(self.connections.get(), 5)
        assert await self.next() == Hello("worker-1")
        return socket


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


Given = list[tuple[Update, Snapshot]]


@pytest.fixture
async def controller() -> AsyncIterator[Controller]:
    controller = Controller()
    async with controller.listening():
        yield controller


@pytest.fixture
def given() -> Given:
    """The updates the worker was given."""
    return []


@pytest.fixture
async def follow(given: Given) -> AsyncIterator[Callable[..., Feed]]:
    """Starts a feed in the background."""
    tasks: list[asyncio.Task[None]] = []

    def start(controller: Controller, **options: Any) -> Feed:
        def on_update(update: Update, snapshot: Snapshot) -> None:
            given.append((update, snapshot))

        options = {"waiting": list, "loads": Idle(), "on_peers": lambda _: None, **options}
        feed = Feed(controller.url, "secret", worker="worker-1", on_update=on_update, **options)
        tasks.append(asyncio.get_running_loop().create_task(feed.run()))
        return feed

    yield start
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("failures", "point", "expected"), [(0, 0.0, 0.025), (0, 1.0, 0.05), (3, 1.0, 0.4), (50, 0.0, 2.5), (50, 1.0, 5.0)]
)
def test_backoff(failures: int, point: float, expected: float) -> None:
    """50 ms doubling to 5 s, spread over the upper half."""
    assert backoff(failures, point) == pytest.approx(expected)


async def test_updates_are_applied_then_acknowledged(controller: Controller, follow, given: Given) -> None:
    """The whole state, then a change; an Ack for each comes after the worker has it."""
    feed = follow(controller)
    assert not feed.ready
    socket = await controller.connection()
    await socket.send_str(serialise_message(WHOLE))
    assert await controller.next() == Ack(7)
    assert feed.ready
    assert feed.snapshot.routes == ROUTES
    await socket.send_str(serialise_message(REMOVAL))
    assert await controller.next() == Ack(8)
    assert [update for update, _ in given] == [WHOLE, REMOVAL]
    assert given[1][1] == Snapshot(8) == feed.snapshot


async def test_a_whole_state_in_parts_is_one_change(controller: Controller, follow, given: Given) -> None:
    """Nothing is applied or acknowledged before the last part, and then only what differs from what is held."""
    feed = follow(controller)
    socket = await controller.connection()
    await socket.send_str(serialise_message(WHOLE))
    assert await controller.next() == Ack(7)
    await socket.send_str(serialise_message(Update(0, 9, ROUTES, {}, more=True)))
    await socket.send_str(serialise_message(Update(0, 9, {}, {OTHER: Revision(OTHER)}, more=True)))
    await socket.send_str(serialise_message(Update(0, 9, {}, {})))
    assert await controller.next() == Ack(9)
    assert given[1][0] == Update(7, 9, {}, {OTHER: Revision(OTHER), ID: None})
    assert feed.snapshot == Snapshot(9, ROUTES, {OTHER: Revision(OTHER)})


async def test_a_change_amid_a_whole_state_ends_the_connection(controller: Controller, follow, given: Given) -> None:
    """The next connection starts with the whole state again."""
    feed = follow(controller)
    socket = await controller.connection()
    await socket.send_str(serialise_message(Update(0, 9, ROUTES, {}, more=True)))
    await socket.send_str(serialise_message(Update(9, 10, {}, {})))
    await (await controller.connection()).send_str(serialise_message(WHOLE))
    assert await controller.next() == Ack(7)
    assert [update for update, _ in given] == [WHOLE]
    assert feed.snapshot.routes == ROUTES


@pytest.mark.parametrize(
    "frame", [serialise_message(Update(3, 4, {}, {})), "{", serialise_message(Ack(1)), b"binary"], ids=str
)
async def test_anything_else_ends_the_connection(controller: Controller, follow, frame: str | bytes) -> None:
    """A wrong base, no message, a worker's message, a binary frame: connect anew, keep the last good snapshot."""
    feed = follow(controller)
    socket = await controller.connection()
    await socket.send_str(serialise_message(WHOLE))
    assert await controller.next() == Ack(7)
    await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
    await controller.connection()
    assert feed.ready
    assert feed.snapshot.version == 7


async def test_a_state_the_worker_refuses_is_not_acknowledged(controller: Controller) -> None:
    """The connection ends, the former snapshot stays, and the next attempt backs off."""

    def refuse(_update: Update, _snapshot: Snapshot) -> None:
        raise ContractError("two rules for one host")

    feed = Feed(
        controller.url,
        "secret",
        worker="worker-1",
        on_update=refuse,
        on_peers=lambda _: None,
        waiting=list,
        loads=Idle(),
    )
    task = asyncio.get_running_loop().create_task(feed.run())
    for _ in range(2):
        await (await controller.connection()).send_str(serialise_message(WHOLE))
    assert (feed.ready, feed.snapshot) == (False, Snapshot())
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_stats_and_pokes_go_up(controller: Controller, follow) -> None:
    """Pokes first; of several Stats that did not get out yet the newest."""
    feed = follow(controller)
    await controller.connection()
    await until(lambda: feed.connected)
    feed.report(Stats((Stat(ID, 5.0, 5.0),)))
    feed.report(Stats((Stat(ID, 6.0, 6.0),)))
    feed.poke(Stat(ID, 1.0, 1.0))
    assert await controller.next() == Stats((Stat(ID, 1.0, 1.0),))
    assert await controller.next() == Stats((Stat(ID, 6.0, 6.0),))


async def test_waiting_revisions_are_poked_after_each_connect(controller: Controller, follow) -> None:
    """Also when the poke itself met no connection."""
    feed = follow(controller, waiting=lambda: [(ID, 3)])
    feed.poke(Stat(ID, 1.0, 1.0))
    for _ in range(2):
        socket = await controller.connection()
        assert await controller.next() == Stats((Stat(ID, 1.0, 0.0),))
        await socket.close()


class Shrinking:
    """One revision that shrinks, with requests at one pod until they are over."""

    def __init__(self) -> None:
        self.shrinking = {ID}
        self.busy = {"pod": 2}

    def in_flight(self, revision: RevisionId) -> dict[str, int] | None:
        return self.busy if revision in self.shrinking else None


async def test_what_is_in_flight_is_told_behind_the_acknowledgement(controller: Controller, follow) -> None:
    """Never before a state of this controller is routed by; then at once, when it is news and with each report. Once
    the revision does not shrink any more there is nothing to tell."""
    loads = Shrinking()
    feed = follow(controller, loads=loads)
    socket = await controller.connection()
    await until(lambda: feed.connected)
    feed.report_in_flight(ID)
    feed.report(Stats(()))
    assert await controller.next() == Stats(())
    await socket.send_str(serialise_message(WHOLE))
    assert await controller.next() == Ack(7)
    assert await controller.next() == InFlight({ID: {"pod": 2}})
    loads.busy = {}
    feed.report_in_flight(ID)
    assert await controller.next() == InFlight({ID: {}})
    feed.report(Stats(()))
    assert [await controller.next(), await controller.next()] == [Stats(()), InFlight({ID: {}})]
    loads.shrinking.clear()
    feed.report_in_flight(ID)
    feed.report(Stats((Stat(ID, 1.0, 1.0),)))
    assert await controller.next() == Stats((Stat(ID, 1.0, 1.0),))
    await socket.close()
    loads.shrinking.add(ID)
    await (await controller.connection()).send_str(serialise_message(WHOLE))
    assert [await controller.next(), await controller.next()] == [Ack(7), InFlight({ID: {}})]


async def test_a_restarted_controller_is_found_again(follow) -> None:
    """The worker keeps its snapshot meanwhile and takes the new whole state, versions starting over."""
    controller = Controller()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(controller.listening())
        feed = follow(controller)
        await (await controller.connection()).send_str(serialise_message(WHOLE))
        assert await controller.next() == Ack(7)
    await until(lambda: not feed.connected)
    assert feed.snapshot.version == 7
    async with controller.listening():
        await (await controller.connection()).send_str(serialise_message(Update(0, 1, {}, {})))
        assert await controller.next() == Ack(1)
        assert feed.snapshot == Snapshot(1)


async def test_lists_of_the_workers_are_passed_on(controller: Controller, follow, tmp_path: Path) -> None:
    """As they come, before the state too; they are no part of it, so nothing acknowledges them."""
    lists: list[Peers] = []
    follow(controller, on_peers=lists.append)
    socket = await controller.connection()
    peers = [Peers(""), Peers("e1", (Peer("worker-1", "127.0.0.1:1"), Peer("worker-2", "[::1]:2", leaving=True)))]
    for one in peers:
        await socket.send_str(serialise_message(one))
    await socket.send_str(serialise_message(WHOLE))
    assert await controller.next() == Ack(7)
    assert lists == peers


async def test_a_worker_that_drains_says_so_after_each_connect(controller: Controller, follow) -> None:
    """Also when it was not connected as it began to."""
    feed = follow(controller)
    socket = await controller.connection()
    feed.leave()
    assert await controller.next() == Leaving()
    await socket.close()
    await controller.connection()
    assert await controller.next() == Leaving()


async def test_a_wrong_token_is_told(controller: Controller, follow, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the address and the refusal."""
    controller.token = "another"
    follow(controller)
    await until(lambda: "401" in caplog.text)
    assert controller.url in caplog.text


async def test_the_snapshot_file_serves_a_start_without_controller(
    follow, tmp_path: Path, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was last applied is there again after a restart, in a file for the owner's eyes."""
    monkeypatch.setattr(module, "_SAVE_DELAY", 0.0)
    path = tmp_path / "snapshot.json"
    key = CertificateId("default", "tls")
    whole = replace(WHOLE, certificates={key: Certificate(key, ("a.test",), "CHAIN", "PRIVATE")})
    (tmp_path / f".{path.name}.{os.getpid()}").touch(0o644)  # as another program could have left it
    controller = Controller()
    async with controller.listening():
        feed = follow(controller, snapshot_file=path)
        await (await controller.connection()).send_str(serialise_message(whole))
        await until(path.exists)
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == [path.name]
    assert "PRIVATE" in path.read_text(), "certificates with their keys are part of the state"
    given.clear()
    restarted = follow(controller, snapshot_file=path)
    await until(lambda: restarted.ready)
    assert restarted.snapshot == feed.snapshot
    assert [update for update, _ in given] == [whole]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"type":"ack","version":1}', serialise_message(Update(0, 1, {}, {}, more=True)).encode()]
)
async def test_a_bad_snapshot_file_is_not_used(
    follow, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker says so and waits for the controller."""
    path = tmp_path / "snapshot.json"
    path.write_bytes(content)
    controller = Controller()
    controller.port = 1  # nobody listens on it
    feed = follow(controller, snapshot_file=path)
    await until(lambda: f"{path} is not used" in caplog.text)
    assert not feed.ready
