import asyncio

import pytest
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller.kube.workqueue import BACK_OFF_BASE, BACK_OFF_CAP, AsyncWorkQueue, WorkQueue


def drain(queue, now=0.0):
    keys = []
    while (key := queue.take(now)) is not None:
        keys.append(key)
    return keys


def test_a_key_waits_once_and_in_order():
    """Ten changes of one key are one reconcile; keys come out in the order they came in."""
    queue = WorkQueue()
    for key in "abacab":
        queue.add(key)
    assert drain(queue) == ["a", "b", "c"]


def test_a_key_in_hand_is_not_handed_out_again_until_done():
    """A change during the reconcile queues the key behind it, once."""
    queue = WorkQueue()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take(0) is None
    queue.done("a")
    assert drain(queue) == ["a"]


def test_of_several_delays_the_earliest_counts():
    """A delayed key comes out once, at the earliest of its times."""
    queue = WorkQueue()
    queue.add_at("a", 5)
    queue.add_at("a", 2)
    queue.add_at("a", 9)
    assert queue.next_due() == 2
    assert queue.take(1.9) is None
    assert queue.take(2) == "a"
    queue.done("a")
    assert drain(queue, 100) == []
    assert queue.next_due() is None


def test_failures_double_up_to_the_cap_and_a_success_resets():
    """The back-off is per key: 5, 10, 20 ms … 60 s."""
    queue = WorkQueue()
    delays = [queue.add_failed("a", 0) for _ in range(60)]
    assert delays[:3] == pytest.approx([BACK_OFF_BASE, 2 * BACK_OFF_BASE, 4 * BACK_OFF_BASE])
    assert delays[-1] == BACK_OFF_CAP
    assert queue.add_failed("b", 0) == BACK_OFF_BASE
    queue.forget("a")
    assert queue.add_failed("a", 0) == BACK_OFF_BASE


class Laws(RuleBasedStateMachine):
    """Nothing added is lost, nothing is in two hands."""

    def __init__(self):
        super().__init__()
        self.queue, self.in_hand, self.owed, self.now = WorkQueue(), set(), set(), 0.0

    @rule(key=st.integers(0, 4))
    def add(self, key):
        self.queue.add(key)
        self.owed.add(key)

    @rule(key=st.integers(0, 4), delay=st.floats(0, 3))
    def add_later(self, key, delay):
        self.queue.add_at(key, self.now + delay)

    @rule(seconds=st.floats(0, 2))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def take(self):
        key = self.queue.take(self.now)
        if key is None:
            assert not self.owed - self.in_hand
        else:
            assert key not in self.in_hand
            self.in_hand.add(key)
            self.owed.discard(key)

    @rule(data=st.data())
    def done(self, data):
        if self.in_hand:
            key = data.draw(st.sampled_from(sorted(self.in_hand)))
            self.in_hand.discard(key)
            self.queue.done(key)

    @invariant()
    def due_is_not_past_once_promoted(self):
        self.queue.promote(self.now)
        due = self.queue.next_due()
        assert due is None or due > self.now


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=50, stateful_step_count=30)


async def test_take_waits_for_a_key_and_for_a_delayed_one():
    """A waiting worker gets a new key at once and a delayed key when it is due."""
    queue = AsyncWorkQueue()
    taker = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    queue.add("a")
    assert await taker == "a"
    queue.add("b", after=0.01)
    queue.add_failed("c")
    assert {await queue.take(), await queue.take()} == {"b", "c"}
    queue.close()


async def test_a_cancelled_worker_passes_its_wake_up_on():
    """A key whose worker is cancelled at the moment of waking goes to another worker."""
    queue = AsyncWorkQueue()
    first, second = asyncio.ensure_future(queue.take()), asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    queue.add("a")  # wakes `first`
    first.cancel()
    assert await asyncio.wait_for(second, 5) == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_done_wakes_a_worker_for_a_key_that_changed_meanwhile():
    """The second reconcile of a key starts when the first has ended."""
    queue = AsyncWorkQueue()
    queue.add("a")
    await queue.take()
    queue.add("a")
    taker = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    assert not taker.done()
    queue.done("a")
    assert await asyncio.wait_for(taker, 5) == "a"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_many_short_delays_on_every_loop(run):
    """uvloop counts whole milliseconds: a delay below one must neither fail nor be forgotten."""

    async def take_all():
        queue = AsyncWorkQueue()
        for n in range(40):
            queue.add(n, after=n * 0.0002)
            queue.add_failed(n)
        async with asyncio.timeout(10):
            taken = {await queue.take() for _ in range(40)}
        queue.close()
        return taken

    assert run(take_all()) == set(range(40))
