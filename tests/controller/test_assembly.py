"""The whole control plane against the embedded API server; pods and gateway are played by the test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry

from controller.admin import admin_app, listening
from controller.apis import kinds, labels
from controller.apis.conditions import find, is_ready
from controller.apis.meta import Key, is_deleting, key_of, name_of
from controller.apis.pods import DELETION_COST, FIRST_TO_GO
from controller.assembly import ControlPlane
from controller.config.store import Config
from controller.embedded import workloads
from controller.embedded.admission import Admission
from controller.embedded.apiserver import ApiServer
from controller.embedded.credentials import load_or_create
from controller.embedded.podlogs import PodLogs
from controller.embedded.ports import PortAllocator
from controller.embedded.store import Store
from controller.kube.client import KubeClient
from controller.kube.errors import BadRequest, NotFound
from controller.reconcile.plan import Controller, Plan
from gateway.contract import (
    FEED_PATH,
    Ack,
    Certificate,
    CertificateId,
    Hello,
    InFlight,
    Peers,
    RevisionId,
    RouteId,
    Snapshot,
    Stat,
    Stats,
    apply,
    parse_message,
    serialise_message,
)

CRDS = Path(__file__).parents[2] / "deploy" / "crds"
HELLO = Key("default", "hello")


def service(name="hello", annotations=None, env="1", **spec):
    container = {"image": "hello", "env": [{"name": "N", "value": env}]}
    template = {"metadata": {"annotations": annotations or {}}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"template": template, **spec},
    }


class World:
    """What the test holds: the client, the plane, the gateway's view."""

    def __init__(self, kube, plane, url):
        self.kube, self.plane, self.url = kube, plane, url
        self.snapshot, self.socket, self.end = Snapshot(), None, None
        self.loads = {}  # what the gateway has in flight at each pod

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not (found := await condition()):  # noqa: ASYNC110 - the condition is the state of the world
                await asyncio.sleep(0.01)
        return found

    async def get(self, kind, key):
        try:
            return await self.kube.get(kind, key)
        except NotFound:
            return None

    async def ready(self, kind, key):
        async def is_so():
            obj = await self.get(kind, key)
            return obj if obj and is_ready(obj) else None

        return await self.until(is_so)

    async def routed(self, condition):
        """Until the gateway's snapshot is so."""

        async def is_so():
            return condition(self.snapshot)

        return await self.until(is_so)

    async def gateway(self, name="w1", tls=True):
        """One worker that applies and acknowledges, until cancelled."""
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": "Bearer feed-secret"}
            options = {"headers": headers, "max_msg_size": 2**26, "ssl": tls}
            async with session.ws_connect(self.url + FEED_PATH, **options) as self.socket:
                await self.socket.send_str(serialise_message(Hello(name)))
                async for frame in self.socket:
                    message = parse_message(frame.data)
                    if isinstance(message, Peers):
                        continue
                    self.snapshot = apply(self.snapshot, message)
                    await self.socket.send_str(serialise_message(Ack(self.snapshot.version)))
                    await self.tell_loads()

    async def tell_loads(self):
        """As a worker does of revisions that shrink."""
        asked = [key for key, revision in self.snapshot.revisions.items() if revision.shrinking]
        if asked:
            await self.socket.send_str(serialise_message(InFlight(dict.fromkeys(asked, self.loads))))

    def serving(self, revision):
        """The pods that take new requests."""
        return {end.pod for end in self.snapshot.revisions[revision].endpoints if end.ready and not end.draining}

    async def poke(self, revision):
        await self.socket.send_str(serialise_message(Stats((Stat(revision, 1.0, 1.0),))))


def kubelet():
    """A controller that plays the node: every pod runs and is ready at once."""

    def reconcile(pod, _config, now):
        if is_deleting(pod) or (pod.get("status") or {}).get("phase") == "Running":
            return Plan()
        return Plan(
            status={
                "phase": "Running",
                "podIP": "127.0.0.1",
                "podIPs": [{"ip": "127.0.0.1"}],
                "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
                ],
                "containerStatuses": [
                    {"name": "user-container", "ready": True, "restartCount": 0, "state": {"running": {}}}
                ],
            }
        )

    return Controller(kinds.POD, lambda cache, key: cache.get(kinds.POD, key), reconcile)


@contextlib.asynccontextmanager
async def running(work):
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(scope="session")
def crds():
    return [crd for path in sorted(CRDS.glob("*.yaml")) for crd in yaml.safe_load_all(path.read_text()) if crd]


@pytest.fixture(scope="session")
def credentials(tmp_path_factory):
    return load_or_create(tmp_path_factory.mktemp("credentials"), datetime.now(UTC))


@pytest.fixture
async def api(tmp_path, crds, credentials):
    """A bare API server: (client, path of its kubeconfig)"""
    store = Store(tmp_path / "store")
    server = ApiServer(store, credentials, crds, Admission(Config, PortAllocator()), PodLogs(tmp_path / "logs"))
    url = await server.start()
    credentials.write_kubeconfig(url)
    async with KubeClient.from_token(url, credentials.token, credentials.ca) as kube:
        yield kube, credentials.kubeconfig
    await server.stop()
    store.close()


@contextlib.asynccontextmanager
async def controlled(kube, planes):
    """A control plane over the API server, which becomes the one in `planes`, and a gateway that follows it."""
    plane = ControlPlane(kube, "feed-secret", extra=(workloads.DEPLOYMENTS, workloads.SERVICES, kubelet()))
    planes[:] = [plane]
    async with running(plane.run()), listening(plane.feed.app, "127.0.0.1", 0) as port:
        made = World(kube, plane, f"http://127.0.0.1:{port}")
        async with running(made.gateway()):
            async with asyncio.timeout(20):
                await plane.ready.wait()
            yield made


@pytest.fixture
async def world(tmp_path, crds, credentials):
    store = Store(tmp_path / "store")
    planes = []
    admission = Admission(lambda: planes[0].runner.config if planes else Config(), PortAllocator())
    server = ApiServer(store, credentials, crds, admission, PodLogs(tmp_path / "logs"))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(store.close)
        url = await server.start()
        stack.push_async_callback(server.stop)
        kube = await stack.enter_async_context(KubeClient.from_token(url, credentials.token, credentials.ca))
        domain = {"metadata": {"namespace": "knative-serving", "name": "config-domain"}, "data": {"localhost": ""}}
        scaler = {
            "metadata": {"namespace": "knative-serving", "name": "config-autoscaler"},
            "data": {"allow-zero-initial-scale": "true"},
        }
        for data in (domain, scaler):
            await kube.create(kinds.CONFIG_MAP, data)
        life = await stack.enter_async_context(contextlib.AsyncExitStack())
        made = await life.enter_async_context(controlled(kube, planes))
        made.end = life.aclose
        yield made


async def test_a_service_becomes_ready_and_routed(world):
    """From the Service to a Ready URL, with the route and its pod at the gateway; then nothing more is written."""
    await world.kube.create(kinds.SERVICE, service())
    ready = await world.ready(kinds.SERVICE, HELLO)
    assert ready["status"]["url"] == "http://hello.default.localhost"
    assert ready["status"]["latestReadyRevisionName"] == "hello-00001"

    revision = RevisionId("default", "hello-00001")
    await world.routed(lambda s: revision in s.revisions and s.revisions[revision].endpoints)
    hosts = {(rule.host, rule.cluster_local) for rule in world.snapshot.routes[RouteId("default", "hello")]}
    assert ("hello.default.localhost", False) in hosts
    assert ("hello.default.svc.cluster.local", True) in hosts
    assert world.snapshot.revisions[revision].service == "hello"

    await world.until(lambda: reconciling_again_writes_nothing(world))


async def reconciling_again_writes_nothing(world):
    """Every controller looks at every key once more; are the objects then what they were?"""
    before = await resource_versions(world)
    world.plane.runner._enqueue_everything()

    async def idle():
        return not any(len(loop.queue) for loop in world.plane.runner._loops)

    await world.until(idle)
    return before == await resource_versions(world)


async def resource_versions(world):
    versions = {}
    for kind in (*kinds.KNATIVE_KINDS, kinds.DEPLOYMENT, kinds.POD, kinds.CORE_SERVICE, kinds.ENDPOINT_SLICE):
        for item in (await world.kube.list(kind))["items"]:
            versions[kind, name_of(item)] = item["metadata"]["resourceVersion"]
    return versions


async def test_a_new_revision_takes_over_and_traffic_splits(world):
    """An update makes the second revision; a 90/10 split is what the gateway gets."""
    await world.kube.create(kinds.SERVICE, service())
    await world.ready(kinds.SERVICE, HELLO)
    current = await world.kube.get(kinds.SERVICE, HELLO)
    split = [
        {"revisionName": "hello-00001", "percent": 90},
        {"latestRevision": True, "percent": 10, "tag": "next"},
    ]
    await world.kube.update(kinds.SERVICE, {**current, "spec": service(env="2", traffic=split)["spec"]})

    def is_split(snapshot):
        rules = snapshot.routes.get(RouteId("default", "hello"), ())
        return any([s.percent for s in rule.splits] == [90, 10] for rule in rules)

    await world.routed(is_split)
    ready = await world.ready(kinds.SERVICE, HELLO)
    assert {target["revisionName"]: target["percent"] for target in ready["status"]["traffic"]} == {
        "hello-00001": 90,
        "hello-00002": 10,
    }
    assert any(rule.host == "next-hello.default.localhost" for rule in world.snapshot.routes[RouteId(*HELLO)])


async def test_a_poke_wakes_a_revision_at_zero(world):
    """No replica until the first request is reported; then a pod, and its endpoint at the gateway, which says when that
    was decided and done."""
    zero = {"autoscaling.knative.dev/initial-scale": "0"}
    await world.kube.create(kinds.SERVICE, service(annotations=zero))
    await world.ready(kinds.SERVICE, HELLO)
    revision = RevisionId("default", "hello-00001")
    await world.routed(lambda s: revision in s.revisions)
    assert world.snapshot.revisions[revision].endpoints == ()
    assert (await world.kube.list(kinds.POD, "default"))["items"] == []

    before = datetime.now(UTC).timestamp()
    await world.poke(revision)
    await world.routed(lambda s: s.revisions[revision].endpoints)
    (endpoint,) = world.snapshot.revisions[revision].endpoints
    decided, created, _ = endpoint.milestones
    assert before <= decided <= created <= datetime.now(UTC).timestamp()
    assert len((await world.kube.list(kinds.POD, "default"))["items"]) == 1


SCALED = RevisionId("default", "hello-00001")


async def scale(world, replicas):
    """By the bounds, whatever the load is; without any nothing is decided."""
    await world.poke(SCALED)
    annotations = {f"autoscaling.knative.dev/{bound}-scale": str(replicas) for bound in ("min", "max")}
    await world.kube.patch(kinds.REVISION, Key(*SCALED), {"metadata": {"annotations": annotations}})


async def scaled(world, replicas):
    """A service at so many replicas that all serve."""
    annotations = {f"autoscaling.knative.dev/{bound}-scale": str(replicas) for bound in ("min", "max")}
    await world.kube.create(kinds.SERVICE, service(annotations=annotations))
    await world.ready(kinds.SERVICE, HELLO)
    await world.routed(lambda s: SCALED in s.revisions and len(world.serving(SCALED)) == replicas)
    return world.serving(SCALED)


async def replicas(world):
    """What the Deployment asks for, and the pods that are not going."""
    deployment = await world.kube.get(kinds.DEPLOYMENT, Key("default", "hello-00001-deployment"))
    pods = (await world.kube.list(kinds.POD, "default"))["items"]
    return deployment["spec"]["replicas"], {name_of(pod) for pod in pods if not is_deleting(pod)}


async def test_a_replica_goes_when_the_gateways_have_nothing_in_flight_there(world):
    """The one with the fewest requests: first it gets no new one, then its last is waited for, then Kubernetes is told
    to take that one. Nothing is left of the drain but its explanation."""
    pods = await scaled(world, 2)
    busy, victim = sorted(pods)
    world.loads = {busy: 5, victim: 1}
    await scale(world, 1)
    await world.routed(lambda s: world.serving(SCALED) == {busy})
    assert await replicas(world) == (2, pods)
    (entry,) = world.plane.account(Key(*SCALED))["draining"]
    assert (entry["pod"], entry["inFlight"]) == (victim, 1)

    world.loads = {busy: 7}
    await world.tell_loads()

    async def gone():
        return await replicas(world) == (1, {busy})

    await world.until(gone)
    marked = await world.get(kinds.POD, Key("default", victim))
    assert marked is None or marked["metadata"]["annotations"][DELETION_COST] == str(FIRST_TO_GO)
    await world.routed(lambda s: not s.revisions[SCALED].shrinking)
    assert world.plane.account(Key(*SCALED))["draining"] == []
    await world.until(lambda: reconciling_again_writes_nothing(world))


async def test_load_that_comes_back_costs_no_pod(world):
    """The draining replica serves again, the same one."""
    pods = await scaled(world, 2)
    world.loads = dict.fromkeys(pods, 1)
    await scale(world, 1)
    await world.routed(lambda s: len(world.serving(SCALED)) == 1)
    await scale(world, 2)
    await world.routed(lambda s: world.serving(SCALED) == pods)
    assert await replicas(world) == (2, pods)


async def test_a_drain_begins_again_after_a_restart_of_the_controller(world):
    """Its replicas are there, and go when the gateways have said the same to the next controller."""
    pods = await scaled(world, 2)
    world.loads = dict.fromkeys(pods, 1)
    await scale(world, 1)
    await world.routed(lambda s: len(world.serving(SCALED)) == 1)
    await world.end()
    async with controlled(world.kube, []) as again:
        again.loads = world.loads
        await again.routed(lambda s: SCALED in s.revisions and again.serving(SCALED) == pods)
        await again.poke(SCALED)
        await again.routed(lambda s: len(again.serving(SCALED)) == 1)
        assert await replicas(again) == (2, pods)
        again.loads = {}
        await again.tell_loads()

        async def gone():
            return await replicas(again) == (1, again.serving(SCALED))

        await again.until(gone)


async def test_deleting_a_service_leaves_nothing(world):
    """Owner references take everything along, and the gateway's table is empty again."""
    await world.kube.create(kinds.SERVICE, service())
    await world.ready(kinds.SERVICE, HELLO)
    await world.routed(lambda s: s.routes)
    await world.kube.delete(kinds.SERVICE, HELLO)
    await world.routed(lambda s: not s.routes and not s.revisions)

    async def nothing_left():
        for pod in (await world.kube.list(kinds.POD))["items"]:
            if is_deleting(pod):  # the node says that its processes have ended
                await world.kube.delete(kinds.POD, key_of(pod), grace_period=0)
        return not await resource_versions(world)

    await world.until(nothing_left)


def tls_secret(chain, key):
    data = {"tls.crt": base64.b64encode(chain.encode()).decode(), "tls.key": base64.b64encode(key.encode()).decode()}
    meta = {"namespace": "default", "name": "cert"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}


def secured_ingress(option="Redirected"):
    split = {"serviceNamespace": "default", "serviceName": "rev", "servicePort": 80, "percent": 100}
    return {
        "apiVersion": kinds.INGRESS.api_version,
        "kind": "Ingress",
        "metadata": {
            "namespace": "default",
            "name": "byhand",
            "annotations": {labels.INGRESS_CLASS: labels.INGRESS_CLASS_NAME},
        },
        "spec": {
            "httpOption": option,
            "tls": [{"hosts": ["a.test"], "secretName": "cert", "secretNamespace": "default"}],
            "rules": [{"hosts": ["a.test"], "http": {"paths": [{"splits": [split]}]}}],
        },
    }


async def test_a_certificate_travels_from_its_secret_to_the_gateways(world, authority):
    """With the KIngress that claims it; a new one replaces it, a broken one does not, and the rules stay as they are.
    Other Secrets are not even in the controllers' memory."""
    key, secret_id = Key("default", "byhand"), CertificateId("default", "cert")
    await world.kube.create(kinds.INGRESS, secured_ingress())
    await world.ready(kinds.INGRESS, key)
    assert not world.snapshot.certificates
    assert "there is no Secret default/cert" in await certificate_fault(world, key)

    other = {"metadata": {"namespace": "default", "name": "password"}, "type": "Opaque"}
    await world.kube.create(kinds.SECRET, other)
    first = authority.issue("a.test")
    await world.kube.create(kinds.SECRET, tls_secret(*first))
    await world.routed(lambda s: s.certificates)
    assert world.snapshot.certificates[secret_id] == Certificate(secret_id, ("a.test",), *first)
    (rule,) = world.snapshot.routes[RouteId(*key)]
    assert rule.redirect_port == 443
    assert [name_of(secret) for secret in world.plane.runner.cache.list(kinds.SECRET)] == ["cert"]

    async def trusted():
        return find(await world.kube.get(kinds.INGRESS, key), "CertificatesReady").is_true

    await world.until(trusted)
    await put_secret(world, authority.issue("a.test")[0], first[1])
    assert "tls.key is not the key" in await certificate_fault(world, key)
    assert world.snapshot.certificates[secret_id].chain == first[0], "the last good one stays"
    second = authority.issue("a.test")
    await put_secret(world, *second)
    await world.routed(lambda s: s.certificates[secret_id].chain == second[0])

    port = {"data": {"external-https-port": "8443"}}
    network = {"metadata": {"namespace": "knative-serving", "name": "config-network"}, **port}
    await world.kube.create(kinds.CONFIG_MAP, network)
    await world.routed(lambda s: s.routes[RouteId(*key)][0].redirect_port == 8443)
    await world.kube.delete(kinds.INGRESS, key)
    await world.routed(lambda s: not s.certificates)


async def put_secret(world, chain, key):
    current = await world.kube.get(kinds.SECRET, Key("default", "cert"))
    await world.kube.update(kinds.SECRET, {**current, "data": tls_secret(chain, key)["data"]})


async def certificate_fault(world, key):
    """The message of the condition once it is False, and the Warning event that says the same."""

    async def false():
        found = find(await world.kube.get(kinds.INGRESS, key), "CertificatesReady")
        return found if found is not None and found.is_false else None

    message = (await world.until(false)).message

    async def told():
        events = (await world.kube.list(kinds.EVENT, "default"))["items"]
        return any(event["reason"] == "CertificateNotUsable" and event["message"] == message for event in events)

    await world.until(told)
    return message


async def test_what_the_webhook_refuses_never_arrives(world):
    """Traffic that sums to 99 is refused at the write."""
    with pytest.raises(BadRequest, match="sum to 99, want 100"):
        await world.kube.create(kinds.SERVICE, service(traffic=[{"latestRevision": True, "percent": 99}]))


async def test_the_admin_port_tells(world):
    """Alive, ready, the numbers of runner, feed and autoscaler, and how a revision's scale came about."""
    await world.kube.create(kinds.SERVICE, service())
    await world.ready(kinds.SERVICE, HELLO)
    app = admin_app(world.plane.registry, world.plane.ready.is_set, world.plane.account)
    async with listening(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                assert response.status == 200
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
        async with session.get(f"http://127.0.0.1:{port}/explain/default/hello-00001") as response:
            account = await response.json()
        async with session.get(f"http://127.0.0.1:{port}/explain/default/nobody") as response:
            assert response.status == 404
    assert (account["revision"], account["settings"]["target"]) == ("hello-00001", 70.0)
    assert 'zerogate_controller_reconciles_total{controller="route",result="ok"}' in text
    assert "zerogate_controller_gateway_workers 1.0" in text
    assert 'zerogate_autoscaler_desired_pods{namespace="default",revision="hello-00001"}' in text


async def test_admin_says_no_while_not_leading():
    """A standby is alive and not ready."""
    app = admin_app(CollectorRegistry(), lambda: False, lambda _key: None)
    async with (
        listening(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/readyz") as response,
    ):
        assert response.status == 503


async def spawn(token, kubeconfig, feed_port, admin_port, *options):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "--kubeconfig", kubeconfig, "--feed-token-file", token),
        *("--feed-listen", f"127.0.0.1:{feed_port}", "--admin-listen", f"127.0.0.1:{admin_port}"),
        *options,
        stderr=asyncio.subprocess.PIPE,
    )


async def answers(session, port, status):
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
            return response.status == status
    return False


@pytest.mark.slow
async def test_cluster_mode_leads_one_at_a_time(api, tmp_path, unused_tcp_port_factory, authority):
    """The first process leads and feeds gateways, the second stands by; SIGTERM hands over at once, exit status 0.
    The feed is over TLS where there is a certificate."""
    kube, kubeconfig = api
    token = tmp_path / "token"
    token.write_text("feed-secret\n")
    for name, text in zip(("tls.crt", "tls.key"), authority.issue("localhost"), strict=True):
        (tmp_path / name).write_text(text)
    files = ("--feed-certificate", tmp_path / "tls.crt", "--feed-key", tmp_path / "tls.key")
    ports = [unused_tcp_port_factory() for _ in range(4)]
    waiting = World(kube, None, "")
    async with aiohttp.ClientSession() as session:
        first = await spawn(token, kubeconfig, ports[0], ports[1])
        await waiting.until(lambda: answers(session, ports[1], 200))
        second = await spawn(token, kubeconfig, ports[2], ports[3], *files)
        await waiting.until(lambda: answers(session, ports[3], 503))
        first.terminate()
        assert await first.wait() == 0
        await waiting.until(lambda: answers(session, ports[3], 200))
        world = World(kube, None, f"https://localhost:{ports[2]}")
        async with running(world.gateway(tls=ssl.create_default_context(cadata=authority.pem))):
            await world.routed(lambda snapshot: snapshot.version)
        second.terminate()
        assert await second.wait() == 0
        for process in (first, second):
            await process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "kubeconfig", "sentence"),
    [
        ("", "k", "is empty"),
        (None, "k", "can't read the gateways' token"),
        ("secret", "nowhere", "can't use the kubeconfig"),
    ],
)
async def test_what_is_missing_is_one_sentence(tmp_path, token, kubeconfig, sentence):
    """Exit status 2 and no traceback."""
    path = tmp_path / "token"
    if token is not None:
        path.write_text(token)
    process = await spawn(path, tmp_path / kubeconfig, 0, 0)
    _, error = await process.communicate()
    assert process.returncode == 2
    assert sentence in error.decode()
    assert "Traceback" not in error.decode()
