"""What holds for the activator's leases after each step, whatever the steps are and in whichever turn they come."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.activator.activator import Activator, Lease
from gateway.contract import Endpoint, Probe, Revision, RevisionId, Snapshot, Update, apply
from gateway.errors import NoRevision, QueueFull, RevisionFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

    T = TypeVar("T")

ID = RevisionId("default", "hello-00001")
QUEUE_LIMIT = 4


class ActivatorLaws(RuleBasedStateMachine):
    """While a request waits, no open endpoint has a free place; none is ever above its limit; who came first is served
    first; whoever waits is either served, or told why not, or gone. Endpoints listen, so a probe passes when there is
    one; what fails is a lease (the endpoint refused the request)."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.servers = [self.run(asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)) for _ in range(3)]
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

        async def turns() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        self.run(turns())
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

    @rule(
        endpoints=st.dictionaries(st.integers(0, 2), st.booleans()),
        limit=st.sampled_from([0, 1, 2, 4]),
        failure=st.sampled_from(["", "", "no such file"]),
    )
    def offer(self, endpoints: dict[int, bool], limit: int, failure: str) -> None:
        """The controller names the endpoints, some of them draining, and the limit."""
        self.limit, self.failure = limit, failure
        found = [
            Endpoint("127.0.0.1", self.servers[number].sockets[0].getsockname()[1], f"pod-{number}", draining=draining)
            for number, draining in endpoints.items()
        ]
        self.give(Revision(ID, container_concurrency=limit, endpoints=tuple(found), probe=Probe(), failure=failure))

    @rule()
    def remove(self) -> None:
        self.give(None)

    @rule(count=st.integers(1, 3))
    def ask(self, count: int) -> None:
        self.waiting += [self.loop.create_task(self.activator.acquire(ID)) for _ in range(count)]
        self.turn()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), fails=st.booleans())
    def release(self, data: st.DataObject, fails: bool) -> None:
        """A request is over, or its endpoint refused it."""
        self.run(self.give_back(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))), fails))
        self.turn()

    async def give_back(self, lease: Lease, fails: bool) -> None:
        if fails:
            lease.fail()
        lease.release()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting)).cancel()
        self.turn()

    @precondition(lambda self: self.waiting and self.held)
    @rule(data=st.data(), leaves_first=st.booleans())
    def leave_as_a_place_is_freed(self, data: st.DataObject, leaves_first: bool) -> None:
        """The one that is next leaves in the turn in which it would have its place."""
        lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if leaves_first:
            self.waiting[0].cancel()
        self.loop.call_soon(lease.release)
        self.loop.call_soon(self.waiting[0].cancel)
        self.turn()

    @rule()
    def probes_pass(self) -> None:
        """Those that are due."""
        self.run(asyncio.sleep(0.012))
        self.turn()

    # --- what holds ---------------------------------------------------------------------------------------------------

    @invariant()
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

    @invariant()
    def counts_agree(self) -> None:
        assert self.activator.parked == len(self.waiting) <= QUEUE_LIMIT
        unit = self.activator._units.get(ID)
        if unit is not None:
            assert unit.throttler.waiting == len(self.waiting)

    def teardown(self) -> None:
        async def close() -> None:
            await self.activator.close()
            for task in self.waiting:
                with suppress(NoRevision):
                    await task
            for server in self.servers:
                server.close()
                await server.wait_closed()

        self.run(close())
        assert self.activator.parked == 0
        self.loop.close()


TestActivatorLaws = ActivatorLaws.TestCase
TestActivatorLaws.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
