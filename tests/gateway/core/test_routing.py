"""gateway.core.routing: host, longest path, fields; equal to a naive scan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import RevisionId, RouteId, RouteRule, Split
from gateway.core.http1 import RequestHead, parse_request
from gateway.core.routing import RouteTable
from gateway.errors import NoRoute, NotReady


def rule(name: str, host: str = "a.b", **kinds: object) -> RouteRule:
    return RouteRule(host, (Split(RevisionId("ns", name), 100),), **kinds)  # type: ignore[arg-type]


def table(*rules: RouteRule) -> RouteTable:
    result = RouteTable()
    result.update({RouteId("ns", "route"): rules})
    return result


def head(host: str = "a.b", target: str = "/", *fields: str) -> RequestHead:
    lines = "".join(f"{field}\r\n" for field in fields)
    parsed = parse_request(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())
    assert parsed is not None
    return parsed


def chosen(routes: RouteTable, request: RequestHead, *, cluster_local: bool = False) -> str:
    destination = routes.match(cluster_local, request).destinations.only
    assert destination is not None
    return destination.revision.name


@pytest.mark.parametrize("host", ["a.b", "A.B", "a.b:8080", "A.b.:80", "a.b."])
def test_host_is_matched_without_case_port_and_final_dot(host: str) -> None:
    """Knative's ingress contract; the final dot is the DNS' root."""
    assert chosen(table(rule("x")), head(host)) == "x"


def test_an_unknown_host_is_named() -> None:
    """404, and the body says which host it was."""
    with pytest.raises(NoRoute, match=r"c\.d"):
        table(rule("x")).match(False, head("c.d"))


def test_before_the_first_state_nothing_is_denied() -> None:
    """A table that was never told anything says 503, not that a host does not exist; an empty state says 404."""
    routes = RouteTable()
    with pytest.raises(NotReady):
        routes.match(False, head("a.b"))
    routes.update({})
    with pytest.raises(NoRoute):
        routes.match(False, head("a.b"))


def test_each_listener_has_its_own_rules() -> None:
    """External rules don't answer on the cluster-local listener, nor the other way round."""
    routes = table(rule("out"), rule("in", host="a.svc", cluster_local=True))
    assert chosen(routes, head("a.svc"), cluster_local=True) == "in"
    for cluster_local, host in ((True, "a.b"), (False, "a.svc")):
        with pytest.raises(NoRoute):
            routes.match(cluster_local, head(host))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/", "root"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api?x", "api"),
        ("/api/v2/x", "v2"),
        ("/apix", "root"),
        ("/x/api", "root"),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(target: str, name: str) -> None:
    """Whatever the order of the rules."""
    rules = [rule("root"), rule("api", path="/api"), rule("v2", path="/api/v2")]
    assert chosen(table(*rules), head(target=target)) == name
    assert chosen(table(*reversed(rules)), head(target=target)) == name


def test_field_matches_go_before_plain_rules_of_the_same_path() -> None:
    """Tag header routing: an unknown value falls through to the default."""
    routes = table(rule("default"), rule("blue", match_fields=(("knative-serving-tag", "blue"),)))
    assert chosen(routes, head("a.b", "/", "Knative-Serving-Tag: blue")) == "blue"
    assert chosen(routes, head("a.b", "/", "knative-serving-tag: red")) == "default"
    assert chosen(routes, head()) == "default"


def test_updates_touch_what_they_name() -> None:
    """Two routes may share a host; dropping one leaves the other's rules."""
    routes = table(rule("root"))
    routes.update({RouteId("ns", "other"): (rule("api", path="/api"), rule("far", host="c.d"))})
    assert chosen(routes, head(target="/api")) == "api"
    routes.update({RouteId("ns", "other"): (rule("far2", host="c.d"),)})
    assert chosen(routes, head(target="/api")) == "root"
    assert chosen(routes, head("c.d")) == "far2"
    routes.update({RouteId("ns", "other"): None, RouteId("ns", "route"): None})
    assert len(routes) == 0
    with pytest.raises(NoRoute):
        routes.match(False, head())


def test_a_bad_update_changes_nothing() -> None:
    """Splits that don't sum to 100 are refused before anything is in the table."""
    routes = table(rule("old"))
    bad = RouteRule("a.b", (Split(RevisionId("ns", "x"), 50),))
    with pytest.raises(ValueError, match="100"):
        routes.update({RouteId("ns", "route"): (bad,)})
    assert chosen(routes, head()) == "old"


paths = st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab", "/b"])
made_rules = st.lists(st.tuples(paths, st.booleans()), min_size=1, max_size=8, unique=True)


@given(made_rules, paths, st.booleans())
def test_routing_equals_a_naive_scan(made: list[tuple[str, bool]], path: str, tagged: bool) -> None:
    """Among the rules that fit: the longest path, then the one with a field match."""
    rules = [rule(str(i), path=at, match_fields=(("x", "1"),) if tag else ()) for i, (at, tag) in enumerate(made)]
    fitting = [
        (len(at.rstrip("/")), tag, str(i))
        for i, (at, tag) in enumerate(made)
        if (at == "/" or path == at or path.startswith(at + "/")) and (tagged or not tag)
    ]
    request = head("a.b", path, *(["X: 1"] if tagged else []))
    if fitting:
        assert chosen(table(*rules), request) == max(fitting)[2]
    else:
        with pytest.raises(NoRoute):
            table(*rules).match(False, request)
