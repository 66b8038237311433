import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

from aiohttp import web

from controller.kube.client import KubeClient
from controller.kube.events import BURST, REFILL_SECONDS, Correlator, Recorder
from controller.lull import Lull
from controller.reconcile.plan import Event
from tests.polling import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SUBJECT = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "a", "uid": "u"}}


def test_the_same_event_again_is_counted_up():
    """Same object, type, reason and message: one Event, its first time kept, its last time new."""
    correlator = Correlator("me")
    event = Event("Warning", "InternalError", "no")
    first = correlator.correlate(SUBJECT, event, NOW)
    again = correlator.correlate(SUBJECT, event, NOW + timedelta(seconds=9))
    other = correlator.correlate(SUBJECT, Event("Warning", "InternalError", "other"), NOW)
    assert (first.count, again.count, other.count) == (1, 2, 1)
    assert first.obj["metadata"]["name"] == again.obj["metadata"]["name"] != other.obj["metadata"]["name"]
    assert again.obj["firstTimestamp"] == "2026-01-01T00:00:00Z"
    assert again.obj["lastTimestamp"] == "2026-01-01T00:00:09Z"
    assert first.obj["involvedObject"]["uid"] == "u"
    assert first.obj["metadata"]["namespace"] == "ns"


def test_one_object_cannot_flood_the_api():
    """25 events at once, then one every five minutes; other objects are not affected."""
    correlator = Correlator("me")
    admitted = [correlator.correlate(SUBJECT, Event("Normal", "R", str(i)), NOW) for i in range(40)]
    assert sum(write is not None for write in admitted) == BURST
    later = NOW + timedelta(seconds=REFILL_SECONDS)
    assert correlator.correlate(SUBJECT, Event("Normal", "R", "x"), later) is not None
    assert correlator.correlate(SUBJECT, Event("Normal", "R", "y"), later) is None
    other = {**SUBJECT, "metadata": {"name": "b", "uid": "v"}}
    assert correlator.correlate(other, Event("Normal", "R", "z"), NOW).obj["metadata"]["namespace"] == "default"


async def test_a_repeated_event_is_patched_and_written_anew_if_it_has_expired(serve):
    """Create, count up, and create again when the server has dropped it; a refused event is dropped silently."""
    seen = []

    async def handle(request):
        seen.append(request.method)
        if len(seen) == 1:
            return web.json_response({"kind": "Status"}, status=403)
        if seen.count("PATCH") == 2 and request.method == "PATCH":
            return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)
        return web.json_response({})

    async with KubeClient.from_token(await serve(handle)) as kube:
        recorder = Recorder(kube, "me", lambda: NOW, Lull())
        task = asyncio.ensure_future(recorder.run())
        for _ in range(3):
            recorder.record(SUBJECT, Event("Normal", "R", "m"))
        await until(lambda: len(seen) == 4)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert seen == ["POST", "PATCH", "PATCH", "POST"]
