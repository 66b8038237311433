"""Small API servers: one that answers exactly what a test scripts, one that stores objects and lets tests break it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def serve():
    """`await serve(handler)` → base URL of a server that gives every request to `handler`."""
    servers = []

    async def start(handler: Handler) -> str:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return str(server.make_url("")).rstrip("/")

    yield start
    for server in servers:
        await server.close()


class MiniApi:
    """Objects by collection path; resourceVersion, 409, status subresource, merge patch, watch. `refuse` maps
    (method, path) to answers given instead, each once; `hold` delays watch events until it is set."""

    def __init__(self):
        self.objects, self.log, self.version = {}, [], 0
        self.requests, self.refuse = [], {}
        self.changed = asyncio.Condition()
        self.released = asyncio.Event()
        self.released.set()

    def writes(self, *, events=False):
        return [(m, p) for m, p in self.requests if m != "GET" and (events or "/events" not in p)]

    def named(self, name, plural):
        return next((o for (p, n), o in self.objects.items() if n == name and p.endswith(plural)), None)

    async def put(self, collection, obj):
        """As if another client had written it."""
        known = (collection, obj["metadata"]["name"]) in self.objects
        return await self._store(collection, obj, "MODIFIED" if known else "ADDED")

    async def remove(self, collection, name):
        await self._store(collection, self.objects[collection, name], "DELETED")

    async def _store(self, collection, obj, event_type):
        self.version += 1
        meta = {"uid": f"uid-{self.version}", **obj["metadata"], "resourceVersion": str(self.version)}
        obj = {**obj, "metadata": meta}
        if event_type == "DELETED":
            del self.objects[collection, meta["name"]]
        else:
            self.objects[collection, meta["name"]] = obj
        async with self.changed:
            self.log.append((self.version, collection, event_type, obj))
            self.changed.notify_all()
        return obj

    async def handle(self, request):
        if request.query.get("watch") == "true":
            return await self._watch(request)
        self.requests.append((request.method, request.path))
        scripted = self.refuse.get((request.method, request.path))
        if scripted:
            body = {"kind": "Status", **scripted.pop(0)}
            return web.json_response(body, status=body["code"])
        return await self._crud(request)

    async def _crud(self, request):
        method, parts = request.method, request.path.split("/")
        subresource = parts.pop() if parts[-1] == "status" else ""
        plural_at = 6 if parts[1] == "apis" else 5
        if "namespaces" not in parts:
            plural_at -= 2
        collection, name = "/".join(parts[: plural_at + 1]), "/".join(parts[plural_at + 1 :])
        if method == "GET" and not name:
            plural = parts[-1]
            items = [o for (p, _), o in self.objects.items() if p == collection or self._covers(request.path, p)]
            return web.json_response(
                {"metadata": {"resourceVersion": str(self.version)}, "items": items, "kind": f"{plural}List"}
            )
        current = self.objects.get((collection, name))
        if method == "POST":
            obj = await request.json()
            if (collection, obj["metadata"]["name"]) in self.objects:
                return status(409, "AlreadyExists")
            return web.json_response(await self._store(collection, obj, "ADDED"))
        if current is None:
            return status(404, "NotFound")
        if method == "GET":
            return web.json_response(current)
        if method == "DELETE":
            return web.json_response(await self._store(collection, current, "DELETED"))
        if method == "PUT":
            obj = await request.json()
            if obj["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"]:
                return status(409, "Conflict")
            obj = {**current, "status": obj.get("status")} if subresource else obj
            return web.json_response(await self._store(collection, obj, "MODIFIED"))
        patched = {**current, **(await request.json())}
        patched["metadata"] = current["metadata"]
        return web.json_response(await self._store(collection, patched, "MODIFIED"))

    @staticmethod
    def _covers(path, collection):
        """All namespaces' collection covers each namespace's."""
        root, _, plural = path.rpartition("/")
        return collection.startswith(f"{root}/namespaces/") and collection.endswith(f"/{plural}")

    async def _watch(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        position = int(request.query["resourceVersion"])
        with contextlib.suppress(ConnectionError):
            while True:
                await self.released.wait()
                for version, collection, event_type, obj in self.log[:]:
                    if version > position and (collection == request.path or self._covers(request.path, collection)):
                        await response.write(orjson.dumps({"type": event_type, "object": obj}) + b"\n")
                    position = max(position, version)
                async with self.changed:
                    await self.changed.wait_for(lambda at=position: self.version > at)
        return response


def status(code, reason):
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": reason}, status=code)


@pytest.fixture
async def mini(serve):
    """(MiniApi, its URL)"""
    api = MiniApi()
    return api, await serve(api.handle)
