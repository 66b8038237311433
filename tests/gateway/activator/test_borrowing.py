"""Two activators that share the places of a revision with a limit, with nothing between them but a queue."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import pytest

from gateway.activator.activator import Activator, Lease
from gateway.contract import Endpoint, Peer, Peers, Revision, RevisionId, Snapshot, Update, apply
from gateway.core.ownership import owner_of
from gateway.core.peers import Message, parse, serialise
from gateway.errors import QueueFull, QueueTimeout, RevisionFailed
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ID = RevisionId("default", "hello-00001")
ENDPOINT = Endpoint("127.0.0.1", 20001, "pod", ready=True)


class Pair:
    """The worker that owns the revision and the one that does not."""

    def __init__(self) -> None:
        self.on_the_way: deque[tuple[str, str, Message]] = deque()
        self.activators = {name: self.make(name) for name in ("one", "two")}
        owner = owner_of(ID, self.activators)
        assert owner is not None
        self.owner = self.activators[owner]
        [other] = self.activators.keys() - {owner}
        self.borrower = self.activators[other]
        self.snapshot = Snapshot()

    def make(self, name: str) -> Activator:
        def send(peer: str, message: Message) -> None:
            self.on_the_way.append((name, peer, message))

        return Activator(queue_limit=3, worker=name, send=send)

    def introduce(self) -> None:
        for activator in self.activators.values():
            activator.ledger.on_peers(Peers("e1", tuple(Peer(name, "") for name in self.activators)))
        for name, activator in self.activators.items():
            for other in self.activators.keys() - {name}:
                activator.ledger.on_arrival(other)
                activator.ledger.on_reachable(other)
        self.deliver()

    def deliver(self) -> None:
        while self.on_the_way:
            name, peer, message = self.on_the_way.popleft()
            self.activators[peer].ledger.on_message(name, parse(serialise(message)))

    def offer(self, *endpoints: Endpoint, limit: int = 1, failure: str = "", timeout: float = 300.0) -> None:
        revision = Revision(
            ID, container_concurrency=limit, endpoints=endpoints, probe=None, failure=failure, timeout=timeout
        )
        update = Update(self.snapshot.version, self.snapshot.version + 1, {}, {ID: revision})
        self.snapshot = apply(self.snapshot, update)
        for activator in self.activators.values():
            activator.apply(update, self.snapshot)
        self.deliver()

    async def ask(self, activator: Activator) -> asyncio.Task[Lease]:
        """A request that waits, and has asked."""
        before = activator.parked
        task = asyncio.get_running_loop().create_task(activator.acquire(ID))
        await until(lambda: activator.parked > before or task.done())
        self.deliver()
        return task


def take_one(activator: Activator) -> None:
    """There is a free place, at once."""
    lease = activator.try_acquire(ID)
    assert lease is not None
    lease.release()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    pair.offer(ENDPOINT)
    pair.introduce()
    yield pair
    for activator in pair.activators.values():
        await activator.close()
        assert activator.parked == 0


async def test_a_lease_of_another_workers_place(pair: Pair) -> None:
    """It is one like any other; the next in the owner's queue, whoever's it is, gets the place when it is released."""
    assert pair.borrower.try_acquire(ID) is None
    lease = await (await pair.ask(pair.borrower))
    assert lease.endpoint == ENDPOINT
    own, borrowed = await pair.ask(pair.owner), await pair.ask(pair.borrower)
    lease.release()
    pair.deliver()
    (await own).release()
    pair.deliver()
    (await borrowed).release()
    pair.deliver()
    assert pair.owner.ledger.lent == 0
    take_one(pair.owner)


async def test_a_revision_without_a_limit_is_asked_of_nobody(pair: Pair) -> None:
    """Each worker sends to its endpoints by itself, also when the limit goes while requests wait for it."""
    lease = await (await pair.ask(pair.borrower))
    waiting = await pair.ask(pair.borrower)
    pair.offer(ENDPOINT, limit=0)
    (await waiting).release()
    lease.release()
    for activator in pair.activators.values():
        take_one(activator)


async def test_a_client_that_leaves_gives_back_what_was_granted_meanwhile(pair: Pair) -> None:
    """Also when the grant comes in the turn in which it leaves."""
    task = asyncio.get_running_loop().create_task(pair.borrower.acquire(ID))
    await until(lambda: pair.borrower.parked == 1)
    pair.deliver()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pair.deliver()
    assert pair.owner.ledger.lent == 0
    take_one(pair.owner)


async def test_a_time_out_is_the_borrowers(pair: Pair) -> None:
    """And the owner's queue knows of it."""
    pair.offer(ENDPOINT, timeout=0.05)
    lease = await (await pair.ask(pair.owner))
    with pytest.raises(QueueTimeout):
        await (await pair.ask(pair.borrower))
    pair.deliver()
    assert pair.owner.ledger.asks == 0
    lease.release()


async def test_a_queue_that_is_full_at_the_owner_is_full(pair: Pair) -> None:
    """With the words of the owner, whose bound is reached first when it has asks of before a hand-over too."""
    task = await pair.ask(pair.borrower)
    (await task).release()
    pair.deliver()
    lease = await (await pair.ask(pair.owner))
    waiting = asyncio.get_running_loop().create_task(pair.borrower.acquire(ID))
    await until(lambda: pair.borrower.parked == 1)
    name = next(name for name, one in pair.activators.items() if one is pair.borrower)
    for number in range(100, 103):
        pair.owner.ledger.on_message(name, parse(b'["ask",%d,"default","hello-00001"]' % number))
    pair.deliver()
    with pytest.raises(QueueFull, match="3 requests wait for revision default/hello-00001"):
        await waiting
    assert pair.borrower.counters.queue_full == 1
    lease.release()


async def test_pods_that_cannot_start_are_told_of_everywhere(pair: Pair) -> None:
    """Whoever's request it is."""
    pair.offer()
    tasks = [await pair.ask(pair.borrower), await pair.ask(pair.owner)]
    pair.offer(failure="no such file")
    for task in tasks:
        with pytest.raises(RevisionFailed, match="no such file"):
            await task


async def test_a_connect_that_fails_a_borrower_closes_the_endpoint_at_the_owner(pair: Pair) -> None:
    """Nobody is sent there until it takes connections again."""
    lease = await (await pair.ask(pair.borrower))
    lease.fail()
    lease.release()
    pair.deliver()
    assert pair.owner.try_acquire(ID) is None
