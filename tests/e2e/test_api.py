"""The API server's promises on the wire, where no client stands between; Knative's own client `kn` by its requests."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import stat
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest

from tests.e2e.harness import APP, wait_for

if TYPE_CHECKING:
    from tests.e2e.api import Api, Reply
    from tests.e2e.harness import Platform

SERVING = "/apis/serving.knative.dev/v1/namespaces"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/namespaces/default/pods", "/apis", "/openapi/v2", "/nowhere"])
@pytest.mark.parametrize("credential", ["", "Bearer", "Bearer wrong", "Basic YTpi", "bearer {half}", "Bearer {token}x"])
def test_without_the_token_nothing_is_told(api: Api, path: str, credential: str) -> None:
    """No token, a wrong one or half of it: 401 for whatever is asked, for it can start processes."""
    given = credential.format(token=api.token, half=api.token[: len(api.token) // 2])
    reply = api.call("GET", path, fields={"Authorization": given})
    assert (reply.status, reply.reason) == (401, "Unauthorized")


def test_without_the_token_nothing_is_done(api: Api, namespace: str) -> None:
    """A write without a token is refused, and nothing of it happens."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    assert api.call("POST", path, config_map("sneaked"), {"Authorization": ""}).status == 401
    assert api.call("DELETE", f"/api/v1/namespaces/{namespace}", fields={"Authorization": ""}).status == 401
    assert [item["metadata"]["name"] for item in api.get(path).json["items"]] == []


def test_only_tls_with_its_own_certificate(api: Api) -> None:
    """The certificate is signed by the kubeconfig's CA and by no other; plain HTTP is not spoken."""
    address = urlsplit(api.url)
    trusting_others = http.client.HTTPSConnection(str(address.hostname), address.port, timeout=10)
    with contextlib.closing(trusting_others), pytest.raises(ssl.SSLCertVerificationError):
        trusting_others.request("GET", "/readyz")
    plain = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    with contextlib.closing(plain):
        plain.request("GET", "/readyz")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()


def test_secrets_on_disk_are_the_owners(running: Platform) -> None:
    """The kubeconfig, and whatever else holds a key or token, is readable by its owner only."""
    assert stat.S_IMODE(running.kubeconfig.stat().st_mode) == 0o600
    assert stat.S_IMODE(running.data_dir.stat().st_mode) == 0o700
    token = running.kubeconfig.read_text().partition("token: ")[2].split()[0]
    for path in running.data_dir.rglob("*"):
        if path.is_file() and token.encode() in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_stale_version_is_a_conflict(api: Api, namespace: str) -> None:
    """Who read before somebody else wrote is told so: 409 for PUT, patch and delete; the object stays as it is."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    first = api.post(path, config_map("c", a="1")).json
    second = api.put(f"{path}/c", {**first, "data": {"a": "2"}})
    assert second.status == 200
    version = first["metadata"]["resourceVersion"]
    stale = [
        api.put(f"{path}/c", {**first, "data": {"a": "3"}}),
        api.patch(f"{path}/c", {"metadata": {"resourceVersion": version}, "data": {"a": "3"}}),
        api.delete(f"{path}/c", {"preconditions": {"resourceVersion": version}}),
        api.delete(f"{path}/c", {"preconditions": {"uid": "another"}}),
    ]
    assert [(reply.status, reply.reason) for reply in stale] == [(409, "Conflict")] * 4
    assert api.get(f"{path}/c").json == second.json
    assert api.post(path, config_map("c")).reason == "AlreadyExists"


def test_a_watch_goes_on_where_a_list_ended(api: Api, namespace: str) -> None:
    """List, then watch from its version: every change after it once, in order, and nothing from before."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    api.post(path, config_map("before"))
    version = api.get(path).json["metadata"]["resourceVersion"]
    api.post(path, config_map("c", a="1"))
    with api.watch(f"{path}?watch=true&resourceVersion={version}") as events:
        api.patch(f"{path}/c", {"data": {"a": "2"}})
        api.delete(f"{path}/c")
        seen = [next(events) for _ in range(3)]
    assert [(event["type"], event["object"]["data"]["a"]) for event in seen] == [
        ("ADDED", "1"),
        ("MODIFIED", "2"),
        ("DELETED", "2"),
    ]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
    assert versions == sorted(set(versions))


def test_history_that_is_gone_is_said_to_be(api: Api, namespace: str) -> None:
    """A watch or a list's next page from before compaction: 410 Expired, so that the client lists again."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    first = api.post(path, config_map("c", a="1")).json["metadata"]["resourceVersion"]
    api.post(path, config_map("d"))
    page = api.get(f"{path}?limit=1").json["metadata"]["continue"]
    for number in range(80):  # more than the 64 MiB of history that are kept
        assert api.patch(f"{path}/c", {"data": {"a": f"{number % 10}" * 1_000_000}}).status == 200
    for query in (f"watch=true&resourceVersion={first}", f"limit=1&continue={quote(page)}"):
        reply = api.get(f"{path}?{query}")
        assert (reply.status, reply.reason) == (410, "Expired"), query
    assert len(api.get(path).json["items"]) == 2


# --- kn ---------------------------------------------------------------------------------------------------------------


class Kn:
    """What `kn` sends. Its objects pass through Go structs, which write out what is empty: null times, an empty name of
    the container, empty resources, an empty status."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.services = f"{SERVING}/{namespace}/services"

    def _manifest(self, name: str, target: str) -> dict[str, Any]:
        container = {
            "name": "",
            "image": "app",
            "command": [sys.executable, "-S", str(APP)],
            "env": [{"name": "TARGET", "value": target}],
            "resources": {},
        }
        annotations = {"client.knative.dev/updateTimestamp": "2026-01-01T00:00:00Z"}
        return {
            "kind": "Service",
            "apiVersion": "serving.knative.dev/v1",
            "metadata": {"name": name, "namespace": self.namespace, "creationTimestamp": None},
            "spec": {
                "template": {
                    "metadata": {"creationTimestamp": None, "annotations": annotations},
                    "spec": {"containers": [container], "enableServiceLinks": False},
                }
            },
            "status": {},
        }

    def create(self, name: str, target: str) -> dict[str, Any]:
        """`kn service create NAME`: is it there? make it, and watch it until it is Ready."""
        assert self.api.get(f"{self.services}/{name}").reason == "NotFound"
        created = self.api.post(f"{self.services}?fieldManager=kn", self._manifest(name, target))
        assert created.status == 201, created
        return self.ready(name, created.json)

    def ready(self, name: str, since: dict[str, Any]) -> dict[str, Any]:
        """The Service as it is when a watch from `since` first shows this generation Ready."""
        selector = quote(f"metadata.name={name}", safe="")
        version = since["metadata"]["resourceVersion"]
        path = f"{self.services}?fieldSelector={selector}&resourceVersion={version}&timeoutSeconds=30&watch=true"
        with self.api.watch(path) as events:
            for event in events:
                service: dict[str, Any] = event["object"]
                assert service["metadata"]["name"] == name, "the watch shows what it was asked for"
                status = service.get("status") or {}
                conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
                seen = status.get("observedGeneration") == service["metadata"]["generation"]
                if seen and conditions.get("Ready") == "True":
                    return service
        pytest.fail(f"{name} did not become Ready")

    def update(self, name: str, target: str) -> dict[str, Any]:
        """`kn service update NAME --env`: read, change, PUT; read again at a conflict, three times at most."""
        for _ in range(3):
            service = self.api.get(f"{self.services}/{name}").json
            service["spec"]["template"]["metadata"]["creationTimestamp"] = None
            (container,) = service["spec"]["template"]["spec"]["containers"]
            container["env"] = [{"name": "TARGET", "value": target}]
            reply = self.api.put(f"{self.services}/{name}", service)
            if reply.status != 409:
                assert reply.status == 200, reply
                return self.ready(name, reply.json)
        pytest.fail("three conflicts")

    def revisions(self, name: str) -> list[dict[str, Any]]:
        """`kn revision list -s NAME`."""
        selector = quote(f"serving.knative.dev/service={name}", safe="")
        found: list[dict[str, Any]] = self._items(f"{SERVING}/{self.namespace}/revisions?labelSelector={selector}")
        return found

    def _items(self, path: str) -> Any:
        reply = self.api.get(path)
        assert reply.status == 200, reply
        return reply.json["items"]

    def names(self, plural: str) -> list[str]:
        """`kn service list`, `kn route list`."""
        return [item["metadata"]["name"] for item in self._items(f"{SERVING}/{self.namespace}/{plural}")]

    def delete(self, name: str, propagation: str) -> Reply:
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        return self.api.delete(f"{self.services}/{name}", options)


def test_kn_create_update_list_delete(running: Platform, api: Api, namespace: str) -> None:
    """The life of a service as kn's user has it."""
    kn = Kn(api, namespace)
    created = kn.create("greeter", "one")
    host = urlsplit(created["status"]["url"]).hostname
    assert host == f"greeter.{namespace}.localhost"
    assert created["spec"]["template"]["spec"]["containers"][0]["name"] == "user-container"
    managers = {entry["manager"] for entry in created["metadata"]["managedFields"]}
    assert "kn" in managers

    updated = kn.update("greeter", "two")
    assert updated["status"]["latestReadyRevisionName"] == "greeter-00002"
    revisions = {item["metadata"]["name"]: item for item in kn.revisions("greeter")}
    assert list(revisions) == ["greeter-00001", "greeter-00002"]
    labels = revisions["greeter-00002"]["metadata"]["labels"]
    assert labels["serving.knative.dev/configurationGeneration"] == "2"
    assert (kn.names("services"), kn.names("routes")) == (["greeter"], ["greeter"])

    service = f"{kn.services}/greeter"
    stale = {**created, "spec": updated["spec"]}
    assert api.put(service, stale).status == 409, "kn's update retries on this"
    with api.watch(f"{kn.services}?fieldSelector=metadata.name%3Dgreeter&watch=true") as events:
        assert next(events)["type"] == "ADDED"
        assert kn.delete("greeter", "Background").status == 200
        assert next(event for event in events if event["type"] == "DELETED")
    wait_for("its revisions to go", lambda: not kn.revisions("greeter"))


def test_kn_delete_in_the_foreground(api: Api, namespace: str) -> None:
    """`kn service delete --wait`: the Service stays, being deleted, until all it owns is gone."""
    kn = Kn(api, namespace)
    kn.create("greeter", "one")
    with api.watch(f"{kn.services}?fieldSelector=metadata.name%3Dgreeter&watch=true") as events:
        reply = kn.delete("greeter", "Foreground")
        assert (reply.status, reply.json["metadata"]["finalizers"]) == (200, ["foregroundDeletion"])
        assert next(event for event in events if event["type"] == "DELETED")
    assert (kn.revisions("greeter"), kn.names("routes"), kn.names("configurations")) == ([], [], [])


def test_kn_splits_traffic(api: Api, namespace: str) -> None:
    """`kn service update --traffic --tag`: targets as Go writes them out, refused when they don't add up."""
    kn = Kn(api, namespace)
    service = kn.create("greeter", "one")
    service["spec"]["traffic"] = [
        {"tag": "stable", "revisionName": "greeter-00001", "latestRevision": False, "percent": 100},
        {"tag": "next", "latestRevision": True, "percent": 0},
    ]
    reply = api.put(f"{kn.services}/greeter", service)
    assert reply.status == 200, reply
    ready = kn.ready("greeter", reply.json)
    assert {target["tag"] for target in ready["status"]["traffic"]} == {"stable", "next"}
    ready["spec"]["traffic"][0]["percent"] = 99
    refused = api.put(f"{kn.services}/greeter", ready)
    assert refused.status == 400
    assert "Traffic targets sum to 99, want 100: spec.traffic" in refused.json["message"]
