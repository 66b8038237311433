import asyncio
import contextlib
from datetime import UTC, datetime

import pytest

from controller.apis.meta import Key
from controller.kube import lease as lease_module
from controller.kube.client import KubeClient
from controller.kube.lease import LeadershipLost, Sighting, claim, lead, may_take, sight
from tests.polling import until

KEY = Key("knative-serving", "controller")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/knative-serving/leases"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def quick(monkeypatch):
    """The protocol's times, two hundred times as fast."""
    monkeypatch.setattr(lease_module, "RETRY", 0.01)
    monkeypatch.setattr(lease_module, "RENEW_WITHIN", 0.1)
    monkeypatch.setattr(lease_module, "DURATION", 0.15)


def lease(holder, renewed="t1"):
    return {"spec": {"holderIdentity": holder, "renewTime": renewed}}


@pytest.mark.parametrize(
    ("sightings", "now", "taken"),
    [
        ([(None, 0)], 0, True),
        ([(lease(""), 0)], 0, True),
        ([(lease("me"), 0)], 0, True),
        ([(lease("other"), 0)], 15, False),
        ([(lease("other"), 0)], 15.1, True),
        ([(lease("other", "t1"), 0), (lease("other", "t2"), 10)], 20, False),
        ([(lease("other"), 0), (lease("other"), 10)], 16, True),
        ([(lease("other"), 0), (lease("third"), 10)], 16, False),
    ],
)
def test_who_may_take_it(sightings, now, taken):
    """Free, ours, or unchanged for its duration on our own clock, whatever time is written in it."""
    seen = Sighting()
    for found, moment in sightings:
        seen = sight(seen, found, moment)
    assert may_take(seen, "me", now) == taken


def test_a_claim_counts_transitions_and_keeps_the_time_of_acquiring():
    """Renewing moves renewTime only; taking from another counts."""
    first = claim(None, KEY, "me", NOW)
    assert first["spec"]["leaseTransitions"] == 0
    renewed = claim(first, KEY, "me", NOW.replace(hour=1))
    assert renewed["spec"]["acquireTime"] == first["spec"]["acquireTime"] == "2026-01-01T00:00:00.000000Z"
    assert renewed["spec"]["renewTime"] == "2026-01-01T01:00:00.000000Z"
    taken = claim(renewed, KEY, "other", NOW.replace(hour=2))
    assert (taken["spec"]["leaseTransitions"], taken["spec"]["holderIdentity"]) == (1, "other")
    assert taken["spec"]["acquireTime"] == taken["spec"]["renewTime"]


class Candidate:
    """Runs `lead` and shows whether its work runs."""

    def __init__(self, kube, name):
        self.leading = asyncio.Event()
        self.task = asyncio.ensure_future(lead(kube, KEY, name, self._work))

    async def _work(self):
        self.leading.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.leading.clear()

    async def stop(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LeadershipLost):
            await self.task


@pytest.fixture
async def candidate(mini, quick):
    _, url = mini
    async with contextlib.AsyncExitStack() as stack:
        kube = await stack.enter_async_context(KubeClient.from_token(url))

        def make(name):
            made = Candidate(kube, name)
            stack.push_async_callback(made.stop)
            return made

        yield make


async def test_one_leads_and_the_next_takes_over_when_it_ends(mini, candidate):
    """The lease is given back at an orderly end."""
    api, _ = mini
    one = candidate("one")
    await until(one.leading.is_set)
    two = candidate("two")
    renewed = api.objects[LEASES, "controller"]["spec"]["renewTime"]
    await until(lambda: api.objects[LEASES, "controller"]["spec"]["renewTime"] != renewed)
    assert not two.leading.is_set()
    await one.stop()
    await until(two.leading.is_set)
    assert api.objects[LEASES, "controller"]["spec"]["holderIdentity"] == "two"


async def test_a_leader_that_vanished_is_replaced_after_the_duration(mini, candidate):
    """Its lease runs out on the candidate's clock."""
    api, _ = mini
    await api.put(LEASES, claim(None, KEY, "vanished", NOW))
    one = candidate("one")
    await until(one.leading.is_set)


async def test_a_leader_that_is_robbed_stops_its_work(mini, candidate):
    """Somebody else's name in the lease ends the work and raises."""
    api, _ = mini
    one = candidate("one")
    await until(one.leading.is_set)
    await api.put(LEASES, {**api.objects[LEASES, "controller"], "spec": {"holderIdentity": "thief"}})
    with pytest.raises(LeadershipLost, match="thief"):
        await one.task
    assert not one.leading.is_set()


async def test_a_leader_that_cannot_renew_stops_its_work(mini, candidate):
    """Before the others may begin."""
    api, _ = mini
    one = candidate("one")
    await until(one.leading.is_set)
    away = {"code": 503, "reason": "", "message": "away"}
    api.refuse["GET", f"{LEASES}/controller"] = [away] * 1000
    with pytest.raises(LeadershipLost, match="could not be renewed"):
        await one.task


async def test_work_that_fails_ends_the_leadership_with_its_error(mini, quick):
    """The error is the caller's, and the lease is free again."""
    api, url = mini

    async def work():
        raise ZeroDivisionError

    async with KubeClient.from_token(url) as kube:
        with pytest.raises(ZeroDivisionError):
            await lead(kube, KEY, "one", work)
    assert api.objects[LEASES, "controller"]["spec"]["holderIdentity"] == ""
