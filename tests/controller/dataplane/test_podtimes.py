"""controller.dataplane.podtimes: what is known of a pod's beginnings, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from controller.apis import labels
from controller.dataplane.podtimes import PodTimes, Times

WAITING: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-11-21T12:00:00Z"}}


def pod(*states: dict[str, Any], uid: str = "1", revision: str = "rev-uid") -> dict[str, Any]:
    owner = {labels.REVISION_UID: revision} if revision else {}
    status = {"containerStatuses": [{"state": state} for state in states]} if states else {}
    return {"metadata": {"name": "p", "namespace": "ns", "uid": uid, "labels": owner}, "status": status}


@pytest.fixture
def times() -> PodTimes:
    return PodTimes()


def test_a_new_pod_is_created_when_it_appears_and_has_started_when_all_its_containers_run(times: PodTimes) -> None:
    """Whatever is told of it later."""
    times.note(pod(), 10.0, is_new=True)
    assert times.of("1") == Times(10.0)
    times.note(pod(WAITING, RUNNING), 11.5, is_new=False)
    assert times.of("1") == Times(10.0)
    times.note(pod(RUNNING, RUNNING), 12.5, is_new=False)
    times.note(pod(WAITING, RUNNING), 13.0, is_new=False)
    times.note(pod(RUNNING, RUNNING), 14.0, is_new=False)
    assert times.of("1") == Times(10.0, 12.5)


def test_of_a_pod_that_was_there_before_nothing_is_known(times: PodTimes) -> None:
    """It may have run for long when it is looked at first."""
    times.note(pod(WAITING), 10.0, is_new=False)
    times.note(pod(RUNNING), 11.0, is_new=False)
    assert times.of("1") == Times()


def test_only_pods_of_revisions_are_kept_and_only_while_they_are_there(times: PodTimes) -> None:
    """A cluster has others, and all of them go some day."""
    times.note(pod(uid="other", revision=""), 10.0, is_new=True)
    assert len(times) == 0
    times.note(pod(), 10.0, is_new=True)
    times.forget(pod())
    times.forget(pod())
    assert len(times) == 0
    assert times.of("1") == Times()
