"""Carrying out a plan: the one place where controllers write.

Theory of operation
-------------------
In order: creates, updates, patches, deletes, then the reconciled object's status. A step that would change nothing,
judged by the cache the plan was made from, is no request at all. A step that fails does not keep the others from being
tried, because a plan's steps are independent of each other; the first failure is raised in the end. The status is
written even then, so that what a person sees does not stop at the first obstacle, except after a Conflict or NotFound:
those say that the plan was made from an old picture, and so is the status.

A deletion of what is already gone has succeeded. The answers to writes are handed to `offer`, which is how the caches
know of them before the watch does; the answer to the status goes to `offer_status`, because who wrote it has nothing to
look at again (a plan is a fixed point), where a child that was made may bring the next step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from controller.apis.kinds import BUILT_IN_KINDS, KNATIVE_KINDS
from controller.apis.meta import Key, key_of
from controller.kube.errors import Conflict, KubeError, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.kube.client import Kube
    from controller.reconcile.plan import Cache, Deletion, Patch, Plan

_KINDS = {(kind.api_version, kind.kind): kind for kind in (*KNATIVE_KINDS, *BUILT_IN_KINDS)}


class Offer(Protocol):
    def __call__(self, kind: Kind, obj: JsonObject) -> None: ...


def kind_of(obj: JsonObject) -> Kind:
    """Raises KeyError for an object of a kind that `controller.apis.kinds` does not name."""
    return _KINDS[obj["apiVersion"], obj["kind"]]


def is_stale(error: KubeError) -> bool:
    """The plan was made from a picture that had changed: look again soon, nobody needs to be told."""
    return isinstance(error, Conflict | NotFound)


async def apply(
    kube: Kube, kind: Kind, subject: JsonObject, plan: Plan, cache: Cache, offer: Offer, offer_status: Offer
) -> int:
    """Makes the plan for `subject` (of `kind`, as it was observed) true; returns the number of requests.
    Raises the first KubeError."""
    requests, failures = 0, []
    for step in _steps(kube, plan, cache, offer):
        requests += 1
        try:
            await step
        except KubeError as error:
            failures.append(error)
    if _status_changes(subject, plan) and not any(is_stale(error) for error in failures):
        requests += 1
        try:
            offer_status(kind, await kube.update(kind, {**subject, "status": plan.status}, subresource="status"))
        except KubeError as error:
            failures.append(error)
    if failures:
        # A real failure says more than one that only means "look again".
        raise next((error for error in failures if not is_stale(error)), failures[0])
    return requests


def _status_changes(subject: JsonObject, plan: Plan) -> bool:
    return plan.status is not None and plan.status != subject.get("status")


def _steps(kube: Kube, plan: Plan, cache: Cache, offer: Offer) -> Iterator[Awaitable[None]]:
    """One at a time: a step becomes a coroutine only when its turn has come."""
    for obj in plan.create:
        yield _create(kube, obj, offer)
    for obj in plan.update:
        if obj != _cached(cache, kind_of(obj), key_of(obj)):
            yield _update(kube, obj, offer)
    for patch in plan.patch:
        if _patch_changes(cache, patch):
            yield _patch(kube, patch, offer)
    for deletion in plan.delete:
        yield _delete(kube, deletion)


async def _create(kube: Kube, obj: JsonObject, offer: Offer) -> None:
    kind = kind_of(obj)
    offer(kind, await kube.create(kind, obj))


async def _update(kube: Kube, obj: JsonObject, offer: Offer) -> None:
    kind = kind_of(obj)
    offer(kind, await kube.update(kind, obj))


async def _patch(kube: Kube, patch: Patch, offer: Offer) -> None:
    answer = await kube.patch(patch.kind, patch.key, patch.body, subresource=patch.subresource)
    if answer.get("kind") == patch.kind.kind:  # the answer to a patch of `scale` is a Scale
        offer(patch.kind, answer)


async def _delete(kube: Kube, deletion: Deletion) -> None:
    try:
        await kube.delete(deletion.kind, deletion.key, uid=deletion.uid)
    except NotFound:
        return


def _patch_changes(cache: Cache, patch: Patch) -> bool:
    """False only when the cached object already holds everything the patch says. What a subresource holds is not
    known here: such a patch is always sent."""
    current = None if patch.subresource else _cached(cache, patch.kind, patch.key)
    return current is None or merge_changes(current, patch.body)


def merge_changes(target: Any, patch: Any) -> bool:
    """Would this JSON merge patch (RFC 7386) change the target?"""
    if not isinstance(patch, dict):
        return bool(target != patch)
    if not isinstance(target, dict):
        return True
    return any(
        name in target if value is None else name not in target or merge_changes(target[name], value)
        for name, value in patch.items()
    )


def _cached(cache: Cache, kind: Kind, key: Key) -> JsonObject | None:
    try:
        return cache.get(kind, key)
    except KeyError:  # a kind that is written and never watched
        return None
