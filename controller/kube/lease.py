"""One controller leads, the others stand by: leader election on a coordination.k8s.io Lease.

Theory of operation
-------------------
The Lease names its holder, who renews it every `RETRY` seconds. A candidate takes it when it is free, its own, or has
not *changed* for `DURATION` as the candidate's own clock counts: clocks of different machines are never compared
(client-go's rule). Two candidates that take it at once are told apart by the API server's resourceVersion: one gets a
Conflict.

A leader that could not renew for `RENEW_WITHIN` stops working before anybody else may begin. It gives the Lease back
when it ends in an orderly way, so that the next one starts at once.

The decisions are functions of the Lease, what was seen of it before, and `now`; `lead` is the shell. The times are
client-go's defaults.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from controller.apis import kinds
from controller.kube.errors import Conflict, KubeError, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.apis.meta import JsonObject, Key
    from controller.kube.client import Kube

log = logging.getLogger(__name__)

DURATION = 15.0
RENEW_WITHIN = 10.0
RETRY = 2.0


class LeadershipLost(Exception):
    """The Lease could not be renewed in time, or somebody else holds it."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a candidate saw of the Lease, and when that began, on its own clock."""

    holder: str = ""
    renewed: str = ""
    since: float = 0.0


def sight(before: Sighting, lease: JsonObject | None, now: float) -> Sighting:
    """The sighting after reading the Lease (None: there is none) at `now`; only a change restarts its time."""
    spec = (lease or {}).get("spec") or {}
    holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
    if (holder, renewed) == (before.holder, before.renewed):
        return before
    return Sighting(holder, renewed, now)


def may_take(seen: Sighting, identity: str, now: float) -> bool:
    """Free, ours, or not renewed for its duration."""
    return seen.holder in ("", identity) or now - seen.since > DURATION


def claim(lease: JsonObject | None, key: Key, identity: str, moment: datetime) -> JsonObject:
    """The Lease to write, to take or to renew it."""
    base = lease or {
        "apiVersion": kinds.LEASE.api_version,
        "kind": kinds.LEASE.kind,
        "metadata": {"namespace": key.namespace, "name": key.name},
    }
    old = base.get("spec") or {}
    stamp = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    is_ours = old.get("holderIdentity") == identity
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(DURATION),
        "acquireTime": old.get("acquireTime", stamp) if is_ours else stamp,
        "renewTime": stamp,
        "leaseTransitions": int(old.get("leaseTransitions") or 0) + (lease is not None and not is_ours),
    }
    return {**base, "spec": spec}


async def lead(kube: Kube, key: Key, identity: str, work: Callable[[], Awaitable[None]]) -> None:
    """Waits for the Lease, then runs `work` for as long as it is held. Returns when `work` does. Raises LeadershipLost
    after cancelling it; the caller should let the process end, so that nothing of the former leader stays behind."""
    await _acquire(kube, key, identity)
    log.info("%s leads (%s)", identity, key)
    working = asyncio.ensure_future(work())
    renewing = asyncio.ensure_future(_renew(kube, key, identity))
    try:
        await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
    finally:
        held = not renewing.done()
        for task in (working, renewing):
            task.cancel()
        results = await asyncio.gather(working, renewing, return_exceptions=True)
        if held:
            await _release(kube, key, identity)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _acquire(kube: Kube, key: Key, identity: str) -> None:
    loop, seen = asyncio.get_running_loop(), Sighting()
    while True:
        try:
            lease = await _read(kube, key)
            seen = sight(seen, lease, loop.time())
            if may_take(seen, identity, loop.time()):
                await _write(kube, lease, key, identity)
                return
        except Conflict:
            log.debug("somebody else took %s", key)
        except KubeError as error:
            log.warning("can't take the lease %s, trying again: %s", key, error)
        await asyncio.sleep(RETRY * random.uniform(1.0, 1.2))  # candidates don't come in step


async def _renew(kube: Kube, key: Key, identity: str) -> None:
    """Until the lease is lost."""
    loop = asyncio.get_running_loop()
    renewed = loop.time()
    while True:
        await asyncio.sleep(RETRY)
        try:
            async with asyncio.timeout_at(renewed + RENEW_WITHIN):
                lease = await _read(kube, key)
                holder = ((lease or {}).get("spec") or {}).get("holderIdentity")
                if lease is not None and holder != identity:
                    raise LeadershipLost(f"{holder or 'nobody'} holds the lease {key} now")
                began = loop.time()
                await _write(kube, lease, key, identity)
                renewed = began
        except TimeoutError as error:
            raise LeadershipLost(f"the lease {key} could not be renewed for {RENEW_WITHIN} s") from error
        except KubeError as error:
            log.warning("can't renew the lease %s, trying again: %s", key, error)
            if loop.time() - renewed > RENEW_WITHIN:
                raise LeadershipLost(f"the lease {key} could not be renewed for {RENEW_WITHIN} s") from error


async def _release(kube: Kube, key: Key, identity: str) -> None:
    try:
        lease = await _read(kube, key)
        if lease is not None and lease["spec"].get("holderIdentity") == identity:
            await kube.update(kinds.LEASE, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
    except KubeError as error:
        log.info("the lease %s was not given back; it runs out by itself: %s", key, error)


async def _read(kube: Kube, key: Key) -> JsonObject | None:
    try:
        return await kube.get(kinds.LEASE, key)
    except NotFound:
        return None


async def _write(kube: Kube, lease: JsonObject | None, key: Key, identity: str) -> None:
    wanted = claim(lease, key, identity, datetime.now(UTC))
    if lease is None:
        await kube.create(kinds.LEASE, wanted)
    else:
        await kube.update(kinds.LEASE, wanted)
