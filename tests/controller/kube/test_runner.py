import asyncio
import contextlib
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry

from controller.apis import kinds
from controller.apis.meta import Key, controller_ref, name_of
from controller.kube.client import KubeClient
from controller.kube.runner import Runner
from controller.lull import Lull
from controller.reconcile.plan import Controller, Event, Plan, owner_key
from tests.polling import until

SERVICES = "/apis/serving.knative.dev/v1/namespaces/ns/services"
CONFIGURATIONS = "/apis/serving.knative.dev/v1/namespaces/ns/configurations"
CONFIG_MAPS = "/api/v1/namespaces/knative-serving/configmaps"


def service(name="s", **spec):
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"namespace": "ns", "name": name},
        "spec": spec,
    }


class Parent:
    """A toy controller: a Service has a Configuration of its name with its spec; status counts what it saw."""

    def __init__(self):
        self.reconciled = Counter()
        self.plan = None
        self.configs = []
        self.ignores = {}

    def observe(self, cache, key):
        subject = cache.get(kinds.SERVICE, key)
        return subject and (subject, cache.get(kinds.CONFIGURATION, key))

    def reconcile(self, seen, config, now):
        subject, child = seen
        self.reconciled[name_of(subject)] += 1
        self.configs.append(config)
        if self.plan is not None:
            return self.plan(subject)
        wanted = {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Configuration",
            "metadata": {"namespace": "ns", "name": name_of(subject), "ownerReferences": [controller_ref(subject)]},
            "spec": subject["spec"],
        }
        if child is None:
            return Plan(create=(wanted,), status={"child": "made"})
        update = () if child["spec"] == subject["spec"] else ({**child, "spec": subject["spec"]},)
        return Plan(update=update, status={"child": "there"})

    def controller(self):
        watches = {kinds.CONFIGURATION: owner_key(kinds.SERVICE)}
        return Controller(kinds.SERVICE, self.observe, self.reconcile, watches, self.ignores)


@pytest.fixture
async def running(mini):
    """`await running(parent)` → Runner at work against the MiniApi."""
    _, url = mini
    async with contextlib.AsyncExitStack() as stack:

        async def start(parent, before=lambda runner: None, registry=None, late_status=(), lull=None):
            kube = await stack.enter_async_context(KubeClient.from_token(url))
            runner = Runner(kube, [parent.controller()], registry=registry, late_status=late_status, lull=lull)
            before(runner)
            task = asyncio.ensure_future(runner.run())

            async def stop():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

            stack.push_async_callback(stop)
            async with asyncio.timeout(10):
                await runner.ready.wait()
            return runner

        yield start


async def settled(api, runner):
    """Until nothing waits and the caches hold all that the server holds."""
    await until(
        lambda: (
            not any(len(loop.queue) or loop.queue._queue._in_hand for loop in runner._loops)
            and all(
                runner.cache.kinds[kind].get(Key("ns", name)) == obj
                for kind, path in ((kinds.SERVICE, SERVICES), (kinds.CONFIGURATION, CONFIGURATIONS))
                for (collection, name), obj in api.objects.items()
                if collection == path
            )
        )
    )


async def test_it_converges_and_then_makes_no_request(mini, running):
    """A child is made, repaired when changed or deleted behind our back; when all is well nothing is written."""
    api, _ = mini
    await api.put(SERVICES, service(a=1))
    parent = Parent()
    runner = await running(parent)
    await until(lambda: (api.named("s", "services") or {}).get("status") == {"child": "there"})
    assert api.named("s", "configurations")["spec"] == {"a": 1}

    await api.put(CONFIGURATIONS, {**api.named("s", "configurations"), "spec": {"a": "drift"}})
    await until(lambda: api.named("s", "configurations")["spec"] == {"a": 1})
    await api.remove(CONFIGURATIONS, "s")
    await until(lambda: api.named("s", "configurations") and api.named("s", "services")["status"]["child"] == "there")

    await settled(api, runner)
    written, seen = len(api.writes()), parent.reconciled["s"]
    runner.enqueue(kinds.SERVICE, Key("ns", "s"))
    await until(lambda: parent.reconciled["s"] > seen)
    await settled(api, runner)
    assert len(api.writes()) == written


async def test_its_own_writes_are_known_before_the_watch_tells(mini, running):
    """While the watch is held back, a second reconcile does not repeat the create, and goes on from the answer."""
    api, _ = mini
    parent = Parent()
    runner = await running(parent)
    await api.put(SERVICES, service(a=1))
    await until(lambda: api.named("s", "configurations"))
    await settled(api, runner)
    await api.remove(CONFIGURATIONS, "s")
    await until(lambda: api.named("s", "configurations"))
    await settled(api, runner)
    api.released.clear()
    created = api.writes().count(("POST", CONFIGURATIONS))
    runner._offer(
        kinds.SERVICE, await api._store(SERVICES, {**api.named("s", "services"), "spec": {"a": 2}}, "MODIFIED")
    )
    await until(lambda: api.named("s", "configurations")["spec"] == {"a": 2})
    await settled(api, runner)
    assert api.writes().count(("POST", CONFIGURATIONS)) == created
    assert runner.cache.get(kinds.CONFIGURATION, Key("ns", "s"))["spec"] == {"a": 2}
    api.released.set()
    await settled(api, runner)


async def test_a_conflict_is_tried_again_and_nobody_is_told(mini, running):
    """409 means the cache was behind: no event, no person involved."""
    api, _ = mini
    conflict = {"code": 409, "reason": "Conflict", "message": "changed"}
    api.refuse["PUT", f"{SERVICES}/s/status"] = [conflict, conflict]
    await api.put(SERVICES, service())
    await running(Parent())
    await until(lambda: (api.named("s", "services") or {}).get("status") == {"child": "there"})
    assert not [path for _, path in api.writes(events=True) if "/events" in path]


async def test_a_refusal_is_an_internal_error_event_and_is_tried_again(mini, running):
    """Any other error of the API: Warning event InternalError in the object's namespace, back-off, retry."""
    api, _ = mini
    api.refuse["POST", CONFIGURATIONS] = [{"code": 403, "reason": "Forbidden", "message": "quota is used up"}]
    await api.put(SERVICES, service())
    await running(Parent())
    await until(lambda: (api.named("s", "services") or {}).get("status") == {"child": "there"})
    events = []
    await until(lambda: events or events.extend(o for (p, _), o in api.objects.items() if p.endswith("ns/events")))
    assert (events[0]["type"], events[0]["reason"], events[0]["message"]) == (
        "Warning",
        "InternalError",
        "quota is used up",
    )
    assert events[0]["involvedObject"]["name"] == "s"


async def test_a_plan_with_an_error_is_applied_told_and_tried_again(mini, running):
    """What the plan holds is still done; the key comes back by itself."""
    api, _ = mini
    parent = Parent()
    parent.plan = lambda subject: Plan(status={"half": True}, error="the other half failed")
    await api.put(SERVICES, service())
    await running(parent)
    await until(lambda: parent.reconciled["s"] >= 3)
    await until(lambda: any(o.get("message") == "the other half failed" for o in api.objects.values()))
    assert api.named("s", "services")["status"] == {"half": True}


async def test_a_bug_about_one_object_does_not_stop_the_others(mini, running, caplog):
    """An exception in a reconciler is logged with its traceback and counted; other keys go on."""
    api, _ = mini
    parent = Parent()

    def plan(subject):
        if name_of(subject) == "bad":
            raise ZeroDivisionError("oops")
        return Plan(status={"fine": True}, events=(Event("Normal", "Done", "done"),))

    parent.plan = plan
    registry = CollectorRegistry()
    await api.put(SERVICES, service("bad"))
    await running(parent, registry=registry)
    await api.put(SERVICES, service("good"))
    await until(lambda: (api.named("good", "services") or {}).get("status") == {"fine": True})
    await until(lambda: parent.reconciled["bad"] >= 2)
    assert "ZeroDivisionError" in caplog.text
    labels = {"controller": "test_runner", "result": "bug"}
    assert registry.get_sample_value("zerogate_controller_reconciles_total", labels) >= 2


async def test_a_bug_that_everything_meets_is_logged_once(mini, running, caplog):
    """Fifty objects and their changes, reconciled and told to a callback that fails too: two tracebacks in all; the
    metrics have each."""
    api, _ = mini
    parent = Parent()

    def fail(*_):
        raise ZeroDivisionError("oops")

    parent.plan = fail
    registry = CollectorRegistry()
    for number in range(50):
        await api.put(SERVICES, service(f"s{number}"))
    await running(parent, lambda runner: runner.on_change(kinds.SERVICE, fail), registry=registry)
    await until(lambda: len(parent.reconciled) == 50)
    assert caplog.text.count("Traceback") == 2
    for name in ("test_runner", kinds.SERVICE.plural):
        labels = {"controller": name, "result": "bug"}
        await until(
            lambda labels=labels: registry.get_sample_value("zerogate_controller_reconciles_total", labels) >= 50
        )


async def test_requeue_after_and_enqueue_bring_a_key_back(mini, running):
    """A plan can ask to be looked at again; others can ask for a key at once or later."""
    api, _ = mini
    parent = Parent()
    parent.plan = lambda subject: Plan(requeue_after=0.01 if parent.reconciled["s"] < 3 else None)
    await api.put(SERVICES, service())
    runner = await running(parent)
    await until(lambda: parent.reconciled["s"] == 3)
    runner.enqueue(kinds.SERVICE, Key("ns", "s"))
    await until(lambda: parent.reconciled["s"] == 4)
    runner.enqueue(kinds.SERVICE, Key("ns", "s"), after=0.01)
    await until(lambda: parent.reconciled["s"] == 5)


async def test_changes_are_told_to_callbacks(mini, running):
    """`on_change` gets every change as (old, new), with the cache already new; a kind nobody caches is refused."""
    api, _ = mini
    told = []

    def listen(runner):
        runner.on_change(kinds.CONFIGURATION, lambda old, new: told.append((old is None, new is None)))
        with pytest.raises(KeyError):
            runner.on_change(kinds.POD, lambda old, new: None)

    await running(Parent(), listen)
    await api.put(SERVICES, service())
    await until(lambda: told == [(True, False)])
    await api.remove(CONFIGURATIONS, "s")
    await until(lambda: told == [(True, False), (False, True), (True, False)])


def config_map(**data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "knative-serving", "name": "config-autoscaler"},
        "data": data,
    }


async def test_a_config_change_reconciles_everything_and_a_bad_one_keeps_the_old(mini, running):
    """The maps are read before the first reconcile; a bad map changes nothing but leaves a Warning event."""
    api, _ = mini
    await api.put(CONFIG_MAPS, config_map(**{"min-scale": "2"}))
    await api.put(SERVICES, service())
    parent = Parent()
    runner = await running(parent)
    await until(lambda: parent.configs)
    assert parent.configs[0].autoscaler.min_scale == 2

    await settled(api, runner)
    await api.put(CONFIG_MAPS, config_map(**{"min-scale": "3"}))
    await until(lambda: parent.configs[-1].autoscaler.min_scale == 3)

    await api.put(CONFIG_MAPS, config_map(**{"min-scale": "many"}))
    await until(lambda: any(o.get("reason") == "InvalidConfiguration" for o in api.objects.values()))
    assert runner.config.autoscaler.min_scale == 3

    await api.remove(CONFIG_MAPS, "config-autoscaler")
    await until(lambda: runner.config.autoscaler.min_scale == 0)


async def test_a_late_status_waits_behind_the_steps_and_comes_once(mini, running):
    """The child is made at once; the status follows by itself, and the event that tells of it is told once."""
    api, _ = mini
    parent = Parent()

    def plan(subject):
        if (subject.get("status") or {}).get("told"):
            return Plan()
        return Plan(status={"told": True}, events=(Event("Normal", "Told", "once"),))

    parent.plan = plan
    runner = await running(parent, late_status=[kinds.SERVICE])
    await api.put(SERVICES, service())
    await until(lambda: parent.reconciled["s"] == 1)
    assert "status" not in api.named("s", "services")
    runner.enqueue(kinds.SERVICE, Key("ns", "s"))
    await until(lambda: (api.named("s", "services") or {}).get("status") == {"told": True})
    await until(lambda: [o for o in api.objects.values() if o.get("reason") == "Told"])
    await settled(api, runner)
    assert [o["count"] for o in api.objects.values() if o.get("reason") == "Told"] == [1]
    assert api.writes().count(("PUT", f"{SERVICES}/s/status")) == 1


async def test_a_late_status_that_is_refused_backs_off(mini, running):
    """That everything but the status went well is no success: a status which can't be written is tried again, and
    each time after a longer wait."""
    api, _ = mini
    parent = Parent()
    parent.plan = lambda _subject: Plan(status={"told": True})
    refusal = {"code": 500, "reason": "InternalError", "message": "the disk is full"}
    api.refuse["PUT", f"{SERVICES}/s/status"] = [refusal for _ in range(1000)]
    runner = await running(parent, late_status=[kinds.SERVICE])
    await api.put(SERVICES, service())
    [loop] = runner._loops
    await until(lambda: loop.queue._queue._failures.get(Key("ns", "s"), 0) >= 5)


async def test_the_lull_is_that_of_others_in_the_loop(mini, running):
    """What the node agent has under way keeps the runner's late statuses waiting."""
    api, _ = mini
    parent, lull = Parent(), Lull()
    parent.plan = lambda _: Plan(status={"told": True})
    with lull.urgent():
        await running(parent, late_status=[kinds.SERVICE], lull=lull)
        await api.put(SERVICES, service())
        await until(lambda: len(lull))
    await until(lambda: (api.named("s", "services") or {}).get("status") == {"told": True})


async def test_its_own_status_is_no_reason_to_look_again(mini, running):
    """One reconcile writes the status and that is all; what somebody else writes there is looked at."""
    api, _ = mini
    parent = Parent()
    parent.plan = lambda subject: Plan(status={"told": True})
    runner = await running(parent)
    await api.put(SERVICES, service())
    await until(lambda: (api.named("s", "services") or {}).get("status") == {"told": True})
    await settled(api, runner)
    assert parent.reconciled["s"] == 1
    await api.put(SERVICES, {**api.named("s", "services"), "status": {"told": False}})
    await until(lambda: api.named("s", "services")["status"] == {"told": True})
    assert parent.reconciled["s"] == 2


async def test_changes_that_a_controller_ignores_do_not_wake_it(mini, running):
    """Where it says of a child's change that it makes no difference; a creation and a deletion always do."""
    api, _ = mini
    parent = Parent()
    parent.plan = lambda _: Plan()
    parent.ignores = {kinds.CONFIGURATION: lambda old, new: old["spec"] == new["spec"]}
    runner = await running(parent)
    await api.put(SERVICES, service())
    await until(lambda: parent.reconciled["s"] == 1)
    owner = controller_ref(api.named("s", "services"))
    metadata = {"namespace": "ns", "name": "s", "ownerReferences": [owner]}
    child = {"apiVersion": "serving.knative.dev/v1", "kind": "Configuration", "metadata": metadata, "spec": {"a": 1}}
    await api.put(CONFIGURATIONS, child)
    await until(lambda: parent.reconciled["s"] == 2)
    await api.put(CONFIGURATIONS, {**api.named("s", "configurations"), "status": {"ready": True}})
    await settled(api, runner)
    await api.put(CONFIGURATIONS, {**api.named("s", "configurations"), "spec": {"a": 2}})
    await until(lambda: parent.reconciled["s"] == 3)
    await settled(api, runner)
    await api.remove(CONFIGURATIONS, "s")
    await until(lambda: parent.reconciled["s"] == 4)
