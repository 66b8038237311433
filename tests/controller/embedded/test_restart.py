"""What a second start of the server finds, and what a client is told that comes back late."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from controller.apis.meta import Key
from controller.embedded.apiserver import ApiServer
from controller.embedded.resources import ResourceId
from controller.embedded.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from controller.embedded.credentials import Credentials

MAPS = "/api/v1/namespaces/default/configmaps"
CONFIG_MAPS = ResourceId("", "configmaps")


class NoRules:
    def mutate(self, obj: dict[str, Any], old: dict[str, Any] | None, user: str) -> dict[str, Any]:
        return obj

    def check(self, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        return None


class NoLogs:
    async def open(self, pod: dict[str, Any], container: str, **options: Any) -> AsyncIterator[bytes]:
        raise AssertionError


@asynccontextmanager
async def serving(store: Store, credentials: Credentials, crds: list[dict[str, Any]]) -> AsyncIterator[Any]:
    server = ApiServer(store, credentials, crds, NoRules(), NoLogs())
    url = await server.start()
    headers = {"Authorization": f"Bearer {credentials.token}"}
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=credentials.ca))
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        yield session
    await server.stop()


async def test_objects_and_definitions_are_as_the_files_and_the_last_run_say(
    tmp_path: Path, shared_credentials: Credentials, widget_crd: dict[str, Any]
) -> None:
    """Objects are there again. Definitions follow the files: changed with them, gone with them."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    store = Store(tmp_path)
    async with (
        serving(store, shared_credentials, [widget_crd]) as session,
        session.post(MAPS, json={"metadata": {"name": "kept"}}) as response,
    ):
        assert response.status == 201
        kept = await response.json()
    store.close()
    names = {**widget_crd["spec"]["names"], "shortNames": ["wdg"]}
    changed = {**widget_crd, "spec": {**widget_crd["spec"], "names": names}}
    store = Store(tmp_path)
    async with serving(store, shared_credentials, [changed]) as session:
        async with session.get(f"{MAPS}/kept") as response:
            assert await response.json() == kept
        async with session.get(f"{definitions}/widgets.example.dev") as response:
            assert (await response.json())["spec"]["names"]["shortNames"] == ["wdg"]
    store.close()
    store = Store(tmp_path)
    async with serving(store, shared_credentials, []) as session, session.get(definitions) as response:
        assert (await response.json())["items"] == []
    store.close()


async def test_garbage_of_a_killed_run_is_collected(tmp_path: Path, shared_credentials: Credentials) -> None:
    """An owner was deleted and the process killed before its dependents were: the next start deletes them."""
    store = Store(tmp_path)
    ref = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "gone"}
    orphan = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "left", "namespace": "default", "uid": "1", "ownerReferences": [ref]},
    }
    store.put(CONFIG_MAPS, Key("default", "left"), orphan)
    async with serving(store, shared_credentials, []) as session:
        for _ in range(10):
            async with session.get(f"{MAPS}/left") as response:
                if response.status == 404:
                    break
        assert response.status == 404
    store.close()


async def test_history_that_is_gone_is_410_before_the_watch_begins(
    tmp_path: Path, shared_credentials: Credentials
) -> None:
    """A watch or a continued list from before the compaction is told to list again, as an HTTP status."""
    store = Store(tmp_path, history=5)
    async with serving(store, shared_credentials, []) as session:
        for name in "abc":
            await session.post(MAPS, json={"metadata": {"name": name}})
        async with session.get(MAPS, params={"limit": "1"}) as response:
            token = (await response.json())["metadata"]["continue"]
        for number in range(20):
            await session.post(MAPS, json={"metadata": {"name": f"n{number}"}})
        async with session.get(MAPS, params={"watch": "1", "resourceVersion": "2"}) as response:
            body = await response.json()
            assert (response.status, body["reason"], body["code"]) == (410, "Expired", 410)
        async with session.get(MAPS, params={"continue": token}) as response:
            assert (response.status, (await response.json())["reason"]) == (410, "Expired")
    store.close()


async def test_stopping_ends_the_watches(tmp_path: Path, shared_credentials: Credentials) -> None:
    """A watcher sees the end of its response, not a broken connection."""
    store = Store(tmp_path)
    server = ApiServer(store, shared_credentials, [], NoRules(), NoLogs())
    url = await server.start()
    headers = {"Authorization": f"Bearer {shared_credentials.token}"}
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=shared_credentials.ca))
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        watching = await session.get(MAPS, params={"watch": "1"})
        await server.stop()
        assert await watching.read() == b""
    store.close()
