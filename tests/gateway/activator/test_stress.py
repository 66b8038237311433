from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.activator.activator import Activator
from gateway.contract import Endpoint, Revision, RevisionId, Snapshot, Update, apply
from gateway.errors import GatewayError

ID = RevisionId("default", "hello-00001")
ENDPOINTS = [Endpoint("127.0.0.1", 20000 + number, f"pod-{number}", ready=True) for number in range(4)]


class Upstreams:
    """What each endpoint has in flight, and the most it ever had."""

    def __init__(self) -> None:
        self.now = dict.fromkeys(ENDPOINTS, 0)
        self.most = dict.fromkeys(ENDPOINTS, 0)

    def begin(self, endpoint: Endpoint) -> None:
        self.now[endpoint] += 1
        self.most[endpoint] = max(self.most[endpoint], self.now[endpoint])


async def client(activator: Activator, upstreams: Upstreams, random: Random) -> str:
    """One request: waits for its lease, holds it for a few turns, may fail its endpoint."""
    try:
        lease = await activator.acquire(ID)
    except GatewayError as error:
        return type(error).__name__
    try:
        upstreams.begin(lease.endpoint)
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)
    finally:
        upstreams.now[lease.endpoint] -= 1
        lease.release()
    return "served"


@pytest.mark.parametrize("limit", [0, 1, 3, 5])
@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_whatever_happens(limit: int, seed: int) -> None:
    """Requests, cancels in any turn, endpoints that come and go: no endpoint above its limit, and in the end every
    request is answered or cancelled, every slot is free and nobody waits."""
    random = Random(seed)
    activator = Activator(queue_limit=50)
    upstreams = Upstreams()
    snapshot = Snapshot()
    tasks: list[asyncio.Task[str]] = []
    loop = asyncio.get_running_loop()

    def offer(endpoints: list[Endpoint]) -> None:
        nonlocal snapshot
        revision = Revision(ID, container_concurrency=limit, endpoints=tuple(endpoints), probe=None)
        update = Update(snapshot.version, snapshot.version + 1, {}, {ID: revision})
        snapshot = apply(snapshot, update)
        activator.apply(update, snapshot)

    offer([])
    for _ in range(300):
        tasks += [loop.create_task(client(activator, upstreams, random)) for _ in range(random.randrange(3))]
        if random.random() < 0.2:
            offer(random.sample(ENDPOINTS, random.randrange(len(ENDPOINTS) + 1)))
        if tasks and random.random() < 0.3:
            random.choice(tasks).cancel()
        await asyncio.sleep(0)
    offer(ENDPOINTS)
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    assert {outcome for outcome in outcomes if isinstance(outcome, str)} <= {"served", "QueueFull"}
    assert all(isinstance(outcome, str | asyncio.CancelledError) for outcome in outcomes)
    assert not any(upstreams.now.values())
    assert limit == 0 or max(upstreams.most.values()) <= limit
    assert (activator.parked, activator.waiting()) == (0, [])
    if limit:
        leases = [activator.try_acquire(ID) for _ in range(limit * len(ENDPOINTS))]
        assert None not in leases
        assert activator.try_acquire(ID) is None
    await activator.close()
