"""What holds for the activator's leases after each step, whatever the steps are and in whichever turn they come.

Not a state machine of hypothesis: which of two probes passes first is chance, and the same steps lead elsewhere."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

from gateway.activator.activator import Activator, Lease
from gateway.contract import Endpoint, Probe, Revision, RevisionId, Snapshot, Update, apply
from gateway.errors import NoRevision, QueueFull, RevisionFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

    T = TypeVar("T")

ID = RevisionId("default", "hello-00001")
QUEUE_LIMIT = 4


def reserved_port() -> socket.socket:
    """Nobody else gets it while nothing listens there."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


async def listening(port: int) -> asyncio.Server:
    return await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port, reuse_port=True)


async def closed(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


class Platform:
    """While a request waits, no open endpoint has a free place; none is ever above its limit; who came first is served
    first; whoever waits is either served, or told why not, or gone.

    A step is over when each endpoint that listens has passed its probe, and who was given a place has it."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.loop = asyncio.new_event_loop()
        self.reserved = [reserved_port() for _ in range(3)]
        self.ports = [port.getsockname()[1] for port in self.reserved]
        self.servers = [self.run(listening(port)) for port in self.ports]
        self.listening = set(self.ports)
        self.activator = self.run(self.make())
        self.snapshot = Snapshot()
        self.limit = 0
        self.failure = ""
        self.waiting: list[asyncio.Task[Lease]] = []
        self.held: list[Lease] = []
        self.offer({0: False}, 1, "")

    def run(self, awaitable: Awaitable[T]) -> T:
        async def to_end() -> T:
            return await awaitable

        return self.loop.run_until_complete(to_end())

    async def make(self) -> Activator:
        return Activator(queue_limit=QUEUE_LIMIT)

    def turn(self) -> None:
        """Let the loop go round until nothing happens, and see who got what."""
        self.run(self.settled())
        done = [task for task in self.waiting if task.done()]
        served = [task for task in done if not task.cancelled() and task.exception() is None]
        left = [task for task in self.waiting if task not in done or task in served]
        assert left[: len(served)] == served  # first in, first out
        for task in done:
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                self.got(task.result())
            elif isinstance(error, QueueFull):
                assert len(self.waiting) > QUEUE_LIMIT
            elif isinstance(error, RevisionFailed):
                assert self.failure
            else:
                assert isinstance(error, NoRevision)
                assert ID not in self.snapshot.revisions
        self.waiting = [task for task in self.waiting if not task.done()]

    async def settled(self) -> None:
        async with asyncio.timeout(10):
            for _ in range(6):
                await asyncio.sleep(0)
            while not self.is_settled():  # noqa: ASYNC110 - of the activator's own state there is no event
                await asyncio.sleep(0.001)

    def is_settled(self) -> bool:
        unit = self.activator._units.get(ID)
        if unit is None:
            return True
        served = [task for task in self.waiting if task.done() and not task.cancelled() and task.exception() is None]
        probed = [place for place in unit.throttler.places if place.id.port in self.listening]
        return unit.throttler.in_flight == len(self.held) + len(served) and all(
            place.is_open or place.is_held for place in probed
        )

    def got(self, lease: Lease) -> None:
        assert not lease.endpoint.draining
        self.held.append(lease)
        assert self.limit == 0 or self.in_flight(lease.endpoint) <= self.limit

    def in_flight(self, endpoint: Endpoint) -> int:
        return sum(lease.endpoint.port == endpoint.port for lease in self.held)

    def give(self, revision: Revision | None) -> None:
        update = Update(self.snapshot.version, self.snapshot.version + 1, {}, {ID: revision})
        self.snapshot = apply(self.snapshot, update)
        self.run(self.take_over(update))
        self.turn()

    async def take_over(self, update: Update) -> None:
        self.activator.apply(update, self.snapshot)

    # --- what happens -------------------------------------------------------------------------------------------------

    def offer_any(self) -> None:
        chance = self.chance
        endpoints = {number: chance.random() < 0.5 for number in chance.sample(range(3), chance.randint(0, 3))}
        self.offer(endpoints, chance.choice((0, 1, 2, 4)), chance.choice(("", "", "no such file")))

    def offer(self, endpoints: dict[int, bool], limit: int, failure: str) -> None:
        """The controller names the endpoints, some of them draining, and the limit."""
        self.limit, self.failure = limit, failure
        found = [
            Endpoint("127.0.0.1", self.ports[number], f"pod-{number}", draining=draining)
            for number, draining in endpoints.items()
        ]
        self.give(Revision(ID, container_concurrency=limit, endpoints=tuple(found), probe=Probe(), failure=failure))

    def remove(self) -> None:
        self.give(None)

    def ask(self) -> None:
        self.waiting += [self.loop.create_task(self.activator.acquire(ID)) for _ in range(self.chance.randint(1, 3))]
        self.turn()

    def release(self) -> None:
        """A request is over, or its endpoint refused it."""
        if self.held:
            self.run(self.give_back(self.drawn(self.held), fails=self.chance.random() < 0.5))
            self.turn()

    def drawn(self, leases: list[Lease]) -> Lease:
        return leases.pop(self.chance.randrange(len(leases)))

    async def give_back(self, lease: Lease, *, fails: bool) -> None:
        if fails:
            lease.fail()
        lease.release()

    def leave(self) -> None:
        if self.waiting:
            self.chance.choice(self.waiting).cancel()
            self.turn()

    def leave_as_a_place_is_freed(self) -> None:
        """The one that is next leaves in the turn in which it would have its place."""
        if self.waiting and self.held:
            lease = self.drawn(self.held)
            if self.chance.random() < 0.5:
                self.waiting[0].cancel()
            self.loop.call_soon(lease.release)
            self.loop.call_soon(self.waiting[0].cancel)
            self.turn()

    def come_or_go(self) -> None:
        """An endpoint stops to listen, or does again: those that are closed then stay closed until it does."""
        number = self.chance.randrange(3)
        port = self.ports[number]
        if port in self.listening:
            self.listening.remove(port)
            self.run(closed(self.servers[number]))
        else:
            self.listening.add(port)
            self.servers[number] = self.run(listening(port))
        self.turn()

    # --- what holds ---------------------------------------------------------------------------------------------------

    def nobody_waits_beside_a_free_place(self) -> None:
        unit = self.activator._units.get(ID)
        if unit is None:
            assert not self.waiting
            return
        free = [
            place
            for place in unit.throttler.places
            if place.is_open and (self.limit == 0 or self.in_flight(place.endpoint) < self.limit)
        ]
        assert not (self.waiting and free)

    def counts_agree(self) -> None:
        assert self.activator.parked == len(self.waiting) <= QUEUE_LIMIT
        unit = self.activator._units.get(ID)
        if unit is not None:
            assert unit.throttler.waiting == len(self.waiting)

    def close(self) -> None:
        async def close() -> None:
            await self.activator.close()
            for task in self.waiting:
                with suppress(NoRevision):
                    await task
            for server in self.servers:
                await closed(server)

        self.run(close())
        self.loop.close()
        for port in self.reserved:
            port.close()


STEPS = (
    *(Platform.offer_any, Platform.remove, Platform.come_or_go, Platform.leave, Platform.leave_as_a_place_is_freed),
    *(Platform.ask, Platform.ask, Platform.release, Platform.release),
)


@pytest.mark.parametrize("seed", range(40))
def test_laws(seed: int) -> None:
    """Thirty steps by chance."""
    chance = Random(seed)
    platform = Platform(chance)
    done = []
    try:
        for _ in range(30):
            step = chance.choice(STEPS)
            done.append(step.__name__)
            step(platform)
            platform.nobody_waits_beside_a_free_place()
            platform.counts_agree()
    except BaseException as error:
        error.add_note(f"after {', '.join(done)}")
        raise
    finally:
        platform.close()
    assert platform.activator.parked == 0
