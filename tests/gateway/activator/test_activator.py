from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from gateway.activator.activator import Activator, Lease
from gateway.contract import Endpoint, Probe, Revision, RevisionId, Snapshot, Update
from gateway.contract import apply as apply_update
from gateway.core.throttler import Place
from gateway.errors import NoRevision, QueueFull, QueueTimeout, RevisionFailed
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ID = RevisionId("default", "hello-00001")
CONNECT = Probe()


class World:
    """An activator and the snapshot it was last given."""

    def __init__(self, activator: Activator | None = None) -> None:
        self.news: list[RevisionId] = []
        self.stranded: list[RevisionId] = []
        self.activator = activator or Activator(on_in_flight=self.news.append, on_stranded=self.stranded.append)
        self.snapshot = Snapshot()

    def set(
        self,
        *endpoints: Endpoint,
        limit: int = 0,
        probe: Probe | None = CONNECT,
        timeout: float = 300,
        failure: str = "",
        shrinking: bool = False,
    ) -> None:
        settings = {"container_concurrency": limit, "probe": probe, "timeout": timeout, "failure": failure}
        self.give({ID: Revision(ID, endpoints=endpoints, shrinking=shrinking, **settings)})

    def give(self, revisions: dict[RevisionId, Revision | None]) -> None:
        update = Update(self.snapshot.version, self.snapshot.version + 1, {}, revisions)
        self.snapshot = apply_update(self.snapshot, update)
        self.activator.apply(update, self.snapshot)

    def ask(self) -> asyncio.Task[Lease]:
        return asyncio.get_running_loop().create_task(self.activator.acquire(ID))

    async def asked(self, count: int) -> list[asyncio.Task[Lease]]:
        before = self.activator.parked
        tasks = [self.ask() for _ in range(count)]
        await until(lambda: self.activator.parked == before + count)
        return tasks


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.activator.close()
    assert world.activator.parked == 0


@pytest.fixture
async def ready(upstream) -> Endpoint:
    endpoint: Endpoint = (await upstream([200])).endpoint
    return Endpoint(endpoint.host, endpoint.port, endpoint.pod, ready=True)


async def test_a_cold_request_goes_out_when_a_probe_passes(world: World, upstream, free_port: int) -> None:
    """It waits for the endpoint, and for the endpoint to listen; Kubernetes' readiness is not waited for."""
    world.set()
    [task] = await world.asked(1)
    world.set(Endpoint("127.0.0.1", free_port, "pod"))
    await until(lambda: world.activator.probe_failures > 0)
    assert not task.done()
    await upstream(port=free_port)
    lease = await asyncio.wait_for(task, 5)
    assert lease.endpoint.port == free_port
    assert world.activator.counters.cold_starts == 1
    lease.release()


async def test_the_warm_path_needs_no_waiting(world: World, ready: Endpoint) -> None:
    """Once probed, `try_acquire` gives leases up to the limit; a released slot is there again."""
    world.set(ready, limit=1)
    lease = await asyncio.wait_for(world.activator.acquire(ID), 5)
    assert world.activator.try_acquire(ID) is None
    lease.release()
    assert world.activator.try_acquire(ID) is not None
    assert world.activator.try_acquire(ID) is None


async def test_waiters_are_served_in_order(world: World, ready: Endpoint) -> None:
    """A freed slot goes to the one that waited longest."""
    world.set(ready, limit=1)
    lease = await asyncio.wait_for(world.activator.acquire(ID), 5)
    tasks = await world.asked(3)
    for task in tasks:
        lease.release()
        lease = await asyncio.wait_for(task, 5)
    assert world.activator.waiting() == []


async def test_unknown_revision(world: World) -> None:
    """There is nothing to wait for."""
    assert world.activator.try_acquire(ID) is None
    with pytest.raises(NoRevision, match="default/hello-00001"):
        await world.activator.acquire(ID)


async def test_a_removed_revision_fails_its_waiters(world: World) -> None:
    """There is nothing left to wait for."""
    world.set()
    tasks = await world.asked(2)
    world.give({ID: None})
    for task in tasks:
        with pytest.raises(NoRevision):
            await task


async def test_a_revision_that_comes_back_is_not_overfilled(world: World, ready: Endpoint) -> None:
    """Its requests from before it was removed go on, and count."""
    world.set(ready, limit=1)
    lease = await asyncio.wait_for(world.activator.acquire(ID), 5)
    world.give({ID: None})
    world.set(ready, limit=1)
    [task] = await world.asked(1)
    await until(lambda: world.activator._units[ID].throttler.places[0].is_open)
    assert not task.done()
    lease.release()
    (await asyncio.wait_for(task, 5)).release()


async def test_nobody_waits_for_pods_that_cannot_start(world: World, ready: Endpoint) -> None:
    """Who waits is told why, at once, and who comes later too; as soon as the controller has hope again, they wait."""
    world.set()
    waiting = await world.asked(3)
    world.set(failure="Container failed with: no such file")
    for task in waiting:
        with pytest.raises(RevisionFailed, match="no such file"):
            await asyncio.wait_for(task, 5)
    with pytest.raises(RevisionFailed, match="hello-00001 can't start"):
        await world.activator.acquire(ID)
    world.set()
    [task] = await world.asked(1)
    world.set(ready)
    (await asyncio.wait_for(task, 5)).release()


def draining(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, draining=True)


async def test_a_shrinking_revision_tells_what_is_in_flight(world: World, upstream) -> None:
    """By pod, when an update changes it and when the last request at a draining endpoint is over; any other revision
    tells nothing."""
    one, two = [replace((await upstream([200])).endpoint, ready=True) for _ in range(2)]
    world.set(one, two, probe=None)
    leases = [await world.activator.acquire(ID) for _ in range(4)]
    counts = Counter(lease.endpoint.pod for lease in leases)
    assert (world.news, world.activator.in_flight(ID)) == ([], None)

    world.set(one, two, probe=None, shrinking=True)
    assert (world.news, world.activator.in_flight(ID)) == ([ID], counts)
    gone = leases[0].endpoint
    world.set(*(draining(end) if end.pod == gone.pod else end for end in (one, two)), probe=None, shrinking=True)
    assert world.news == [ID, ID]
    assert all(world.activator.try_acquire(ID).endpoint.pod != gone.pod for _ in range(9))
    for lease in leases:
        if lease.endpoint.pod == gone.pod:
            assert world.news == [ID, ID]
            lease.release()
    assert world.news == [ID, ID, ID]
    assert gone.pod not in world.activator.in_flight(ID)
    world.set(one, two, probe=None)
    assert world.activator.in_flight(ID) is None
    assert not world.activator.shrinking


async def test_a_request_that_finds_draining_endpoints_only_calls_for_one(world: World, ready: Endpoint) -> None:
    """Whether it comes later or waits already; back in service the endpoint takes it without a probe."""
    world.set(ready, limit=1)
    lease = await asyncio.wait_for(world.activator.acquire(ID), 5)
    [first] = await world.asked(1)
    assert world.stranded == []
    world.set(draining(ready), limit=1, shrinking=True)
    assert world.stranded == [ID]
    first.cancel()
    await until(lambda: not world.activator.parked)
    second, third = await world.asked(2)
    assert world.stranded == [ID, ID]
    lease.release()
    world.set(ready, limit=1)
    (await asyncio.wait_for(second, 5)).release()
    (await asyncio.wait_for(third, 5)).release()


async def test_nobody_calls_for_an_endpoint_that_never_served(world: World, free_port: int) -> None:
    """A pod that goes before it was up would not be back sooner than a new one."""
    world.set(Endpoint("127.0.0.1", free_port, "pod", draining=True), shrinking=True)
    [task] = await world.asked(1)
    assert world.stranded == []
    task.cancel()
    await until(lambda: not world.activator.parked)


async def test_a_failure_does_not_matter_while_an_endpoint_serves(world: World, ready: Endpoint) -> None:
    """A crash-looping second replica takes nothing from the first, and its requests may queue."""
    world.set(ready, limit=1)
    lease = await asyncio.wait_for(world.activator.acquire(ID), 5)
    world.set(ready, limit=1, failure="ExitCode1")
    [task] = await world.asked(1)
    lease.release()
    (await asyncio.wait_for(task, 5)).release()


async def test_the_queue_of_a_revision_is_bounded() -> None:
    """At the bound: QueueFull, at once."""
    activator = Activator(queue_limit=2)
    world = World(activator)
    world.set()
    tasks = await world.asked(2)
    with pytest.raises(QueueFull, match="2 requests wait for revision default/hello-00001"):
        await activator.acquire(ID)
    assert activator.counters.queue_full == 1
    assert activator.waiting() == [(ID, 2)]
    await activator.close()
    assert all(isinstance(outcome, NoRevision) for outcome in await asyncio.gather(*tasks, return_exceptions=True))


async def test_the_queues_of_a_worker_are_bounded_together() -> None:
    """Requests for other revisions count towards the worker's bound."""
    activator = Activator(worker_queue_limit=1)
    world = World(activator)
    other = RevisionId("default", "other-00001")
    world.give({ID: Revision(ID), other: Revision(other)})
    tasks = await world.asked(1)
    with pytest.raises(QueueFull, match="this gateway worker"):
        await activator.acquire(other)
    await activator.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_queue_time_out_is_the_revisions_time_out(world: World) -> None:
    """Unless another is configured, a request waits as long as it may take."""
    world.set(timeout=0.01)
    with pytest.raises(QueueTimeout, match=r"within 0\.01 s"):
        await world.activator.acquire(ID)
    assert world.activator.counters.timeouts == 1
    assert world.activator.waiting() == []


async def test_whose_queue_time_out_holds() -> None:
    """The revision's own, else what the gateway is set to, else the time-out of the whole request."""
    activator = Activator(queue_timeout=0.01)
    world = World(activator)
    world.set(timeout=300)
    with pytest.raises(QueueTimeout, match=r"within 0\.01 s"):
        await activator.acquire(ID)
    world.give({ID: Revision(ID, timeout=300, queue_timeout=0.02)})
    with pytest.raises(QueueTimeout, match=r"within 0\.02 s"):
        await activator.acquire(ID)


async def test_a_client_that_leaves_frees_its_place(world: World, ready: Endpoint) -> None:
    """The next one gets the slot it waited for."""
    world.set(ready, limit=1)
    lease = await asyncio.wait_for(world.activator.acquire(ID), 5)
    first, second = await world.asked(2)
    first.cancel()
    await until(lambda: world.activator.parked == 1)
    assert world.activator.waiting() == [(ID, 1)]
    lease.release()
    assert (await asyncio.wait_for(second, 5)).endpoint == lease.endpoint


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancel_and_dispatch_in_the_same_turn(world: World, ready: Endpoint, cancel_first: bool) -> None:
    """Whichever comes first, the slot goes to the next waiter and none is lost."""
    world.set(ready, limit=1)
    lease = await asyncio.wait_for(world.activator.acquire(ID), 5)
    first, second = await world.asked(2)
    if cancel_first:
        first.cancel()
    lease.release()
    first.cancel()
    last = await asyncio.wait_for(second, 5)
    assert first.cancelled()
    last.release()
    assert world.activator.try_acquire(ID) is not None


async def test_a_failed_connect_means_probing_again(world: World, upstream, free_port: int) -> None:
    """Nobody is sent there until a probe passes again."""
    async with asyncio.timeout(10):
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", free_port)
        world.set(Endpoint("127.0.0.1", free_port, "pod", ready=True))
        lease = await world.activator.acquire(ID)
        server.close()
        await server.wait_closed()
        lease.fail()
        lease.release()
        assert world.activator.try_acquire(ID) is None
        [task] = await world.asked(1)
        await upstream(port=free_port)
        assert (await task).endpoint.port == free_port


async def test_without_a_probe_of_ours_kubernetes_decides(world: World, ready: Endpoint) -> None:
    """An endpoint whose probe is None takes traffic exactly while it is ready."""
    unready = Endpoint(ready.host, ready.port, ready.pod, ready=False)
    world.set(unready, probe=None)
    [task] = await world.asked(1)
    world.set(ready, probe=None)
    await asyncio.wait_for(task, 5)
    world.set(unready, probe=None)
    assert world.activator.try_acquire(ID) is None


async def test_an_endpoint_that_turns_unready_is_probed_again(world: World, upstream) -> None:
    """It keeps its traffic only if it still answers its probe."""
    server = await upstream([200, 503])
    endpoint: Endpoint = server.endpoint
    world.set(Endpoint(endpoint.host, endpoint.port, endpoint.pod, ready=True), probe=Probe("/"))
    (await asyncio.wait_for(world.activator.acquire(ID), 5)).release()
    world.set(endpoint, probe=Probe("/"))
    assert world.activator.try_acquire(ID) is None
    await until(lambda: world.activator.probe_failures > 0)
    assert world.activator.try_acquire(ID) is None


async def test_probing_ends_with_the_endpoint(world: World, upstream) -> None:
    """An endpoint that leaves the snapshot is not asked any more, while its successor is asked again and again."""
    gone, successor = await upstream([503]), await upstream([503])
    world.set(gone.endpoint, probe=Probe("/"))
    await until(lambda: gone.heads)
    world.set(successor.endpoint, probe=Probe("/"))
    await until(lambda: successor.heads)
    asked = len(gone.heads)
    await until(lambda: len(successor.heads) > 3)
    assert len(gone.heads) == asked


async def test_since_when_an_endpoint_takes_requests(world: World, ready: Endpoint) -> None:
    """Since it was found open, or taken into service again, or granted by a worker that found it open before this
    one did: later than whoever waited for that came."""
    came = perf_counter()
    world.set()
    [task] = await world.asked(1)
    assert world.activator.is_cold(ID)
    world.set(ready, probe=None)
    assert not world.activator.is_cold(ID)
    first = (await asyncio.wait_for(task, 5)).opened_at
    assert came <= first <= perf_counter()

    world.set(draining(ready), probe=None, shrinking=True)
    [task] = await world.asked(1)
    assert world.activator.is_cold(ID)
    world.set(ready, probe=None)
    again = (await asyncio.wait_for(task, 5)).opened_at
    assert first < again <= perf_counter()

    waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    place = Place(ready)
    assert world.activator.wake(waiter, place)
    assert again < place.opened_at <= perf_counter()
