from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import kinds
from controller.apis.meta import format_time
from controller.embedded import tables

if TYPE_CHECKING:
    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ago(**duration: int) -> str:
    return format_time(NOW - timedelta(**duration))


def obj(**parts: Any) -> JsonObject:
    metadata = {"name": "n", "namespace": "ns", "creationTimestamp": ago(minutes=5), **parts.pop("metadata", {})}
    return {"metadata": metadata, **parts}


def row(kind: Kind, thing: JsonObject) -> dict[str, Any]:
    """Column name → cell."""
    found = tables.table(tables.builtin_columns(kind), [thing], NOW)
    names = [column["name"] for column in found["columnDefinitions"]]
    return dict(zip(names, found["rows"][0]["cells"], strict=True))


def test_a_table_is_what_kubectl_takes() -> None:
    """Column definitions, and rows whose objects are metadata only."""
    thing = obj(data={"a": "1"})
    assert tables.table(tables.builtin_columns(kinds.CONFIG_MAP), [thing], NOW) == {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": [
            {
                "name": "Name",
                "type": "string",
                "format": "name",
                "description": "Unique within the namespace.",
                "priority": 0,
            },
            {"name": "Data", "type": "integer", "format": "", "description": "", "priority": 0},
            {
                "name": "Age",
                "type": "string",
                "format": "",
                "description": "Time since the object was created.",
                "priority": 0,
            },
        ],
        "rows": [
            {
                "cells": ["n", 1, "5m"],
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": thing["metadata"],
                },
            }
        ],
    }


@pytest.mark.parametrize("kind", kinds.BUILT_IN_KINDS)
def test_an_object_with_nothing_in_it_has_a_row(kind: Kind) -> None:
    """Printing must not fail on what validation would let through."""
    assert row(kind, {"metadata": {"name": "n"}})


def test_unknown_kinds_have_name_and_age() -> None:
    """As Kubernetes prints what it has no columns for."""
    columns = tables.builtin_columns(kinds.Kind("x", "v1", "Y", "ys"))
    assert [column.name for column in columns] == ["Name", "Age"]


# --- the built-in kinds


def container(ready: bool = False, restarts: int = 0, last: str = "", **state: Any) -> JsonObject:
    found: JsonObject = {"name": "c", "ready": ready, "restartCount": restarts, "state": state}
    if last:
        found["lastState"] = {"terminated": {"finishedAt": last, "exitCode": 1}}
    return found


@pytest.mark.parametrize(
    ("status", "metadata", "printed"),
    [
        ({"phase": "Pending"}, {}, "Pending"),
        ({"phase": "Failed", "reason": "Evicted"}, {}, "Evicted"),
        ({"phase": "Running", "containerStatuses": [container(True, running={})]}, {}, "Running"),
        (
            {"phase": "Running", "containerStatuses": [container(waiting={"reason": "CrashLoopBackOff"})]},
            {},
            "CrashLoopBackOff",
        ),
        ({"phase": "Failed", "containerStatuses": [container(terminated={"exitCode": 3})]}, {}, "ExitCode:3"),
        (
            {"phase": "Failed", "containerStatuses": [container(terminated={"exitCode": 137, "signal": 9})]},
            {},
            "Signal:9",
        ),
        (
            {"phase": "Failed", "containerStatuses": [container(terminated={"exitCode": 1, "reason": "Error"})]},
            {},
            "Error",
        ),
        (
            {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [container(terminated={"reason": "Completed"}), container(True, running={})],
            },
            {},
            "Running",
        ),
        (
            {
                "phase": "Running",
                "containerStatuses": [container(terminated={"reason": "Completed"}), container(True, running={})],
            },
            {},
            "NotReady",
        ),
        ({"phase": "Running"}, {"deletionTimestamp": ago(seconds=1)}, "Terminating"),
        ({"reason": "NodeLost"}, {"deletionTimestamp": ago(seconds=1)}, "Unknown"),
        (
            {
                "phase": "Pending",
                "initContainerStatuses": [container(terminated={"exitCode": 0}), container(running={})],
            },
            {},
            "Init:1/2",
        ),
        ({"phase": "Pending", "initContainerStatuses": [container(terminated={"exitCode": 2})]}, {}, "Init:ExitCode:2"),
        (
            {"phase": "Pending", "initContainerStatuses": [container(waiting={"reason": "ErrImagePull"})]},
            {},
            "Init:ErrImagePull",
        ),
        ({"phase": "Pending", "initContainerStatuses": [container(terminated={"exitCode": 0})]}, {}, "Pending"),
        ({}, {}, "<unknown>"),
    ],
)
def test_a_pods_status_is_what_keeps_it_from_running(status: JsonObject, metadata: JsonObject, printed: str) -> None:
    """The phase only if no container has more to say."""
    assert row(kinds.POD, obj(metadata=metadata, status=status))["Status"] == printed


def test_a_pod() -> None:
    """Ready containers of all, restarts with the last one's age, and where it runs with -o wide."""
    status = {
        "podIP": "127.0.0.1",
        "containerStatuses": [container(True, 2, ago(minutes=4)), container(False, 1, ago(seconds=90))],
        "conditions": [{"type": "gate", "status": "True"}],
    }
    spec = {
        "containers": [{}, {}, {}],
        "nodeName": "node",
        "readinessGates": [{"conditionType": "gate"}, {"conditionType": "shut"}],
    }
    cells = row(kinds.POD, obj(spec=spec, status=status))
    assert (cells["Ready"], cells["Restarts"], cells["Age"]) == ("1/3", "3 (90s ago)", "5m")
    assert (cells["IP"], cells["Node"], cells["Nominated Node"], cells["Readiness Gates"]) == (
        "127.0.0.1",
        "node",
        "<none>",
        "1/2",
    )
    wide = [column.name for column in tables.builtin_columns(kinds.POD) if column.priority]
    assert wide == ["IP", "Node", "Nominated Node", "Readiness Gates"]
    assert row(kinds.POD, obj())["Restarts"] == "0"


def test_a_deployment() -> None:
    """READY is ready of wanted; images and the selector show with -o wide."""
    requirements = [
        {"key": "x", "operator": "In", "values": ["b", "a"]},
        {"key": "y", "operator": "NotIn", "values": ["c"]},
        {"key": "z", "operator": "Exists"},
        {"key": "w", "operator": "DoesNotExist"},
    ]
    spec = {
        "replicas": 3,
        "selector": {"matchLabels": {"k": "v"}, "matchExpressions": requirements},
        "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}},
    }
    cells = row(kinds.DEPLOYMENT, obj(spec=spec, status={"readyReplicas": 1, "updatedReplicas": 2}))
    assert cells == {
        "Name": "n",
        "Ready": "1/3",
        "Up-to-date": 2,
        "Available": 0,
        "Age": "5m",
        "Containers": "a,b",
        "Images": "i,j",
        "Selector": "k=v,x in (a,b),y notin (c),z,!w",
    }


@pytest.mark.parametrize(
    ("spec", "status", "external", "ports"),
    [
        ({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}, {}, "<none>", "80/TCP,53/UDP"),
        ({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}, {}, "<none>", "80:30080/TCP"),
        ({"type": "ExternalName", "externalName": "example.com"}, {}, "example.com", "<none>"),
        ({"type": "LoadBalancer"}, {}, "<pending>", "<none>"),
        (
            {"type": "LoadBalancer"},
            {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "h"}]}},
            "1.2.3.4,h",
            "<none>",
        ),
        ({"externalIPs": ["1.1.1.1"]}, {}, "1.1.1.1", "<none>"),
    ],
)
def test_a_service(spec: JsonObject, status: JsonObject, external: str, ports: str) -> None:
    """Ports with their node port and protocol; an external address depends on the type."""
    cells = row(kinds.CORE_SERVICE, obj(spec=spec, status=status))
    assert (cells["External-IP"], cells["Port(s)"]) == (external, ports)


def test_an_endpoint_slice_names_three_and_counts_the_rest() -> None:
    """Long lists would break the table."""
    endpoints = [{"addresses": [f"10.0.0.{number}"]} for number in range(5)]
    cells = row(kinds.ENDPOINT_SLICE, obj(addressType="IPv4", ports=[{"port": 8080}], endpoints=endpoints))
    assert (cells["Ports"], cells["Endpoints"]) == ("8080", "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more...")
    empty = row(kinds.ENDPOINT_SLICE, obj(addressType="IPv4"))
    assert (empty["Ports"], empty["Endpoints"]) == ("<unset>", "<unset>")


@pytest.mark.parametrize(
    ("times", "last", "first"),
    [
        ({"firstTimestamp": ago(minutes=3), "lastTimestamp": ago(seconds=20)}, "20s", "3m"),
        ({"eventTime": ago(seconds=30)}, "30s", "30s"),
        ({"eventTime": ago(minutes=4), "series": {"lastObservedTime": ago(seconds=5)}}, "5s", "4m"),
        ({}, "<unknown>", "<unknown>"),
    ],
)
def test_an_event(times: JsonObject, last: str, first: str) -> None:
    """Events in the old and the new style; names show with -o wide."""
    event = obj(
        **times,
        type="Warning",
        reason="BackOff",
        message="restarting \n",
        count=3,
        involvedObject={"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
        source={"component": "agent", "host": "h"},
    )
    assert row(kinds.EVENT, event) == {
        "Last Seen": last,
        "Type": "Warning",
        "Reason": "BackOff",
        "Object": "pod/p",
        "Subobject": "spec.containers{c}",
        "Source": "agent, h",
        "Message": "restarting",
        "First Seen": first,
        "Count": 3,
        "Name": "n",
    }


def test_the_small_kinds() -> None:
    """One line each."""
    assert row(kinds.SECRET, obj(type="Opaque", data={"a": ""})) == {
        "Name": "n",
        "Type": "Opaque",
        "Data": 1,
        "Age": "5m",
    }
    assert row(kinds.NAMESPACE, obj(status={"phase": "Active"}))["Status"] == "Active"
    assert row(kinds.SERVICE_ACCOUNT, obj(secrets=[{}]))["Secrets"] == 1
    assert row(kinds.LEASE, obj(spec={"holderIdentity": "me"}))["Holder"] == "me"
    assert row(kinds.CUSTOM_RESOURCE_DEFINITION, obj())["Created At"] == ago(minutes=5)


# --- custom columns


def custom(path: str, type_: str, thing: JsonObject) -> Any:
    columns = tables.crd_columns(
        {"additionalPrinterColumns": [{"name": "C", "type": type_, "jsonPath": path, "priority": 1}]}
    )
    assert [(column.name, column.priority) for column in columns] == [("Name", 0), ("C", 1)]
    return tables.table(columns, [thing], NOW)["rows"][0]["cells"][1]


THING = obj(
    metadata={"annotations": {"a.b/c": "noted"}},
    spec={"size": 3, "on": True, "ratio": 0.5, "tags": ["x", "y"], "map": {"k": "v"}, "null": None},
    status={
        "conditions": [
            {"type": "Other", "status": "False"},
            {"type": "Ready", "status": "True", "reason": "Fine"},
        ],
        "since": ago(hours=1),
        "never": "soon",
    },
)


@pytest.mark.parametrize(
    ("path", "type_", "cell"),
    [
        (".status.conditions[?(@.type=='Ready')].status", "string", "True"),
        ('.status.conditions[?(@.type=="Ready")].reason', "string", "Fine"),
        (".status.conditions[?(@.type!='Ready')].status", "string", "False"),
        (".status.conditions[?(@.type=='None')].status", "string", None),
        (".status.conditions[0].type", "string", "Other"),
        (".status.conditions[-1].type", "string", "Ready"),
        (".status.conditions[7].type", "string", None),
        (".status.conditions[*].type", "string", "Other"),
        (".spec.map.*", "string", "v"),
        ("{.spec.size}", "integer", 3),
        ("$.spec.size", "string", "3"),
        (".spec['size']", "integer", 3),
        (".metadata.annotations.a\\.b/c", "string", "noted"),
        (".metadata.annotations['a.b/c']", "string", "noted"),
        (".spec.on", "boolean", True),
        (".spec.on", "string", "true"),
        (".spec.on", "integer", None),
        (".spec.ratio", "number", 0.5),
        (".spec.ratio", "integer", 0),
        (".spec.tags", "string", '["x","y"]'),
        (".spec.null", "string", None),
        (".spec.absent.deeper", "string", None),
        (".spec.size.deeper", "string", None),
        (".status.since", "date", "60m"),
        (".status.never", "date", "<invalid>"),
        (".spec.size", "date", None),
        (".spec.size", "fancy", None),
    ],
)
def test_columns_of_a_definition(path: str, type_: str, cell: Any) -> None:
    """Values are found by jsonPath and shown by type; what is absent or of another type is empty."""
    assert custom(path, type_, THING) == cell


def test_a_definition_without_columns_shows_the_age() -> None:
    """As Kubernetes does; one with columns shows those only."""
    assert [column.name for column in tables.crd_columns({})] == ["Name", "Age"]


@pytest.mark.parametrize("path", [".a[", ".a[?(@.b>1)]", "a", ".a..b"])
def test_a_path_we_can_not_follow_is_refused(path: str) -> None:
    """When the definition is read, not when somebody prints."""
    with pytest.raises(ValueError, match="can't follow"):
        tables.json_path(path)


# --- durations


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (5 * 3600 + 12 * 60, "5h12m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (102 * 3600, "4d6h"),
        (8 * 86400, "8d"),
        (90 * 86400, "90d"),
        (2 * 365 * 86400, "2y"),
        ((2 * 365 + 30) * 86400, "2y30d"),
        (8 * 365 * 86400 + 5, "8y"),
    ],
)
def test_durations_read_as_kubectls(seconds: float, text: str) -> None:
    """The boundaries of HumanDuration."""
    assert tables.human_duration(seconds) == text


@given(st.integers(0, 10**10))
def test_a_duration_is_short(seconds: int) -> None:
    """Two units at most."""
    assert 2 <= len(tables.human_duration(seconds)) <= 6
