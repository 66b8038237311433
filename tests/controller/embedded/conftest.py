"""An API server on a real socket with a small custom resource, and clients for it."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from controller.embedded.apiserver import ApiServer, LogError
from controller.embedded.credentials import Credentials, load_or_create
from controller.embedded.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

JsonObject = dict[str, Any]

WIDGET_CRD: JsonObject = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.dev"},
    "spec": {
        "group": "example.dev",
        "scope": "Namespaced",
        "names": {
            "kind": "Widget",
            "plural": "widgets",
            "singular": "widget",
            "shortNames": ["wd"],
            "categories": ["all", "gadgets"],
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "description": "A thing to test with.",
                        "properties": {
                            "apiVersion": {"type": "string"},
                            "kind": {"type": "string"},
                            "metadata": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "minimum": 0, "description": "How big it is."},
                                    "colour": {"type": "string", "default": "grey"},
                                    "parts": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["name"],
                                        "items": {
                                            "type": "object",
                                            "required": ["name"],
                                            "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                                        },
                                    },
                                },
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


class NoRules:
    """Lets every object pass as it is."""

    def mutate(self, obj: JsonObject, old: JsonObject | None, user: str) -> JsonObject:
        return obj

    def check(self, obj: JsonObject, old: JsonObject | None) -> None:
        return None


class Logs:
    """Two lines for every container, except one that isn't there yet."""

    async def open(self, pod: JsonObject, container: str, **options: Any) -> AsyncIterator[bytes]:
        if container == "late":
            raise LogError(
                f'container "late" in pod "{pod["metadata"]["name"]}" is waiting to start: ContainerCreating'
            )
        lines = [b"one\n", b"two\n"][-options["tail_lines"] if options["tail_lines"] else 0 :]

        async def chunks() -> AsyncIterator[bytes]:
            for line in lines:
                yield line
            if options["follow"]:
                await asyncio.Event().wait()

        return chunks()


@dataclass
class Api:
    """A client that holds the credential; answers are (code, parsed body)."""

    url: str
    credentials: Credentials
    session: aiohttp.ClientSession
    store: Store
    server: ApiServer
    warnings: list[str] = field(default_factory=list)

    async def __call__(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **headers: str
    ) -> tuple[int, Any]:
        raw = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        data = None if raw is None else io.BytesIO(raw)
        sent = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.request(method, self.url + path, data=data, headers=sent) as response:
            self.warnings = response.headers.getall("Warning", [])
            answer = await response.read()
            return response.status, orjson.loads(answer) if answer[:1] in (b"{", b"[") else answer.decode()

    async def ok(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        code, answer = await self(method, path, body, content_type)
        assert code in (200, 201), answer
        return answer

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(10):
            while not await condition():  # noqa: ASYNC110 - asks another task's work, which sets no event
                await asyncio.sleep(0)

    async def watch(self, path: str) -> Watching:
        response = await self.session.get(self.url + path)
        return Watching(response)


@dataclass
class Watching:
    response: aiohttp.ClientResponse

    async def next(self) -> tuple[str, JsonObject]:
        line = await self.response.content.readline()
        assert line, "the watch ended"
        event = orjson.loads(line)
        return event["type"], event["object"]

    async def names(self, count: int) -> list[tuple[str, str]]:
        events = [await self.next() for _ in range(count)]
        return [(type_, obj["metadata"]["name"]) for type_, obj in events]

    def close(self) -> None:
        self.response.close()


@pytest.fixture(scope="session")
def shared_credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return load_or_create(tmp_path_factory.mktemp("credentials"), datetime.now(UTC))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
async def api(store: Store, shared_credentials: Credentials) -> AsyncIterator[Api]:
    server = ApiServer(store, shared_credentials, [WIDGET_CRD], NoRules(), Logs())
    url = await server.start()
    session = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {shared_credentials.token}"},
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=shared_credentials.ca)),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=20),
    )
    async with session:
        yield Api(url, shared_credentials, session, store, server)
    await server.stop()


@pytest.fixture
def widget_crd() -> JsonObject:
    return WIDGET_CRD


def _kubectls() -> list[str]:
    found = [shutil.which("kubectl"), os.environ.get("ZEROGATE_KUBECTL_120") or shutil.which("kubectl-1.20")]
    return [each for each in found if each]


@pytest.fixture(params=_kubectls() or [pytest.param("", marks=pytest.mark.skip("no kubectl on this machine"))])
def kubectl_binary(request: pytest.FixtureRequest) -> str:
    return str(request.param)
