from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.contract import Endpoint, Peer, Peers, RevisionId
from gateway.core.ownership import Borrower, Ledger, owner_of
from gateway.core.peers import Grant, Message, Refuse
from gateway.core.throttler import Place, PlaceId, Throttler

LIMIT = 2
REVISIONS = [RevisionId("default", f"hello-0000{number}") for number in range(2)]
ENDPOINTS = [Endpoint("127.0.0.1", 20000 + number, f"pod-{number}") for number in range(3)]

Waiting = Throttler[int | Borrower]


class Worker:
    """One worker as its shell would run it. `feed` and the channels hold what has not arrived yet."""

    def __init__(self, name: str, queue_limit: int = 1000) -> None:
        self.name = name
        self.ledger: Ledger[int] = Ledger(name, self, queue_limit=queue_limit, worker_queue_limit=1000)
        self.queue_limit = queue_limit
        self.throttlers: dict[RevisionId, Waiting] = {}
        self.feed: deque[Peers | tuple[RevisionId, list[Endpoint]]] = deque()
        self.channels: dict[str, Channel] = {}  # to others
        self.arrived: dict[str, Channel] = {}  # from others
        self.waiting: dict[int, RevisionId] = {}
        self.running: dict[int, tuple[RevisionId, Place]] = {}
        self.gone: set[int] = set()
        self.refused: dict[int, str] = {}
        self.suspected: list[Place] = []
        self.peers = Peers("")

    # the ledger's sink

    def send(self, peer: str, message: Message) -> None:
        if isinstance(message, Grant | Refuse):
            self.arrived[peer].back.append(message)
        else:
            self.channels[peer].there.append(message)

    def wake(self, waiter: int, place: Place) -> bool:
        if waiter in self.gone:
            return False
        self.running[waiter] = (self.waiting.pop(waiter), place)
        return True

    def refuse(self, waiter: int, reason: str, text: str) -> None:
        del self.waiting[waiter]
        self.refused[waiter] = f"{reason}: {text}"

    def suspect(self, revision: RevisionId, place: Place) -> None:
        self.suspected.append(place)

    # what happens to it

    def hear(self) -> None:
        news = self.feed.popleft()
        if isinstance(news, Peers):
            self.peers = news if news.epoch else self.peers
            self.ledger.on_peers(news)
            return
        revision, endpoints = news
        throttler = self.throttlers.get(revision)
        if throttler is None:
            throttler = self.throttlers[revision] = Throttler(container_concurrency=LIMIT, queue_limit=self.queue_limit)
            self.ledger.add(revision, throttler)
        self.ledger.dispatch(revision, throttler, throttler.update(endpoints, LIMIT))
        for place in throttler.places:
            self.ledger.dispatch(revision, throttler, throttler.open(place))

    def request(self, waiter: int, revision: RevisionId) -> None:
        throttler = self.throttlers[revision]
        place = throttler.try_acquire(0.0)
        if place is not None:
            self.running[waiter] = (revision, place)
        elif throttler.enqueue(waiter, 0.0, self.ledger.others_waiting(revision)):
            self.waiting[waiter] = revision
            self.ledger.asked(revision, waiter)

    def finish(self, waiter: int) -> None:
        revision, place = self.running.pop(waiter)
        throttler = self.throttlers[revision]
        self.ledger.dispatch(revision, throttler, throttler.release(place))

    def leave(self, waiter: int) -> None:
        """The client of a request that waits is gone, and the turn ends."""
        self.gone.discard(waiter)
        revision = self.waiting.pop(waiter)
        self.ledger.cancel(revision, self.throttlers[revision], waiter)


class Channel:
    """From one worker to another. None in a queue is its end."""

    def __init__(self, dialler: Worker, acceptor: Worker) -> None:
        self.dialler, self.acceptor = dialler, acceptor
        self.there: deque[Message | None] = deque()
        self.back: deque[Message | None] = deque()
        self.is_known = False  # to the acceptor
        dialler.channels[acceptor.name] = self
        dialler.ledger.on_reachable(acceptor.name)

    def deliver_there(self) -> None:
        name = self.dialler.name
        if not self.is_known:
            former = self.acceptor.arrived.get(name)
            if former is not None:
                former.there.clear()
                self.acceptor.ledger.on_departure(name)
            self.is_known = True
            self.acceptor.arrived[name] = self
            self.acceptor.ledger.on_arrival(name)
            return
        if self.acceptor.arrived.get(name) is not self:
            self.there.clear()
            return
        message = self.there.popleft()
        if message is None:
            del self.acceptor.arrived[name]
            self.acceptor.ledger.on_departure(name)
        else:
            self.acceptor.ledger.on_message(name, message)

    def deliver_back(self) -> None:
        name = self.acceptor.name
        message = self.back.popleft()
        if self.dialler.channels.get(name) is not self:
            return
        if message is None:
            del self.dialler.channels[name]
            self.dialler.ledger.on_unreachable(name)
        else:
            self.dialler.ledger.on_message(name, message)

    def break_off(self) -> None:
        """The dialler knows at once, the acceptor when it has read what was sent before."""
        self.there.append(None)
        if self.dialler.channels.get(self.acceptor.name) is self:
            del self.dialler.channels[self.acceptor.name]
            self.dialler.ledger.on_unreachable(self.acceptor.name)


class World:
    """Workers, the channels between them, and the controller's list."""

    def __init__(self, first: int = 0) -> None:
        self.workers: dict[str, Worker] = {}
        self.leaving: set[str] = set()
        self.channels: list[Channel] = []
        self.endpoints: dict[RevisionId, list[Endpoint]] = {revision: list(ENDPOINTS) for revision in REVISIONS}
        self.lists = 0
        self.started = first

    def join(self) -> Worker:
        worker = Worker(f"worker-{self.started}")
        self.started += 1
        worker.feed.append(Peers(""))
        worker.feed.extend((revision, list(endpoints)) for revision, endpoints in self.endpoints.items())
        while worker.feed:
            worker.hear()
        self.workers[worker.name] = worker
        self.publish()
        return worker

    def leave(self, worker: Worker) -> None:
        self.leaving.add(worker.name)
        self.publish()

    def kill(self, worker: Worker) -> None:
        del self.workers[worker.name]
        for channel in self.channels:
            if channel.dialler is worker:
                channel.there.append(None)
            elif channel.acceptor is worker:
                channel.back.append(None)
        self.channels = [one for one in self.channels if one.acceptor is not worker or one.dialler is not worker]
        self.publish()

    def publish(self) -> None:
        self.lists += 1
        peers = tuple(Peer(name, "", name in self.leaving) for name in self.workers)
        for worker in self.workers.values():
            worker.feed.append(Peers(f"e{self.lists}", peers))

    def offer(self, revision: RevisionId, endpoints: list[Endpoint]) -> None:
        self.endpoints[revision] = endpoints
        for worker in self.workers.values():
            worker.feed.append((revision, list(endpoints)))

    def diallable(self) -> list[tuple[Worker, Worker]]:
        """Who has yet to open a channel to whom."""
        pairs = []
        for worker in self.workers.values():
            names = {peer.name for peer in worker.peers.workers} - {worker.name}
            missing = sorted(names - worker.channels.keys())
            pairs += [(worker, self.workers[name]) for name in missing if name in self.workers]
        return pairs

    def dial(self, pair: tuple[Worker, Worker]) -> None:
        self.channels.append(Channel(*pair))

    def steps(self) -> list[tuple[str, Channel]]:
        """What can be delivered."""
        found = []
        for channel in self.channels:
            if channel.acceptor.name in self.workers and (channel.there or not channel.is_known):
                found.append(("there", channel))
            if channel.dialler.name in self.workers and channel.back:
                found.append(("back", channel))
        return found

    def deliver(self, step: tuple[str, Channel]) -> None:
        direction, channel = step
        channel.deliver_there() if direction == "there" else channel.deliver_back()

    def settle(self, but: Worker | None = None) -> None:
        """Until nothing is on the way, but what the controller has to say to one that is slow."""
        while True:
            hearing = [worker for worker in self.workers.values() if worker.feed and worker is not but]
            if hearing:
                hearing[0].hear()
            elif steps := self.steps():
                self.deliver(steps[0])
            elif pairs := self.diallable():
                self.dial(pairs[0])
            else:
                return

    def load(self) -> Counter[tuple[RevisionId, PlaceId]]:
        """What the endpoints really have."""
        running = (one for worker in self.workers.values() for one in worker.running.values())
        return Counter((revision, place.id) for revision, place in running)

    def owner(self, revision: RevisionId) -> Worker:
        staying = self.workers.keys() - self.leaving
        name = owner_of(revision, staying or self.workers)
        assert name is not None
        return self.workers[name]


def settled(*names: str) -> World:
    """Workers that know of each other."""
    world = World()
    for _ in names:
        world.join()
    world.settle()
    return world


def others_than(world: World, worker: Worker) -> list[Worker]:
    return [other for other in world.workers.values() if other is not worker]


# --- who owns what ----------------------------------------------------------------------------------------------------


def test_every_worker_owns_its_share() -> None:
    """Within a tenth of it, over many revisions."""
    workers = ["a", "b", "c", "d"]
    owners = Counter(owner_of(RevisionId("default", f"r-{number}"), workers) for number in range(4000))
    assert all(900 <= count <= 1100 for count in owners.values())


def test_a_worker_that_goes_leaves_the_others_what_they_have() -> None:
    """Only its own revisions change hands; and none but its own when it comes."""
    for number in range(200):
        revision = RevisionId("default", f"r-{number}")
        before, after = owner_of(revision, ["a", "b", "c"]), owner_of(revision, ["b", "a"])
        assert before in (after, "c")
    assert owner_of(REVISIONS[0], []) is None


# --- one thing at a time ----------------------------------------------------------------------------------------------


def test_a_worker_alone_deals_out_everything() -> None:
    """Without a list, as when it was started from its snapshot file; and it goes on while a list is being made."""
    worker = Worker("alone")
    worker.feed.append((REVISIONS[0], ENDPOINTS))
    worker.hear()
    worker.request(1, REVISIONS[0])
    assert 1 in worker.running
    worker.feed.append(Peers(""))
    worker.hear()
    worker.request(2, REVISIONS[0])
    assert 2 in worker.running


def test_a_worker_that_is_told_to_wait_for_a_list_deals_out_nothing() -> None:
    """Others may be dealing out; with the list it begins."""
    worker = Worker("new")
    worker.feed.extend([Peers(""), (REVISIONS[0], ENDPOINTS)])
    worker.hear()
    worker.hear()
    worker.request(1, REVISIONS[0])
    assert 1 in worker.waiting
    worker.feed.append(Peers("e1", (Peer("other", ""),)))
    worker.hear()
    assert 1 in worker.waiting, "it is not on the list"
    worker.feed.append(Peers("e2", (Peer("new", ""),)))
    worker.hear()
    assert 1 in worker.running


def test_a_borrowed_place_counts_at_the_owner() -> None:
    """Two workers fill one endpoint together, first come, first served."""
    world = settled("a", "b")
    revision = REVISIONS[0]
    world.offer(revision, ENDPOINTS[:1])
    world.settle()
    owner = world.owner(revision)
    [other] = others_than(world, owner)
    other.request(1, revision)
    world.settle()
    owner.request(2, revision)
    other.request(3, revision)
    world.settle()
    owner.request(4, revision)
    assert (list(other.running), list(owner.running), list(other.waiting)) == ([1], [2], [3])
    assert (owner.ledger.lent, owner.ledger.asks, other.ledger.borrowed) == (1, 1, 1)
    other.finish(1)
    world.settle()
    assert 3 in other.running
    owner.finish(2)
    assert 4 in owner.running


def test_a_client_that_leaves_frees_its_turn_at_the_owner() -> None:
    """And a grant that crosses with its leaving is given back."""
    world = settled("a", "b")
    revision = REVISIONS[0]
    world.offer(revision, ENDPOINTS[:1])
    world.settle()
    owner = world.owner(revision)
    [other] = others_than(world, owner)
    other.request(1, revision)
    other.leave(1)
    world.settle()
    assert (owner.ledger.lent, owner.ledger.asks) == (0, 0)
    other.request(2, revision)
    while not other.arrived and not other.channels[owner.name].back:
        world.deliver(world.steps()[0])
    world.settle() if 2 in other.running else None
    other.gone.update(other.waiting)
    world.settle()
    assert world.load().total() == owner.ledger.lent


def test_an_ask_for_a_revision_that_the_owner_does_not_know_yet_waits_for_it() -> None:
    """Updates reach workers at different times."""
    world = settled("a", "b")
    names = (RevisionId("default", f"new-{number}") for number in range(99))
    revision = next(name for name in names if world.owner(name).name == "worker-0")
    first, second = world.workers.values()
    second.feed.append((revision, ENDPOINTS))
    world.settle()
    second.request(1, revision)
    world.settle()
    assert 1 in second.waiting
    first.feed.append((revision, ENDPOINTS))
    world.settle()
    assert 1 in second.running


def test_a_queue_is_bounded_for_each_worker() -> None:
    """One that asks for too much takes nothing from the others' share of the queue."""
    world = World()
    revision = REVISIONS[0]
    for name in ("worker-0", "worker-1", "worker-2"):
        worker = Worker(name, queue_limit=2)
        worker.feed.append((revision, []))
        worker.feed.appendleft(Peers(""))
        world.workers[name] = worker
    world.publish()
    world.settle()
    owner = world.owner(revision)
    one, two = others_than(world, owner)
    for number in range(2):
        one.request(number, revision)
        two.request(10 + number, revision)
        owner.request(20 + number, revision)
    one.throttlers[revision].enqueue(5, 0.0, others=1)
    one.waiting[5] = revision
    one.ledger.asked(revision, 5)
    world.settle()
    assert one.refused == {5: f"QueueFull: 2 requests wait for revision {revision}, which is as many as may"}
    assert [len(worker.waiting) for worker in (owner, one, two)] == [2, 2, 2]
    owner.request(22, revision)
    assert 22 not in owner.waiting


def test_what_ends_a_queue_is_told_to_other_workers() -> None:
    """Their requests end with the reason that the owner's end with."""
    world = settled("a", "b")
    revision = REVISIONS[0]
    world.offer(revision, [])
    world.settle()
    owner = world.owner(revision)
    [other] = others_than(world, owner)
    other.request(1, revision)
    owner.request(2, revision)
    world.settle()
    assert owner.ledger.clear(revision, owner.throttlers[revision], "RevisionFailed", "no such file") == [2]
    world.settle()
    assert other.refused == {1: "RevisionFailed: no such file"}


def test_a_place_that_fails_a_borrower_is_suspected_by_the_owner() -> None:
    """It probes it, and sends nobody else there."""
    world = settled("a", "b")
    owner = world.owner(REVISIONS[0])
    [other] = others_than(world, owner)
    other.request(1, REVISIONS[0])
    world.settle()
    other.ledger.failed(*((revision, place) for revision, place in other.running.values()).__next__())
    world.settle()
    assert [place.id.port for place in owner.suspected] == [20000]


def test_workers_agree_on_what_is_left_without_a_controller() -> None:
    """A worker died while the controller is away: its revisions go to the others, who wait for each other as ever."""
    world = settled("a", "b", "c")
    revision = REVISIONS[0]
    dead = world.owner(revision)
    one, two = others_than(world, dead)
    one.request(1, revision)
    world.settle()
    del world.workers[dead.name]
    one.request(2, revision)
    for worker in (one, two):
        worker.channels.pop(dead.name)
        worker.ledger.on_unreachable(dead.name)
        worker.ledger.on_departure(dead.name)
    one.ledger.on_death(dead.name)
    assert 2 in one.waiting
    two.ledger.on_death(dead.name)
    for channel in world.channels:
        assert dead not in (channel.dialler, channel.acceptor) or not channel.back
    while steps := [step for step in world.steps() if dead not in (step[1].dialler, step[1].acceptor)]:
        world.deliver(steps[0])
    assert 2 in one.running
    assert max(world.load().values()) <= LIMIT


@pytest.mark.parametrize("number", range(5))
def test_a_worker_that_has_not_heard_of_its_successor_does_not_think_that_others_have_left(number: int) -> None:
    """It deals out by the old list, to nobody but those who are at the old list too, and within the limit."""
    world = World(first=number)
    revision = REVISIONS[0]
    world.endpoints = {revision: ENDPOINTS[:1]}
    world.join()
    world.join()
    world.settle()
    slow = world.owner(revision)
    [other] = others_than(world, slow)
    for waiter in range(LIMIT):
        other.request(waiter, revision)
    world.settle()
    slow.request(10, revision)
    world.join()
    world.settle(but=slow)
    assert world.load().total() == LIMIT
    other.finish(0)
    world.settle()
    assert world.load().total() == LIMIT


def test_what_a_former_owner_grants_is_void() -> None:
    """It was on its way when the borrower heard that another one deals out."""
    world = World()
    revision = REVISIONS[0]
    world.endpoints = {revision: ENDPOINTS[:1]}
    for _ in range(3):
        world.join()
    world.settle()
    former = world.owner(revision)
    borrower, other = others_than(world, former)
    borrower.request(1, revision)
    [channel] = [one for one in world.channels if (one.dialler, one.acceptor) == (borrower, former)]
    channel.deliver_there()
    assert [type(message) for message in channel.back] == [Grant]
    world.leave(former)
    for worker in (former, borrower, other):
        worker.hear()
    channel.deliver_back()
    assert borrower.waiting
    world.settle()
    assert (list(borrower.running), world.load().total()) == ([1], 1)


# --- whatever happens -------------------------------------------------------------------------------------------------


class OwnershipLaws(RuleBasedStateMachine):
    """Messages arrive in any order but a channel's own; workers come, leave and die, channels break, endpoints change,
    each worker learns of it when it does. No endpoint is ever above its limit, and when all has arrived nobody waits
    beside a free place, and the owner counts what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.waiter = 0

    @initialize(first=st.integers(0, 99), count=st.integers(1, 3), endpoints=st.integers(0, 2))
    def begin(self, first: int, count: int, endpoints: int) -> None:
        self.world = World(first)  # by their names they own other revisions each time
        for revision in REVISIONS:
            self.world.endpoints[revision] = ENDPOINTS[:endpoints]
        for _ in range(count):
            self.world.join()
        self.world.settle()

    def any_worker(self, data: st.DataObject) -> Worker:
        return data.draw(st.sampled_from(list(self.world.workers.values())))

    @rule(data=st.data(), revision=st.sampled_from(REVISIONS), count=st.integers(1, 6))
    def request(self, data: st.DataObject, revision: RevisionId, count: int) -> None:
        worker = self.any_worker(data)
        for _ in range(count):
            worker.request(self.waiter, revision)
            self.waiter += 1

    @precondition(lambda self: self.world.load())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        running = [(worker, one) for worker in self.world.workers.values() for one in worker.running]
        worker, waiter = data.draw(st.sampled_from(running))
        worker.finish(waiter)

    @precondition(lambda self: any(worker.waiting for worker in self.world.workers.values()))
    @rule(data=st.data(), in_a_later_turn=st.booleans())
    def abandon(self, data: st.DataObject, in_a_later_turn: bool) -> None:
        waiting = [(worker, one) for worker in self.world.workers.values() for one in worker.waiting]
        worker, waiter = data.draw(st.sampled_from(waiting))
        if in_a_later_turn:
            worker.gone.add(waiter)
        else:
            worker.leave(waiter)

    @precondition(lambda self: self.world.steps())
    @rule(data=st.data(), count=st.integers(1, 5))
    def deliver(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            if steps := self.world.steps():
                self.world.deliver(steps[data.draw(st.integers(0, len(steps) - 1))])

    @precondition(lambda self: any(worker.feed for worker in self.world.workers.values()))
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        hearing = [worker for worker in self.world.workers.values() if worker.feed]
        data.draw(st.sampled_from(hearing)).hear()

    @precondition(lambda self: self.world.diallable())
    @rule(data=st.data())
    def dial(self, data: st.DataObject) -> None:
        pairs = self.world.diallable()
        self.world.dial(pairs[data.draw(st.integers(0, len(pairs) - 1))])

    @precondition(lambda self: len(self.world.workers) < 4)
    @rule()
    def join(self) -> None:
        self.world.join()

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.world.leave(self.any_worker(data))

    @precondition(lambda self: len(self.world.workers) > 1)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        self.world.kill(self.any_worker(data))

    @precondition(lambda self: any(worker.channels for worker in self.world.workers.values()))
    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        channels = [one for worker in self.world.workers.values() for one in worker.channels.values()]
        channels[data.draw(st.integers(0, len(channels) - 1))].break_off()

    @rule(revision=st.sampled_from(REVISIONS), numbers=st.sets(st.integers(0, 2)))
    def offer(self, revision: RevisionId, numbers: set[int]) -> None:
        self.world.offer(revision, [ENDPOINTS[number] for number in numbers])

    @rule(data=st.data(), change=st.sampled_from(["nothing", "join", "leave", "kill"]))
    def one_is_slow(self, data: st.DataObject, change: str) -> None:
        """Everything arrives but what the controller tells one worker."""
        slow = self.any_worker(data)
        if change == "join" and len(self.world.workers) < 4:
            self.world.join()
        elif change == "leave":
            self.leave(data)
        elif change == "kill" and len(self.world.workers) > 1:
            self.kill(data)
        self.world.settle(but=slow)

    @rule()
    def settle(self) -> None:
        world = self.world
        for worker in world.workers.values():
            for waiter in list(worker.gone & worker.waiting.keys()):
                worker.leave(waiter)
        world.settle()
        load = world.load()
        for revision in REVISIONS:
            throttler = world.owner(revision).throttlers[revision]
            assert throttler.deals
            waiting = sum(list(worker.waiting.values()).count(revision) for worker in world.workers.values())
            assert throttler.waiting == waiting
            asks = [owner.ledger.asks for owner in world.workers.values()]
            assert sum(asks) <= sum(len(worker.waiting) for worker in world.workers.values())
            there = {place: count for (key, place), count in load.items() if key == revision}
            assert throttler.used == there
            free = [place for place in throttler.places if place.is_open and place.in_flight < LIMIT]
            assert not (waiting and free)

        borrowed = sum(
            world.owner(revision) is not worker
            for worker in world.workers.values()
            for revision, _ in worker.running.values()
        )
        assert sum(worker.ledger.lent for worker in world.workers.values()) == borrowed

    @invariant()
    def no_endpoint_is_above_its_limit(self) -> None:
        assert all(count <= LIMIT for count in self.world.load().values())

    def teardown(self) -> None:
        if self.world.workers:
            self.settle()


OwnershipLaws.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestOwnershipLaws = OwnershipLaws.TestCase
