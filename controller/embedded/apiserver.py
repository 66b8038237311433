"""Kubernetes' REST over the store: verbs, authentication, answers, upkeep. HTTP ends here.

Theory of operation
-------------------
One aiohttp application on the event loop of the control process, TLS with a certificate of our own CA, on loopback
only. Whoever lacks the bearer token gets 401: this server can start processes. `requests` takes a request apart,
`operations` does what it asks, `views` shows the result, `watches` follows. Every refusal is an `ApiError` that becomes
a Status object in one place.

Upkeep between requests: garbage collection in batches of `_GC_BATCH`, checkpoints of the write-ahead log in a thread,
Events older than an hour (each namespace keeps a thousand of them at most).

A store that can't be written (the disk is full) costs the writes and nothing else: reads and watches go on, each write
is answered with the reason, and the log has a line when it begins and one when it is over, for the controllers try
again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from aiohttp import web

from controller.embedded import discovery, openapi, protobuf, status, views
from controller.embedded.credentials import USER
from controller.embedded.garbage import GarbageCollector
from controller.embedded.operations import Operations, Written
from controller.embedded.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH
from controller.embedded.requests import (
    APPLY_PATCH,
    BODY_LIMIT,
    Call,
    container_of,
    delete_options,
    is_in_scope,
    number,
    object_body,
    parse_path,
    patch_body,
    patch_type,
    since_seconds,
)
from controller.embedded.resources import Registry, Resource, registry
from controller.embedded.watches import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.embedded.admission import WriteRules
    from controller.embedded.credentials import Credentials
    from controller.embedded.store import Store

KEEP_ALIVE = 75.0
EVENT_AGE = timedelta(hours=1)
_UPKEEP_INTERVAL = 60.0
_GC_BATCH = 50
_CHECKPOINT_AGAIN = 1.0
"""Seconds until the next try, where a checkpoint was overtaken by writes."""
_SHUTDOWN_TIMEOUT = 2.0

_JSON = "application/json"
_OPENAPI_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})

logger = logging.getLogger(__name__)


class LogError(Exception):
    """A container's log can't be read; the text is for the user (`container "x" is waiting to start`)."""


class LogProvider(Protocol):
    """Who has the logs: the node agent."""

    async def open(
        self,
        pod: JsonObject,
        container: str,
        *,
        follow: bool,
        tail_lines: int | None,
        previous: bool,
        since_seconds: int | None,
        timestamps: bool,
        limit_bytes: int | None,
    ) -> AsyncIterator[bytes]:
        """The log's bytes in chunks. Raises LogError before the first of them."""
        ...


class ApiServer:
    """The server. `crds` are CustomResourceDefinition objects. Raises DefinitionError for one it can't serve."""

    def __init__(
        self,
        store: Store,
        credentials: Credentials,
        crds: Sequence[JsonObject],
        admission: WriteRules,
        log_provider: LogProvider,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._registry = registry(crds)
        self._operations = Operations(store, self._registry, admission, lambda: datetime.now(UTC))
        self._operations.bootstrap(crds, USER)
        self._logs = log_provider
        self._documents = _Documents(self._registry)
        self._background: set[asyncio.Task[None]] = set()
        self._followers: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._store_fails = False
        self._runner: web.ServerRunner | None = None
        self._collector: GarbageCollector | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listens and returns the URL. Raises OSError if the port can't be had."""
        # No web.Application: one handler takes every path, and router, match_info and signals cost each request.
        server = web.Server(
            self._answer,
            request_factory=_request,
            access_log=None,
            handler_cancellation=True,  # a watcher that leaves frees its queue at once
            keepalive_timeout=KEEP_ALIVE,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_TIMEOUT)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self._credentials.server_context(), reuse_address=True)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._collector = GarbageCollector(self._operations, self._collect_soon)
        self._collect_soon()
        self._spawn(self._upkeep(), "apiserver upkeep")
        bound = self._runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        return f"https://{shown}:{bound[1]}"

    async def stop(self) -> None:
        """Ends the watches and followed logs, then the listener. The store stays open; it is the caller's."""
        self._stopping = True
        self._store.end_subscriptions()
        for task in (*self._background, *self._followers):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s ended", task.get_name(), exc_info=task.exception())

    def _collect_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._collect)

    def _collect(self) -> None:
        assert self._collector is not None
        try:
            for _ in range(_GC_BATCH):
                if self._stopping or not self._collector.step():
                    return
        except sqlite3.Error as error:
            self._store_failed(error)
            asyncio.get_running_loop().call_later(_UPKEEP_INTERVAL, self._collect)
            return
        self._collect_soon()

    async def _upkeep(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP_INTERVAL)
            try:
                self._operations.expire_events(EVENT_AGE)
            except sqlite3.Error as error:
                self._store_failed(error)

    def _after_write(self) -> None:
        if self._store_fails:
            self._store_fails = False
            logger.warning("the store can be written again")
        if self._store.wants_checkpoint() and not any(t.get_name() == "checkpoint" for t in self._background):
            self._spawn(self._checkpoint(), "checkpoint")

    async def _checkpoint(self) -> None:
        try:
            while True:
                if await asyncio.to_thread(self._store.checkpoint):
                    return
                await asyncio.sleep(_CHECKPOINT_AGAIN)
        except sqlite3.Error as error:  # nothing is lost: the write-ahead log has it, and grows until the next one
            self._store_failed(error)

    def _store_failed(self, error: sqlite3.Error) -> None:
        if not self._store_fails:
            self._store_fails = True
            logger.error("the store can't be written: %s", error)

    # --- one request --------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._respond(request)
        except status.ApiError as error:
            return _status_response(error)
        except web.HTTPRequestEntityTooLarge:
            return _status_response(status.too_large(BODY_LIMIT))
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except (RecursionError, orjson.JSONEncodeError):
            # Only what a client sent can nest that deep or hold what JSON can't say (a YAML map with numbers as keys).
            return _status_response(status.bad_request("the object nests too deeply, or is not one that JSON can say"))
        except sqlite3.Error as error:
            self._store_failed(error)
            return _status_response(status.internal(f"the store can't be written: {error}"))
        except Exception:  # a bug of ours, of any kind, costs its request and not the server
            logger.exception("%s %s", request.method, request.path)
            return _status_response(status.internal("see the API server's log"))

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path in _OPEN_PATHS:
            return _fixed(path)
        self._authenticate(request)
        target = parse_path(path)
        if target is None:
            return self._describe(request, path)
        review = discovery.review(target.group, target.version, target.plural)
        if review is not None:
            return await _review(request, review)
        resource = self._registry.by_path(target.group, target.version, target.plural)
        if resource is None or not is_in_scope(resource, target):
            raise status.no_such_path()
        if target.subresource and target.subresource not in resource.subresources:
            raise status.no_such_subresource(resource.kind, target.subresource)
        call = Call(request, target, resource, request.query)
        response = await self._verb(call)
        if request.method != "GET":
            self._after_write()
        return response

    def _authenticate(self, request: web.BaseRequest) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._credentials.accepts(token.strip()):
            raise status.unauthorized()

    async def _verb(self, call: Call) -> web.StreamResponse:
        target, method = call.target, call.request.method
        if target.subresource == "scale":
            return await self._scale(call)
        if target.subresource == "log":
            return await self._log(call)
        match method, bool(target.name):
            case "GET", True:
                return self._get(call)
            case "GET", False:
                return await self._list_or_watch(call)
            case _ if "create" not in call.resource.verbs:
                raise status.method_not_allowed()
            case "POST", False if target.namespace or not call.resource.kind.namespaced:
                return await self._create(call)
            case "PUT", True:
                return await self._put(call)
            case "PATCH", True:
                return await self._patch(call)
            case "DELETE", True if not target.subresource:
                return await self._delete(call)
            case "DELETE", False:
                return await self._delete_collection(call)
            case _:
                raise status.method_not_allowed()

    # --- documents ----------------------------------------------------------------------------------------------------

    def _describe(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        if request.method != "GET":
            raise status.method_not_allowed()
        accept = request.headers.get("Accept", "")
        match path.strip("/").split("/"):
            case ["openapi", "v2"]:
                return self._documents.openapi_v2(accept)
            case ["openapi", "v3", *rest]:
                return self._documents.openapi_v3("/".join(rest))
            case ["api"] | ["apis"] as root:
                return _discovery_root(self._registry, accept, core=root == ["api"])
            case ["api", "v1"]:
                return _document(discovery.resource_list(self._registry, "", "v1"))
            case ["apis", group]:
                return _document(discovery.group(self._registry, group))
            case ["apis", group, version]:
                return _document(discovery.resource_list(self._registry, group, version))
            case _:
                raise status.no_such_path()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _get(self, call: Call) -> web.StreamResponse:
        stored = self._operations.get(call.resource, call.key)
        return _json(views.one(call.view(), call.resource, stored, datetime.now(UTC)))

    async def _list_or_watch(self, call: Call) -> web.StreamResponse:
        if call.query.get("watch") in ("true", "1"):
            return await self._watch(call)
        revision = number(call.query, "resourceVersion") or 0
        page = self._operations.find(
            call.resource,
            call.target.namespace,
            call.selector(),
            limit=number(call.query, "limit") or 0,
            continue_=call.query.get("continue", ""),
            revision=revision,
            exact=call.query.get("resourceVersionMatch") == "Exact",
        )
        return _json(views.page(call.view(), call.resource, page, datetime.now(UTC)))

    async def _watch(self, call: Call) -> web.StreamResponse:
        watch = Watch(call, self._store)
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        response.enable_chunked_encoding()
        try:
            await response.prepare(call.request)
            await watch.run(response)
            await response.write_eof()
        except ConnectionResetError:
            pass  # the watcher left
        finally:
            watch.close()
        return response

    async def _log(self, call: Call) -> web.StreamResponse:
        if call.request.method != "GET":
            raise status.method_not_allowed()
        pod = self._operations.get(call.resource, call.key).obj
        try:
            chunks = await self._logs.open(
                pod,
                container_of(pod, call.query.get("container", "")),
                follow=call.query.get("follow") in ("true", "1"),
                tail_lines=number(call.query, "tailLines"),
                previous=call.query.get("previous") in ("true", "1"),
                since_seconds=since_seconds(call.query),
                timestamps=call.query.get("timestamps") in ("true", "1"),
                limit_bytes=number(call.query, "limitBytes"),
            )
        except LogError as error:
            raise status.bad_request(str(error)) from None
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(call.request)
            await self._copy(chunks, response)
            await response.write_eof()
        return response

    async def _copy(self, chunks: AsyncIterator[bytes], response: web.StreamResponse) -> None:
        """Until the log ends, the client leaves, or the server stops, which ends a followed log as if it were over."""
        task = asyncio.current_task()
        assert task is not None
        self._followers.add(task)
        try:
            async for chunk in chunks:
                await response.write(chunk)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._followers.discard(task)
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _create(self, call: Call) -> web.StreamResponse:
        options, view = call.write_options(), call.view()
        body = await object_body(call.request)
        written = self._operations.create(call.resource, call.target.namespace or "", body, options)
        return _written(view, call.resource, written)

    async def _put(self, call: Call) -> web.StreamResponse:
        options, view = call.write_options(), call.view()
        body = await object_body(call.request)
        written = self._operations.update(call.resource, call.key, body, options, call.target.subresource)
        return _written(view, call.resource, written)

    async def _patch(self, call: Call) -> web.StreamResponse:
        content_type = patch_type(call.request, call.resource)
        options, view = call.write_options(), call.view()
        if content_type == APPLY_PATCH:
            if not call.query.get("fieldManager"):
                raise status.bad_request(
                    'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
                )
            body = await object_body(call.request)
            written = self._operations.apply(call.resource, call.key, body, options, call.target.subresource)
        else:
            changes = await patch_body(call.request, content_type)
            written = self._operations.patch(
                call.resource, call.key, content_type, changes, options, call.target.subresource
            )
        return _written(view, call.resource, written)

    async def _scale(self, call: Call) -> web.StreamResponse:
        match call.request.method:
            case "GET":
                return _json(orjson.dumps(self._operations.get_scale(call.resource, call.key)))
            case "PUT":
                options = call.write_options()
                body = await object_body(call.request)
                body.setdefault("metadata", {})
                return _json(orjson.dumps(self._operations.put_scale(call.resource, call.key, body, options)))
            case "PATCH":
                content_type = call.request.content_type
                if content_type not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH):
                    raise status.unsupported_media_type((JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH))
                options = call.write_options()
                changes = await patch_body(call.request, content_type)
                scale = self._operations.patch_scale(call.resource, call.key, content_type, changes, options)
                return _json(orjson.dumps(scale))
            case _:
                raise status.method_not_allowed()

    async def _delete(self, call: Call) -> web.StreamResponse:
        options = await delete_options(call)
        stored, gone = self._operations.delete(call.resource, call.key, options)
        if gone:
            answer = status.success(call.resource.kind, stored.key.name, stored.obj["metadata"]["uid"])
            return _json(orjson.dumps(answer))
        return _json(stored.body)

    async def _delete_collection(self, call: Call) -> web.StreamResponse:
        if call.resource.kind.namespaced and call.target.namespace is None:
            raise status.method_not_allowed()
        options = await delete_options(call)
        page = self._operations.delete_collection(call.resource, call.target.namespace, call.selector(), options)
        return _json(views.page(views.View(), call.resource, page, datetime.now(UTC)))


class _Documents:
    """OpenAPI, made at the first request for it (most runs never ask) and kept as bytes."""

    def __init__(self, served: Registry) -> None:
        self._served = tuple(served)
        self._v2: dict[str, bytes] = {}
        self._v3: dict[str, bytes] = {}

    def openapi_v2(self, accept: str) -> web.Response:
        if not self._v2:
            document = openapi.document_v2(self._served)
            self._v2 = {_JSON: orjson.dumps(document), _OPENAPI_PROTOBUF: openapi.protobuf_v2(document)}
        # kubectl asks for the protobuf form alone, and spells its media type with an @ (before 1.27) or a dot.
        content_type = _OPENAPI_PROTOBUF if accept.replace("@", ".").startswith(_OPENAPI_PROTOBUF) else _JSON
        return web.Response(body=self._v2[content_type], headers={"Content-Type": content_type})

    def openapi_v3(self, path: str) -> web.Response:
        if not self._v3:
            documents = openapi.documents_v3(self._served)
            self._v3 = {each: orjson.dumps(document) for each, document in documents.items()}
        if not path:
            return _json(orjson.dumps({"paths": {each: self._link(each) for each in self._v3}}))
        if path not in self._v3:
            raise status.no_such_path()
        return _json(self._v3[path])

    def _link(self, path: str) -> JsonObject:
        """Clients cache a document by the digest in its URL."""
        digest = hashlib.sha256(self._v3[path]).hexdigest()
        return {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}


def _request(message: Any, content: Any, protocol: Any, writer: Any, task: asyncio.Task[None]) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, content, protocol, writer, task, loop, client_max_size=BODY_LIMIT)


# --- responses --------------------------------------------------------------------------------------------------------


def _json(body: bytes, code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=code, headers={"Content-Type": "application/json", **(headers or {})})


def _document(found: JsonObject | None) -> web.Response:
    if found is None:
        raise status.no_such_path()
    return _json(orjson.dumps(found))


def _fixed(path: str) -> web.Response:
    if path == "/version":
        return _json(orjson.dumps(discovery.VERSION))
    return web.Response(text="ok")


def _status_response(error: status.ApiError) -> web.Response:
    return _json(orjson.dumps(error.status()), error.code)


def _written(view: views.View, resource: Resource, written: Written) -> web.Response:
    response = _json(views.one(view, resource, written.stored, datetime.now(UTC)), 201 if written.created else 200)
    for warning in written.warnings:
        quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


def _discovery_root(served: Registry, accept: str, *, core: bool) -> web.Response:
    for version in ("v2", "v2beta1"):
        if f"g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" in accept:
            content_type = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            body = orjson.dumps(discovery.aggregated(served, version, core=core))
            return web.Response(body=body, headers={"Content-Type": content_type})
    return _document(discovery.core_versions() if core else discovery.group_list(served))


async def _review(request: web.BaseRequest, kind: Kind) -> web.Response:
    """Whoever holds the token may do everything; reviews say so."""
    if request.method != "POST":
        raise status.method_not_allowed()
    body = {} if request.content_type == protobuf.MEDIA_TYPE else await object_body(request)
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    answers: dict[str, JsonObject] = {
        "SelfSubjectAccessReview": {"allowed": True},
        "SelfSubjectRulesReview": {
            "resourceRules": [everything],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": False,
        },
        "SelfSubjectReview": {"userInfo": {"username": USER, "groups": ["system:masters", "system:authenticated"]}},
    }
    answer = {
        "kind": kind.kind,
        "apiVersion": kind.api_version,
        "metadata": {"creationTimestamp": None},
        "spec": body.get("spec") or {},
        "status": answers[kind.kind],
    }
    return _json(orjson.dumps(answer), 201)
