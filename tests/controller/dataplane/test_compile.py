import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import labels
from controller.dataplane import compile
from controller.dataplane.certificates import Claim
from gateway.contract import (
    CertificateId,
    Endpoint,
    Milestones,
    Probe,
    RevisionId,
    RouteId,
    RouteRule,
    Snapshot,
    Split,
    Update,
    apply,
)


def path(*splits, **extra):
    return {"splits": [{"serviceNamespace": "ns", "servicePort": 80, **split} for split in splits], **extra}


def ingress(*paths, hosts=("a.example.com",), visibility="ExternalIP", ingress_class=labels.INGRESS_CLASS_NAME, **meta):
    return {
        "metadata": {
            "namespace": "ns",
            "name": "r",
            "annotations": {labels.INGRESS_CLASS: ingress_class},
            **meta,
        },
        "spec": {"rules": [{"hosts": list(hosts), "visibility": visibility, "http": {"paths": list(paths)}}]},
    }


def revision(name="rev", container=None, **spec):
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "labels": {labels.SERVICE: "svc", labels.CONFIGURATION: "cfg"},
        },
        "spec": {"containers": [container or {}], **spec},
    }


def piece(port, *pods, name="http"):
    return {"ports": [{"name": name, "port": port}] if port else [], "endpoints": list(pods)}


def pod(name, address="127.0.0.1", **conditions):
    return {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}}


# --- routes -----------------------------------------------------------------------------------------------------------


def test_a_rule_for_each_host_and_path():
    """Hosts are lower-cased, percents of 0 left out, a single split without percent is all of it."""
    compiled = compile.route_rules(
        ingress(
            path({"serviceName": "x", "percent": 90}, {"serviceName": "y", "percent": 10}, {"serviceName": "z"}),
            hosts=("A.Example.com", "b"),
        )
    )
    splits = (Split(RevisionId("ns", "x"), 90), Split(RevisionId("ns", "y"), 10))
    assert compiled == (RouteRule("a.example.com", splits), RouteRule("b", splits))
    (single,) = compile.route_rules(ingress(path({"serviceName": "x"}), visibility="ClusterLocal"))
    assert single.cluster_local
    assert single.splits[0].percent == 100


def test_longest_path_first_and_field_matches_before_plain_paths():
    """The order in which a gateway has to look."""
    one = {"serviceName": "x"}
    match = {"Knative-Serving-Tag": {"exact": "blue"}}
    compiled = compile.route_rules(ingress(path(one), path(one, path="/api"), path(one, headers=match)))
    assert [(rule.path, rule.match_fields) for rule in compiled] == [
        ("/api", ()),
        ("/", (("knative-serving-tag", "blue"),)),
        ("/", ()),
    ]


def test_fields_and_host_to_set():
    """appendHeaders of path and split, with lower-case names; rewriteHost."""
    split = {"serviceName": "x", "appendHeaders": {"Knative-Serving-Revision": "x"}}
    (rule,) = compile.route_rules(ingress(path(split, appendHeaders={"K-A": "1"}, rewriteHost="inner")))
    assert rule.append_fields == (("k-a", "1"),)
    assert rule.splits[0].append_fields == (("knative-serving-revision", "x"),)
    assert rule.rewrite_host == "inner"


def test_redirected_rules_name_the_port():
    """Those of external hosts only; Enabled and no option serve plain HTTP."""
    for option, visibility, port in (
        ("Redirected", "ExternalIP", 8443),
        ("Redirected", "ClusterLocal", 0),
        ("Enabled", "ExternalIP", 0),
        (None, "ExternalIP", 0),
    ):
        obj = ingress(path({"serviceName": "x"}), visibility=visibility)
        obj["spec"]["httpOption"] = option
        assert [rule.redirect_port for rule in compile.route_rules(obj, 8443)] == [port]


def test_external_hosts():
    """Those of rules that answer outside, in lower case."""
    assert compile.external_hosts(ingress(path(), hosts=("A.test", "b.test"))) == {"a.test", "b.test"}
    assert compile.external_hosts(ingress(path(), visibility="ClusterLocal")) == set()
    assert compile.external_hosts({}) == set()


def test_claims():
    """Secret and hosts of each entry of spec.tls, hosts in lower case; without hosts, all of the certificate's."""
    obj = ingress(path({"serviceName": "x"}))
    assert compile.claims(obj) == ()
    obj["spec"]["tls"] = [
        {"hosts": ["A.test", "b.test"], "secretName": "one", "secretNamespace": "ns"},
        {"secretName": "two", "secretNamespace": "other"},
    ]
    assert compile.claims(obj) == (
        Claim(CertificateId("ns", "one"), ("a.test", "b.test")),
        Claim(CertificateId("other", "two"), ()),
    )
    for name in ("secretName", "secretNamespace"):
        obj["spec"]["tls"] = [{"secretName": "one", "secretNamespace": "ns", name: ""}]
        with pytest.raises(compile.InvalidIngress, match=name):
            compile.claims(obj)


@pytest.mark.parametrize(
    ("spoiled", "field"),
    [
        ({**ingress(path({"serviceName": "x"})), "spec": {}}, "spec.rules"),
        (ingress(hosts=()), "hosts"),
        (ingress(), "paths"),
        (ingress(path()), "splits"),
        (ingress(path({"serviceName": "x", "percent": 99})), "sum to 100, not to 99"),
        (ingress(path({"serviceName": "x", "percent": 120}, {"serviceName": "y", "percent": -20})), "percents"),
        (ingress(path({"serviceName": "x", "serviceNamespace": "other"})), "serviceNamespace"),
        (ingress(path({"percent": 100})), "serviceName"),
    ],
)
def test_what_cannot_be_programmed_names_the_field(spoiled, field):
    """A KIngress may not send traffic into another namespace, nor split to anything but 100."""
    with pytest.raises(compile.InvalidIngress, match=field):
        compile.route_rules(spoiled)


def test_only_our_class_and_only_the_living():
    """A KIngress of a foreign class is another implementation's; a deleted one is gone."""
    assert compile.is_ours(ingress())
    assert not compile.is_ours(ingress(ingress_class="kourier.ingress.networking.knative.dev"))
    assert not compile.is_ours(ingress(deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not compile.is_ours({"metadata": {"name": "r"}})


# --- revisions --------------------------------------------------------------------------------------------------------


def test_a_revision_carries_its_numbers_and_names():
    """Concurrency, time-outs in seconds, protocol by port name, labels for metrics."""
    compiled = compile.revision(
        revision(
            container={"ports": [{"name": "h2c", "containerPort": 9000}]},
            containerConcurrency=7,
            timeoutSeconds=60,
            responseStartTimeoutSeconds=5,
            idleTimeoutSeconds=9,
        ),
        [],
        autodetect_http2=False,
    )
    assert (compiled.service, compiled.configuration) == ("svc", "cfg")
    assert (compiled.container_concurrency, compiled.protocol) == (7, "h2c")
    assert (compiled.timeout, compiled.response_start_timeout, compiled.idle_timeout) == (60.0, 5.0, 9.0)
    plain = compile.revision(revision(), [], autodetect_http2=False)
    assert (plain.timeout, plain.response_start_timeout, plain.probe) == (300.0, None, Probe())


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30.0), ("1m500ms", 60.5), ("soon", None), (None, None)])
def test_a_queue_time_out_of_its_own(text, seconds):
    """In seconds; what is no duration counts as absent."""
    obj = revision()
    if text is not None:
        obj["metadata"]["annotations"] = {labels.QUEUE_TIMEOUT: text}
    assert compile.revision(obj, [], autodetect_http2=False).queue_timeout == seconds


def condition(type_, status, reason="", message=""):
    return {"type": type_, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("conditions", "failure"),
    [
        ([], ""),
        ([condition("ContainerHealthy", "False", "ExitCode137", "Container failed with: ")], ""),
        ([condition("Startable", "False", "CrashLoopBackOff", "Container failed with: no such file")], "no such file"),
        ([condition("Startable", "False", "ImagePullBackOff")], "ImagePullBackOff"),
        ([condition("Startable", "True")], ""),
    ],
    ids=["new", "crashed once", "crash loop", "without a message", "repaired"],
)
def test_a_revision_whose_pods_cannot_start_says_why(conditions, failure):
    """A single crash is no reason to turn requests away: the container is restarted at once."""
    found = compile.revision({**revision(), "status": {"conditions": conditions}}, [], autodetect_http2=False).failure
    assert found.endswith(failure)
    assert bool(found) == bool(failure)


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({}, Probe()),
        ({"readinessProbe": {"tcpSocket": {"port": 0}, "timeoutSeconds": 3}}, Probe(timeout=3.0)),
        (
            {"readinessProbe": {"httpGet": {"path": "/ok", "httpHeaders": [{"name": "X-Probe", "value": "1"}]}}},
            Probe("/ok", (("x-probe", "1"),)),
        ),
        ({"readinessProbe": {"httpGet": {"path": "ok", "port": 8080}}}, Probe("/ok")),
        ({"readinessProbe": {"httpGet": {}}}, Probe("/")),
        ({"readinessProbe": {"httpGet": {"port": 9999}}}, None),
        ({"readinessProbe": {"httpGet": {"scheme": "HTTPS"}}}, None),
        ({"readinessProbe": {"exec": {"command": ["true"]}}}, None),
        ({"readinessProbe": {"grpc": {"port": 0}}}, Probe(grpc_service="")),
        ({"readinessProbe": {"grpc": {"port": 8080, "service": "a.B"}}}, Probe(grpc_service="a.B")),
        ({"readinessProbe": {"grpc": {"port": 9999}}}, None),
        ({"readinessProbe": {"httpGet": {}}, "ports": [{"name": "h2c"}]}, Probe("/", protocol="h2c")),
        ({"startupProbe": {"tcpSocket": {}}}, None),
    ],
)
def test_the_probe(container, expected):
    """The gateway probes what it can; what only Kubernetes can do is left to Kubernetes."""
    assert compile.revision(revision(container=container), [], autodetect_http2=False).probe == expected


@pytest.mark.parametrize(
    ("ports", "autodetect", "expected"),
    [
        ([{"name": "h2c"}], False, "h2c"),
        ([{"name": "h2c"}], True, "h2c"),
        ([{"name": "http1"}], True, "http1"),
        ([{"containerPort": 80}], True, "detect"),
        ([], True, "detect"),
        ([], False, "http1"),
    ],
)
def test_the_protocol(ports, autodetect, expected):
    """A port's name says what it speaks; under autodetect-http2 one without a name is asked."""
    compiled = compile.revision(revision(container={"ports": ports}), [], autodetect_http2=autodetect)
    assert compiled.protocol == expected


def test_endpoints():
    """Pods going away are left out; an absent `ready` means ready; a pod in two slices counts once."""
    slices = [
        piece(20001, pod("a", ready=False), pod("b", terminating=True)),
        piece(20002, pod("c"), pod("d", address="10.0.0.1", ready=True)),
        piece(20001, pod("a", ready=True)),
        piece(20001, pod("a", ready=False)),
        piece(None, pod("portless")),
        {"ports": [{"name": "metrics", "port": 1}, {"name": "http2", "port": 20003}], "endpoints": [pod("e")]},
        {"ports": None, "endpoints": None},
    ]
    assert compile.endpoints(slices) == (
        Endpoint("10.0.0.1", 20002, "d", ready=True),
        Endpoint("127.0.0.1", 20001, "a", ready=True),
        Endpoint("127.0.0.1", 20002, "c", ready=True),
        Endpoint("127.0.0.1", 20003, "e", ready=True),
    )


# --- table ------------------------------------------------------------------------------------------------------------

ROUTE, OTHER = RouteId("ns", "r"), RouteId("ns", "s")
REVISION = RevisionId("ns", "rev")


def rules(*names):
    share = 100 // len(names)
    return (RouteRule("h", tuple(Split(RevisionId("ns", name), share) for name in names)),)


def compiled(name="rev", *slices):
    return compile.revision(revision(name), slices, autodetect_http2=False)


def test_the_endpoints_of_pods_that_drain():
    """Are told as such; and that the revision shrinks, from the moment on that the gateways are asked."""
    slices = [piece(20001, pod("a")), piece(20002, pod("b"))]

    def drained(pods):
        found = compile.revision(revision(), slices, autodetect_http2=False, draining=pods)
        return found.shrinking, [endpoint.pod for endpoint in found.endpoints if endpoint.draining]

    assert drained(None) == (False, [])
    assert drained(frozenset()) == (True, [])
    assert drained({"b", "gone"}) == (True, ["b"])


def test_a_revision_without_endpoints_is_told_only_while_a_route_names_it():
    """It goes out with the route that names it first, and is dropped with the last."""
    table = compile.Table()
    table.set_revision(REVISION, compiled())
    assert not table.drain()
    table.set_route(ROUTE, rules("rev"))
    table.set_route(OTHER, rules("rev"))
    assert table.drain().revisions == {REVISION: compiled()}
    table.set_route(ROUTE, rules("else"))
    assert table.drain().revisions == {}
    table.set_route(OTHER, None)
    assert table.drain() == compile.Delta({OTHER: None}, {REVISION: None})


def test_a_revision_with_endpoints_is_told_until_they_are_gone():
    """Requests are in flight there and wait for it after the last route has left it."""
    table, up = compile.Table(), compiled("rev", piece(1, pod("p")))
    table.set_revision(REVISION, up)
    assert table.drain().revisions == {REVISION: up}
    table.set_route(ROUTE, rules("rev"))
    table.drain()
    table.set_route(ROUTE, rules("else"))
    assert table.drain().revisions == {}
    table.set_revision(REVISION, compiled())
    assert table.drain().revisions == {REVISION: None}


def test_what_came_out_the_same_is_not_told_again():
    """A touched entry without a change makes no update."""
    table = compile.Table()
    table.set_route(ROUTE, rules("rev"))
    table.set_revision(REVISION, compiled())
    table.drain()
    table.set_route(ROUTE, rules("rev"))
    table.set_revision(REVISION, compiled())
    assert not table.drain()
    table.set_revision(REVISION, compiled("rev", piece(1, pod("p"))))
    assert list(table.drain().revisions) == [REVISION]


NAMES = ("a", "b", "c")
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("route"),
            st.sampled_from(NAMES),
            st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True),
        ),
        st.tuples(st.just("revision"), st.sampled_from(NAMES), st.none() | st.integers(0, 3)),
        st.tuples(st.just("drain"), st.just(""), st.none()),
    ),
    max_size=30,
)


@given(STEPS)
def test_the_deltas_add_up_to_the_whole(steps):
    """Whatever happens in whatever order: the updates applied one by one give what one compile of the end gives."""
    table, snapshot, routes, known = compile.Table(), Snapshot(), {}, {}

    def drain():
        nonlocal snapshot
        delta = table.drain()
        snapshot = apply(snapshot, Update(snapshot.version, snapshot.version + 1, delta.routes, delta.revisions))

    for step, name, value in steps:
        if step == "route":
            routes[RouteId("ns", name)] = value and rules(*value)
            table.set_route(RouteId("ns", name), value and rules(*value))
        elif step == "revision":
            entry = None if value is None else compiled(name, *([piece(value, pod("p"))] if value else []))
            known[RevisionId("ns", name)] = entry
            table.set_revision(RevisionId("ns", name), entry)
        else:
            drain()
    drain()
    routes = {key: value for key, value in routes.items() if value}
    named = {split.revision for value in routes.values() for rule in value for split in rule.splits}
    assert dict(snapshot.routes) == routes
    told = {key: value for key, value in known.items() if value and (key in named or value.endpoints)}
    assert dict(snapshot.revisions) == told


def test_a_pod_that_was_not_started_yet_is_not_told():
    """Nothing listens at its address."""
    item = pod("p", ready=False)
    item["targetRef"]["uid"] = "uid-p"
    slices = [piece(1, item, pod("q", address="10.0.0.1"))]
    told = compile.endpoints(slices, milestones=lambda uid: None if uid == "uid-p" else Milestones())
    assert [endpoint.pod for endpoint in told] == ["q"]


def test_milestones_come_with_a_change_and_are_none():
    """An endpoint says how its pod came about; that alone is nothing to tell the gateways."""

    def told(created, *slices):
        return compile.revision(
            revision(),
            slices,
            autodetect_http2=False,
            milestones=lambda uid: Milestones(1.0, created, None) if uid == "uid-p" else Milestones(),
        )

    item = pod("p", ready=False)
    item["targetRef"]["uid"] = "uid-p"
    table = compile.Table()
    table.set_route(ROUTE, rules("rev"))
    table.set_revision(REVISION, told(2.0, piece(1, item, pod("q", address="10.0.0.1"))))
    first, second = table.drain().revisions[REVISION].endpoints
    assert (first.pod, first.milestones) == ("q", Milestones())
    assert (second.pod, second.milestones) == ("p", Milestones(1.0, 2.0))
    table.set_revision(REVISION, told(3.0, piece(1, item, pod("q", address="10.0.0.1"))))
    assert not table.drain()
