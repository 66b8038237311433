"""The REST surface over real sockets: verbs, metadata, subresources, patches, lists, watches, deletion."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from controller.embedded.resources import ResourceId

if TYPE_CHECKING:
    from .conftest import Api

WIDGETS = "/apis/example.dev/v1/namespaces/default/widgets"
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


def widget(name: str = "w", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.dev/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


def pod(name: str = "p", **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **meta}, "spec": {"containers": [{"name": "c", "image": "x"}]}}


def deployment(name: str = "d") -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod()["spec"]}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


def owned(obj: dict[str, Any], owner: dict[str, Any], *, blocks: bool = True) -> dict[str, Any]:
    ref = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": blocks,
    }
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": [ref]}}


async def gone(api: Api, path: str) -> None:
    """Waits until the collector has removed the object."""

    async def is_gone() -> bool:
        return (await api("GET", path))[0] == 404

    await api.until(is_gone)


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic abc", "Bearer "])
async def test_without_the_token_there_is_only_health(api: Api, authorization: str) -> None:
    """401 as a Status for everything but health and version."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=api.credentials.ca))
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": authorization}) as session:
        async with session.get(api.url + "/api/v1/namespaces") as response:
            assert response.status == 401
            body = await response.json()
            assert (body["kind"], body["reason"], body["message"]) == ("Status", "Unauthorized", "Unauthorized")
        for path in ("/healthz", "/livez", "/readyz", "/version"):
            async with session.get(api.url + path) as response:
                assert response.status == 200


async def test_unknown_paths_and_methods_answer_in_kubernetes_words(api: Api) -> None:
    """404 and 405 are Status objects with kubectl's sentences."""
    code, body = await api("GET", "/apis/nowhere.dev/v1/things")
    assert (code, body["message"]) == (404, "the server could not find the requested resource")
    code, body = await api("PUT", MAPS, {})
    assert (code, body["message"]) == (405, "the server does not allow this method on the requested resource")
    code, body = await api("GET", f"{WIDGETS}/none")
    assert (code, body["message"]) == (404, 'widgets.example.dev "none" not found')
    assert body["details"] == {"name": "none", "group": "example.dev", "kind": "widgets"}


# --- create and update ------------------------------------------------------------------------------------------------


async def test_the_server_owns_metadata(api: Api) -> None:
    """uid, creationTimestamp, generation and resourceVersion are the server's; status in a create is dropped."""
    sent = widget(size=1) | {"status": {"ready": True}}
    sent["metadata"] |= {"uid": "mine", "generation": 7, "deletionTimestamp": "2020-01-01T00:00:00Z"}
    made = await api.ok("POST", WIDGETS, sent)
    meta = made["metadata"]
    assert meta["uid"] != "mine"
    assert (meta["generation"], meta["namespace"]) == (1, "default")
    assert "status" not in made
    assert "deletionTimestamp" not in meta
    assert made["spec"] == {"size": 1, "colour": "grey"}
    assert await api.ok("GET", f"{WIDGETS}/w") == made
    code, body = await api("POST", WIDGETS, sent)
    assert (code, body["message"]) == (409, 'widgets.example.dev "w" already exists')


async def test_generate_name_adds_five_characters(api: Api) -> None:
    """Two objects of one prefix have different names, prefix first."""
    names = [(await api.ok("POST", MAPS, {"metadata": {"generateName": "x-"}}))["metadata"]["name"] for _ in range(2)]
    assert len(set(names)) == 2
    assert all(len(name) == 7 and name.startswith("x-") for name in names)


async def test_generation_counts_spec_changes_only(api: Api) -> None:
    """Labels and status leave it; a write that changes nothing leaves even the resourceVersion."""
    made = await api.ok("POST", WIDGETS, widget(size=1))
    labelled = await api.ok("PATCH", f"{WIDGETS}/w", {"metadata": {"labels": {"a": "b"}}}, MERGE)
    assert labelled["metadata"]["generation"] == 1
    grown = await api.ok("PATCH", f"{WIDGETS}/w", {"spec": {"size": 2}}, MERGE)
    assert grown["metadata"]["generation"] == 2
    same = await api.ok("PATCH", f"{WIDGETS}/w", {"spec": {"size": 2}}, MERGE)
    assert same == grown
    assert int(made["metadata"]["resourceVersion"]) < int(grown["metadata"]["resourceVersion"])


async def test_spec_and_status_are_written_apart(api: Api) -> None:
    """The main resource ignores status, the status subresource ignores spec and (for custom resources) metadata."""
    made = await api.ok("POST", WIDGETS, widget(size=1))
    both = {**made, "spec": {"size": 9}, "status": {"ready": True}}
    both["metadata"] = {**made["metadata"], "labels": {"a": "b"}}
    after = await api.ok("PUT", f"{WIDGETS}/w/status", both)
    assert (after["spec"]["size"], after["status"]) == (1, {"ready": True})
    assert "labels" not in after["metadata"]
    assert after["metadata"]["generation"] == 1
    both["metadata"]["resourceVersion"] = after["metadata"]["resourceVersion"]
    main = await api.ok("PUT", f"{WIDGETS}/w", both | {"status": {"ready": False}})
    assert (main["spec"]["size"], main["status"]) == (9, {"ready": True})


async def test_what_reaches_into_containers_is_refused_with_a_reason(api: Api) -> None:
    """kubectl exec, attach and port-forward show what the server says."""
    await api.ok("POST", PODS, pod())
    for subresource in ("exec", "attach", "portforward"):
        code, body = await api("POST", f"{PODS}/p/{subresource}")
        assert (code, body["reason"]) == (501, "NotImplemented")
        assert body["message"].startswith(f"pods/{subresource} is not served: a pod's containers are processes")


async def test_a_pods_status_write_takes_annotations(api: Api) -> None:
    """A core Pod's status subresource also writes labels and annotations, but not spec."""
    await api.ok("POST", PODS, pod())
    body = {"metadata": {"annotations": {"a.dev/b": "c"}}, "status": {"phase": "Running", "podIP": "127.0.0.1"}}
    after = await api.ok("PATCH", f"{PODS}/p/status", body | {"spec": {"nodeName": "x"}}, MERGE)
    assert after["metadata"]["annotations"] == {"a.dev/b": "c"}
    assert after["status"]["phase"] == "Running"
    assert after["spec"]["nodeName"] == "local"


async def test_a_write_over_somebody_elses_is_a_conflict(api: Api) -> None:
    """409 in Kubernetes' words for a stale resourceVersion, in a PUT and in a patch."""
    made = await api.ok("POST", WIDGETS, widget(size=1))
    await api.ok("PATCH", f"{WIDGETS}/w", {"spec": {"size": 2}}, MERGE)
    code, body = await api("PUT", f"{WIDGETS}/w", made)
    assert (code, body["reason"]) == (409, "Conflict")
    assert body["message"] == (
        'Operation cannot be fulfilled on widgets.example.dev "w": the object has been modified; please apply your'
        " changes to the latest version and try again"
    )
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {"size": 3}}
    assert (await api("PATCH", f"{WIDGETS}/w", stale, MERGE))[0] == 409
    del made["metadata"]["resourceVersion"]
    code, body = await api("PUT", f"{WIDGETS}/w", made)
    assert (code, "metadata.resourceVersion" in body["message"]) == (422, True)


async def test_bad_objects_are_refused_with_the_field(api: Api) -> None:
    """Every refusal names the field that is wrong."""
    cases: list[tuple[str, Any, int, str]] = [
        (WIDGETS, widget(size=-1), 422, "spec.size: Invalid value: -1"),
        (WIDGETS, widget("No_Name"), 422, 'metadata.name: Invalid value: "No_Name"'),
        (WIDGETS, {"kind": "Gadget"}, 400, "the kind in the data (Gadget) does not match"),
        (WIDGETS, {"apiVersion": "v2"}, 400, "the API version in the data (v2) does not match"),
        (WIDGETS, {"metadata": {"name": "x", "namespace": "other"}}, 400, "namespace of the provided object"),
        (WIDGETS, {"metadata": {}}, 422, "metadata.name: Required value"),
        (WIDGETS, {"metadata": {"name": "x", "labels": {"a": 1}}}, 400, "metadata.labels"),
        (WIDGETS, {"metadata": {"name": "x", "labels": {"a": "b c"}}}, 422, "metadata.labels"),
        (WIDGETS, [], 400, "not an object"),
        (WIDGETS, b"{", 400, "not JSON"),
        (WIDGETS.replace("default", "none"), widget(), 404, 'namespaces "none" not found'),
        (DEPLOYMENTS, {"metadata": {"name": "d"}, "spec": {}}, 422, "spec.selector"),
        (PODS, {"metadata": {"name": "p"}, "spec": {"containers": []}}, 422, "spec.containers: Required value"),
        ("/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}, "data": {"a": "%"}}, 422, "data.a"),
    ]
    for path, body, expected, text in cases:
        code, answer = await api("POST", path, body)
        assert (code, text in answer["message"]) == (expected, True), answer
    assert (await api("POST", MAPS, config_map("big", x="y" * 4_000_000)))[0] == 413
    assert (await api("POST", MAPS, b"x", "application/msgpack"))[0] == 415


async def test_unknown_fields_are_refused_reported_or_dropped(api: Api) -> None:
    """fieldValidation: Strict is 400 naming the field, Warn (also the default) a Warning header, Ignore silence."""
    code, body = await api("POST", f"{WIDGETS}?fieldValidation=Strict", widget(size=1, weight=2))
    assert (code, body["message"]) == (400, 'strict decoding error: unknown field "spec.weight"')
    made = await api.ok("POST", f"{WIDGETS}?fieldValidation=Warn", widget("a", weight=2))
    assert "weight" not in made["spec"]
    assert api.warnings == ['299 - "unknown field \\"spec.weight\\""']
    await api.ok("POST", f"{WIDGETS}?fieldValidation=Ignore", widget("b", weight=2))
    assert api.warnings == []
    code, body = await api("POST", f"{PODS}?fieldValidation=Strict", pod() | {"spek": {}})
    assert (code, body["message"]) == (400, 'strict decoding error: unknown field "spek"')


async def test_dry_run_answers_and_keeps_nothing(api: Api) -> None:
    """dryRun=All goes all the way to the answer, for each verb."""
    made = await api.ok("POST", f"{WIDGETS}?dryRun=All", widget(size=1))
    assert made["metadata"]["uid"]
    assert (await api("GET", f"{WIDGETS}/w"))[0] == 404
    await api.ok("POST", WIDGETS, widget(size=1))
    patched = await api.ok("PATCH", f"{WIDGETS}/w?dryRun=All", {"spec": {"size": 2}}, MERGE)
    assert patched["spec"]["size"] == 2
    await api.ok("DELETE", f"{WIDGETS}/w?dryRun=All")
    assert (await api.ok("GET", f"{WIDGETS}/w"))["spec"]["size"] == 1


async def test_bodies_may_be_yaml_without_aliases(api: Api) -> None:
    """YAML means what JSON would: a date stays text. Aliases are refused, for a few lines can stand for gigabytes."""
    text = b"metadata:\n  name: y\ndata:\n  day: 2026-01-01\n"
    made = await api.ok("POST", MAPS, text, "application/yaml")
    assert made["data"] == {"day": "2026-01-01"}
    code, body = await api("POST", MAPS, b"a: &a [1]\nb: *a\n", "application/yaml")
    assert (code, "aliases" in body["message"]) == (400, True)


async def test_what_json_cant_say_is_refused(api: Api) -> None:
    """Nesting without end and YAML's keys that are no texts are the client's fault, not the server's."""
    deep = b'{"metadata":{"name":"w"},"status":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}"
    await api.ok("POST", WIDGETS, widget())
    assert (await api("PATCH", f"{WIDGETS}/w/status", deep, MERGE))[0] == 400
    assert (await api("POST", MAPS, b"metadata: {name: x}\ndata: {1: a}\n", "application/yaml"))[0] in (400, 422)
    assert (await api("GET", f"{WIDGETS}/w"))[0] == 200


# --- patches ----------------------------------------------------------------------------------------------------------


async def test_each_patch_type_is_taken_where_kubernetes_takes_it(api: Api) -> None:
    """JSON and merge patches for all, strategic for built-in kinds only."""
    await api.ok("POST", WIDGETS, widget(size=1))
    changed = await api.ok(
        "PATCH", f"{WIDGETS}/w", [{"op": "replace", "path": "/spec/size", "value": 5}], "application/json-patch+json"
    )
    assert changed["spec"]["size"] == 5
    strategic = "application/strategic-merge-patch+json"
    assert (await api("PATCH", f"{WIDGETS}/w", {}, strategic))[0] == 415
    await api.ok("POST", DEPLOYMENTS, deployment())
    body = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "y"}]}}}}
    merged = await api.ok("PATCH", f"{DEPLOYMENTS}/d", body, strategic)
    assert {each["name"] for each in merged["spec"]["template"]["spec"]["containers"]} == {"c", "side"}
    code, body = await api(
        "PATCH", f"{WIDGETS}/w", [{"op": "remove", "path": "/spec/none"}], "application/json-patch+json"
    )
    assert (code, body["kind"]) == (422, "Status")


async def test_two_appliers_see_each_others_conflicts(api: Api) -> None:
    """Server-side apply creates, updates its own, refuses another's field by name, and takes it with force."""
    path = f"{WIDGETS}/w"
    assert (await api("PATCH", f"{path}?fieldManager=one", widget(size=1), APPLY))[0] == 201
    assert (await api("PATCH", f"{path}?fieldManager=one", widget(size=2), APPLY))[0] == 200
    code, body = await api("PATCH", f"{path}?fieldManager=two", widget(size=3), APPLY)
    assert (code, body["reason"]) == (409, "Conflict")
    assert body["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.size'
    assert [cause["field"] for cause in body["details"]["causes"]] == [".spec.size"]
    forced = await api.ok("PATCH", f"{path}?fieldManager=two&force=true", widget(size=3), APPLY)
    assert forced["spec"]["size"] == 3
    assert (await api("PATCH", path, widget(size=3), APPLY))[0] == 400


async def test_scale_reads_and_writes_replicas(api: Api) -> None:
    """deployments/scale is an autoscaling/v1 Scale; writing it changes replicas and generation."""
    await api.ok("POST", DEPLOYMENTS, deployment())
    scale = await api.ok("GET", f"{DEPLOYMENTS}/d/scale")
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 1}, "app=d")
    await api.ok("PUT", f"{DEPLOYMENTS}/d/scale", {**scale, "spec": {"replicas": 3}})
    patched = await api.ok("PATCH", f"{DEPLOYMENTS}/d/scale", {"spec": {"replicas": 0}}, MERGE)
    assert patched["spec"]["replicas"] == 0
    after = await api.ok("GET", f"{DEPLOYMENTS}/d")
    assert (after["spec"]["replicas"], after["metadata"]["generation"]) == (0, 3)
    assert (await api("PUT", f"{DEPLOYMENTS}/d/scale", scale))[0] == 409
    assert (await api("PATCH", f"{DEPLOYMENTS}/d/scale", {"spec": {"replicas": -1}}, MERGE))[0] == 422


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_lists_select_by_namespace_labels_and_fields(api: Api) -> None:
    """Namespace in the path, labels and fields in the query; what can't be selected by is 400."""
    await api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "other"}})
    await api.ok("POST", MAPS, config_map("a", {"app": "x"}))
    await api.ok("POST", MAPS, config_map("b"))
    await api.ok("POST", MAPS.replace("default", "other"), config_map("c", {"app": "x"}))

    async def names(path: str) -> list[str]:
        return [item["metadata"]["name"] for item in (await api.ok("GET", path))["items"]]

    assert await names(MAPS) == ["a", "b"]
    assert await names("/api/v1/configmaps") == ["a", "b", "c"]
    assert await names("/api/v1/configmaps?labelSelector=app%3Dx") == ["a", "c"]
    assert await names("/api/v1/configmaps?fieldSelector=metadata.namespace%3Dother") == ["c"]
    assert await names(f"{MAPS}?fieldSelector=metadata.name%3Db") == ["b"]
    assert (await api("GET", f"{MAPS}?fieldSelector=data.x%3D1"))[0] == 400
    assert (await api("GET", f"{MAPS}?labelSelector=a+b"))[0] == 400


async def test_a_continued_list_shows_the_state_it_began_with(api: Api) -> None:
    """Pages of `limit`, one resourceVersion, whatever is written in between."""
    for name in "abcde":
        await api.ok("POST", MAPS, config_map(name))
    first = await api.ok("GET", f"{MAPS}?limit=2")
    assert first["metadata"]["remainingItemCount"] == 3
    await api.ok("DELETE", f"{MAPS}/d")
    await api.ok("POST", MAPS, config_map("cc"))
    second = await api.ok("GET", f"{MAPS}?limit=2&continue={first['metadata']['continue']}")
    third = await api.ok("GET", f"{MAPS}?limit=2&continue={second['metadata']['continue']}")
    names = [item["metadata"]["name"] for page in (first, second, third) for item in page["items"]]
    assert names == list("abcde")
    assert {page["metadata"]["resourceVersion"] for page in (first, second, third)} == {
        first["metadata"]["resourceVersion"]
    }
    assert "continue" not in third["metadata"]
    assert (await api("GET", f"{MAPS}?continue=nonsense"))[0] == 400
    assert (await api("GET", f"{MAPS}?resourceVersion=999999"))[0] == 504


async def test_tables_and_metadata_by_accept(api: Api) -> None:
    """`as=Table` has the CRD's columns; `as=PartialObjectMetadataList` leaves out spec."""
    await api.ok("POST", WIDGETS, widget(size=4))
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    _, table = await api("GET", WIDGETS, Accept=accept)
    assert table["kind"] == "Table"
    assert [column["name"] for column in table["columnDefinitions"]][:2] == ["Name", "Size"]
    assert table["rows"][0]["cells"][:2] == ["w", 4]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    _, whole = await api("GET", f"{WIDGETS}?includeObject=Object", Accept=accept)
    assert whole["rows"][0]["object"]["spec"]["size"] == 4
    partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    _, metadata = await api("GET", WIDGETS, Accept=partial)
    assert metadata["kind"] == "PartialObjectMetadataList"
    assert "spec" not in metadata["items"][0]
    assert (await api("GET", WIDGETS, Accept="application/vnd.kubernetes.protobuf"))[0] == 406


# --- watches ----------------------------------------------------------------------------------------------------------


async def test_a_watch_begins_with_the_state_or_after_a_revision(api: Api) -> None:
    """Without a resourceVersion: ADDED for all there is. With one: what happened since, nothing twice."""
    first = await api.ok("POST", MAPS, config_map("a"))
    watching = await api.watch(f"{MAPS}?watch=1")
    assert await watching.names(1) == [("ADDED", "a")]
    since = await api.watch(f"{MAPS}?watch=true&resourceVersion={first['metadata']['resourceVersion']}")
    await api.ok("POST", MAPS, config_map("b"))
    await api.ok("PATCH", f"{MAPS}/b", {"data": {"x": "y"}}, MERGE)
    await api.ok("DELETE", f"{MAPS}/b")
    expected = [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]
    assert await watching.names(3) == expected
    assert await since.names(3) == expected
    watching.close()
    since.close()


async def test_a_watch_with_a_selector_sees_objects_come_and_go(api: Api) -> None:
    """An object that begins to match is ADDED, one that ceases to is DELETED, with the revision of that change."""
    watching = await api.watch(f"{MAPS}?watch=1&labelSelector=app")
    await api.ok("POST", MAPS, config_map("a"))
    await api.ok("PATCH", f"{MAPS}/a", {"metadata": {"labels": {"app": "x"}}}, MERGE)
    await api.ok("PATCH", f"{MAPS}/a", {"data": {"k": "v"}}, MERGE)
    left = await api.ok("PATCH", f"{MAPS}/a", {"metadata": {"labels": {"app": None}}}, MERGE)
    assert await watching.names(2) == [("ADDED", "a"), ("MODIFIED", "a")]
    type_, obj = await watching.next()
    assert type_ == "DELETED"
    assert obj["metadata"]["labels"] == {"app": "x"}
    assert obj["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]
    watching.close()


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    """sendInitialEvents: the state, then a bookmark that says it is complete (client-go's WatchList)."""
    await api.ok("POST", MAPS, config_map("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    watching = await api.watch(f"{MAPS}?{query}")
    assert await watching.names(1) == [("ADDED", "a")]
    type_, obj = await watching.next()
    assert type_ == "BOOKMARK"
    assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    watching.close()


async def test_a_watch_ends_at_its_timeout_with_a_bookmark(api: Api) -> None:
    """timeoutSeconds ends the response cleanly; the bookmark says how far it was."""
    watching = await api.watch(f"{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion=1")
    type_, obj = await watching.next()
    assert (type_, obj["metadata"]["resourceVersion"]) == ("BOOKMARK", str(api.store.revision))
    assert await watching.response.content.readline() == b""


async def test_a_slow_watcher_is_ended_with_gone(api: Api) -> None:
    """When its queue overflows it gets an ERROR event 410 and the end, and has to list again."""
    watching = await api.watch(f"{MAPS}?watch=1&resourceVersion={api.store.revision}")
    made = (await api.ok("POST", MAPS, config_map("a")))["metadata"]
    assert await watching.names(1) == [("ADDED", "a")]
    (subscription,) = api.store.subscriptions(_id("configmaps"))
    event = api.store.since(int(made["resourceVersion"]) - 1)[0]
    while not subscription.overflowed:  # in one turn of the loop, so that the watch takes nothing in between
        subscription.offer(event)
    type_, obj = await watching.next()
    assert (type_, obj["code"], obj["reason"]) == ("ERROR", 410, "Expired")
    assert await watching.response.content.readline() == b""


async def test_a_watch_from_the_future_is_refused(api: Api) -> None:
    """A revision the server hasn't reached is 504 with a hint to retry."""
    code, body = await api("GET", f"{MAPS}?watch=1&resourceVersion=999999")
    assert (code, body["details"]["retryAfterSeconds"]) == (504, 1)


async def test_a_watcher_that_leaves_frees_its_queue(api: Api) -> None:
    """No subscription is left after the connection is gone."""
    watching = await api.watch(f"{MAPS}?watch=1")
    assert len(api.store.subscriptions(_id("configmaps"))) == 1
    watching.close()

    async def is_free() -> bool:
        return not api.store.subscriptions(_id("configmaps"))

    await api.until(is_free)


async def test_a_watch_may_be_of_tables(api: Api) -> None:
    """`kubectl get -w` asks for rows."""
    await api.ok("POST", WIDGETS, widget(size=4))
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    async with api.session.get(f"{api.url}{WIDGETS}?watch=1", headers=accept) as response:
        line = await response.content.readline()
        assert b'"kind":"Table"' in line
        assert b'"cells":["w",4' in line


# --- deletion ---------------------------------------------------------------------------------------------------------


async def test_a_deletion_answers_what_is_gone(api: Api) -> None:
    """Status Success with the uid; preconditions that don't hold are 409."""
    made = await api.ok("POST", WIDGETS, widget())
    code, body = await api("DELETE", f"{WIDGETS}/w", {"preconditions": {"uid": "other"}})
    assert (code, "Precondition failed: UID" in body["message"]) == (409, True)
    body = await api.ok("DELETE", f"{WIDGETS}/w")
    assert (body["status"], body["details"]["uid"]) == ("Success", made["metadata"]["uid"])
    assert (await api("DELETE", f"{WIDGETS}/w"))[0] == 404


async def test_finalizers_hold_an_object(api: Api) -> None:
    """It is marked, takes no new finalizers, and goes when the last is removed."""
    held = widget()
    held["metadata"]["finalizers"] = ["example.dev/hold"]
    await api.ok("POST", WIDGETS, held)
    marked = await api.ok("DELETE", f"{WIDGETS}/w")
    assert marked["metadata"]["deletionTimestamp"]
    more = {"metadata": {"finalizers": ["example.dev/hold", "example.dev/more"]}}
    code, body = await api("PATCH", f"{WIDGETS}/w", more, MERGE)
    assert (code, "metadata.finalizers: Forbidden" in body["message"]) == (422, True)
    await api.ok("PATCH", f"{WIDGETS}/w", {"metadata": {"finalizers": None}}, MERGE)
    assert (await api("GET", f"{WIDGETS}/w"))[0] == 404


async def test_pods_go_in_two_steps(api: Api) -> None:
    """A deletion marks a pod with its grace period; the agent's deletion with grace 0 removes it."""
    await api.ok("POST", PODS, pod())
    marked = await api.ok("DELETE", f"{PODS}/p")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    sooner = await api.ok("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 5})
    assert sooner["metadata"]["deletionGracePeriodSeconds"] == 5
    assert (await api.ok("DELETE", f"{PODS}/p?gracePeriodSeconds=0"))["status"] == "Success"
    await api.ok("POST", PODS, pod())
    await api.ok("PATCH", f"{PODS}/p/status", {"status": {"phase": "Failed"}}, MERGE)
    assert (await api.ok("DELETE", f"{PODS}/p"))["status"] == "Success"


async def test_dependents_follow_their_owner(api: Api) -> None:
    """Background: the owner goes at once, then its dependents and theirs."""
    owner = await api.ok("POST", WIDGETS, widget())
    child = await api.ok("POST", DEPLOYMENTS, owned(deployment(), owner))
    await api.ok("POST", MAPS, owned(config_map("grandchild"), child))
    await api.ok("DELETE", f"{WIDGETS}/w")
    await gone(api, f"{MAPS}/grandchild")
    assert (await api("GET", f"{DEPLOYMENTS}/d"))[0] == 404


async def test_foreground_waits_for_blocking_dependents(api: Api) -> None:
    """The owner stays, marked, until the dependents that block it are gone."""
    owner = await api.ok("POST", WIDGETS, widget())
    await api.ok("POST", PODS, owned(pod(), owner))
    marked = await api.ok("DELETE", f"{WIDGETS}/w", {"propagationPolicy": "Foreground"})
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]

    async def is_marked() -> bool:
        return "deletionTimestamp" in (await api.ok("GET", f"{PODS}/p"))["metadata"]

    await api.until(is_marked)
    assert (await api("GET", f"{WIDGETS}/w"))[0] == 200
    await api.ok("DELETE", f"{PODS}/p?gracePeriodSeconds=0")
    await gone(api, f"{WIDGETS}/w")


async def test_orphans_lose_the_reference_only(api: Api) -> None:
    """Orphan: dependents stay, without the reference."""
    owner = await api.ok("POST", WIDGETS, widget())
    await api.ok("POST", MAPS, owned(config_map("a"), owner))
    await api.ok("DELETE", f"{WIDGETS}/w?propagationPolicy=Orphan")
    await gone(api, f"{WIDGETS}/w")
    assert "ownerReferences" not in (await api.ok("GET", f"{MAPS}/a"))["metadata"]


async def test_a_dependent_of_two_owners_outlives_one(api: Api) -> None:
    """Only the dangling reference is dropped."""
    one, two = [await api.ok("POST", WIDGETS, widget(name)) for name in ("one", "two")]
    shared = owned(config_map("a"), one)
    shared["metadata"]["ownerReferences"] += owned(config_map("a"), two)["metadata"]["ownerReferences"]
    shared["metadata"]["ownerReferences"][1]["controller"] = False
    await api.ok("POST", MAPS, shared)
    await api.ok("DELETE", f"{WIDGETS}/one")

    async def has_one_owner() -> bool:
        return len((await api.ok("GET", f"{MAPS}/a"))["metadata"]["ownerReferences"]) == 1

    await api.until(has_one_owner)
    await api.ok("DELETE", f"{WIDGETS}/two")
    await gone(api, f"{MAPS}/a")


async def test_an_object_of_an_owner_that_never_was_is_collected(api: Api) -> None:
    """A reference to a uid nobody has doesn't keep an object; one to a kind that isn't served here does."""
    ghost = {"apiVersion": "example.dev/v1", "kind": "Widget", "metadata": {"name": "ghost", "uid": "0"}}
    await api.ok("POST", MAPS, owned(config_map("a"), ghost))
    foreign = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs", "uid": "1"}}
    await api.ok("POST", MAPS, owned(config_map("b"), foreign))
    await gone(api, f"{MAPS}/a")
    assert (await api("GET", f"{MAPS}/b"))[0] == 200


async def test_delete_collection_takes_a_selector(api: Api) -> None:
    """Only what is selected goes."""
    await api.ok("POST", MAPS, config_map("a", {"app": "x"}))
    await api.ok("POST", MAPS, config_map("b"))
    await api.ok("DELETE", f"{MAPS}?labelSelector=app%3Dx")
    assert [item["metadata"]["name"] for item in (await api.ok("GET", MAPS))["items"]] == ["b"]


# --- namespaces -------------------------------------------------------------------------------------------------------


async def test_namespaces_take_their_content_along(api: Api) -> None:
    """Terminating takes nothing new; it goes when the last object has gone."""
    await api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "temp"}})
    account = await api.ok("GET", "/api/v1/namespaces/temp/serviceaccounts/default")
    assert account["kind"] == "ServiceAccount"
    await api.ok("POST", PODS.replace("default", "temp"), pod())
    marked = await api.ok("DELETE", "/api/v1/namespaces/temp")
    assert marked["status"]["phase"] == "Terminating"
    code, body = await api("POST", MAPS.replace("default", "temp"), config_map("a"))
    assert (code, "because it is being terminated" in body["message"]) == (403, True)
    await api.ok("DELETE", f"{PODS.replace('default', 'temp')}/p?gracePeriodSeconds=0")
    await gone(api, "/api/v1/namespaces/temp")


async def test_the_first_namespaces_are_there_and_stay(api: Api) -> None:
    """default and knative-serving exist from the first start and can't be deleted."""
    for name in ("default", "knative-serving"):
        assert (await api.ok("GET", f"/api/v1/namespaces/{name}"))["status"]["phase"] == "Active"
        assert (await api("DELETE", f"/api/v1/namespaces/{name}"))[0] == 403


# --- the rest ---------------------------------------------------------------------------------------------------------


async def test_logs_come_from_the_provider(api: Api) -> None:
    """The default container, options passed on, and the provider's refusal as 400."""
    body = pod()
    body["spec"]["containers"].append({"name": "late", "image": "x"})
    await api.ok("POST", PODS, body)
    code, answer = await api("GET", f"{PODS}/p/log")
    assert (code, "choose one of: [c late]" in answer["message"]) == (400, True)
    assert await api("GET", f"{PODS}/p/log?container=c&tailLines=1") == (200, "two\n")
    code, answer = await api("GET", f"{PODS}/p/log?container=late")
    assert (code, "is waiting to start" in answer["message"]) == (400, True)
    assert (await api("GET", f"{PODS}/p/log?container=none"))[0] == 400


async def test_a_followed_log_ends_with_the_server(api: Api) -> None:
    """Stopping ends it as if the log were over: the client has what was written, and no broken connection."""
    await api.ok("POST", PODS, pod())
    following = await api.session.get(f"{api.url}{PODS}/p/log?follow=true")
    assert await following.content.readline() == b"one\n"
    await api.server.stop()
    assert await following.content.read() == b"two\n"


async def test_definitions_are_served_and_fixed(api: Api) -> None:
    """The CRD files can be read as CustomResourceDefinitions, Established; they can't be written through REST."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    crd = await api.ok("GET", f"{path}/widgets.example.dev")
    assert {each["type"]: each["status"] for each in crd["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert (await api("DELETE", f"{path}/widgets.example.dev"))[0] == 405


async def test_discovery_old_and_aggregated_agree(api: Api) -> None:
    """Both shapes name the same resources with the same short names."""
    old = await api.ok("GET", "/apis/example.dev/v1")
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    _, new = await api("GET", "/apis", Accept=accept)
    group = next(item for item in new["items"] if item["metadata"].get("name") == "example.dev")
    resource = group["versions"][0]["resources"][0]
    assert (resource["resource"], resource["shortNames"]) == ("widgets", ["wd"])
    assert [each["name"] for each in old["resources"]] == ["widgets", "widgets/status"]
    assert [each["subresource"] for each in resource["subresources"]] == ["status"]
    groups = await api.ok("GET", "/apis")
    assert {item["metadata"].get("name") for item in new["items"]} == {each["name"] for each in groups["groups"]}
    assert (await api.ok("GET", "/api"))["versions"] == ["v1"]
    assert (await api.ok("GET", "/apis/example.dev"))["preferredVersion"]["version"] == "v1"


async def test_whoever_asks_may_do_everything(api: Api) -> None:
    """Access reviews say what the token means."""
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert (await api.ok("POST", path, {"spec": {}}))["status"] == {"allowed": True}


def _id(plural: str) -> Any:
    return ResourceId("", plural)
