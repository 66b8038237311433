"""When pods were made and began to run, by this controller's own clock. (For what: `gateway.core.coldstart`.)

A pod's creationTimestamp and its containers' startedAt have a resolution of a second, a cold start takes a fraction of
one. So what counts is when the informer tells: a pod is created when it appears, and runs when a status says so of all
of its containers. That is later than the event itself by the way through API server and watch, and for `runs` by the
time that the kubelet takes to report it. Of pods that were there when the watch began it is not known when they were
made. It costs no request: the Revision's reconciler has the pods cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from controller.apis import labels
from controller.apis.meta import labels_of, uid_of

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

__all__ = ["PodTimes", "Times"]


class Times(NamedTuple):
    """Seconds of the clock that `note` is given; None where it is not known."""

    created: float | None = None
    started: float | None = None


_UNKNOWN = Times()


class PodTimes:
    """Of all Revisions' pods that there are, by uid."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: dict[str, Times] = {}

    def __len__(self) -> int:
        return len(self._times)

    def note(self, pod: JsonObject, now: float, *, is_new: bool) -> None:
        """The pod is like this from `now` on; `is_new`: it has just appeared."""
        if labels.REVISION_UID not in labels_of(pod):
            return
        uid = uid_of(pod)
        known = self._times.get(uid)
        if known is None:
            self._times[uid] = Times(created=now) if is_new else _UNKNOWN
        elif known.started is None and known.created is not None and _runs(pod):
            self._times[uid] = known._replace(started=now)

    def forget(self, pod: JsonObject) -> None:
        """The pod is gone."""
        self._times.pop(uid_of(pod), None)

    def of(self, uid: str) -> Times:
        """What is known of a pod."""
        return self._times.get(uid, _UNKNOWN)


def _runs(pod: JsonObject) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return bool(statuses) and all("running" in (status.get("state") or {}) for status in statuses)
