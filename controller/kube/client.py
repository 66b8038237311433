"""One small client for any Kubernetes API server: a cluster's, or the embedded one.

Theory of operation
-------------------
kubernetes_asyncio reads the credentials (kubeconfig with certificates, tokens and exec plug-ins; a pod's service
account with its token refreshed from the file) into its `Configuration`. Requests go over an aiohttp session made from
that Configuration, as bytes through orjson: the generated models would cost more per object than all the rest of a
reconcile, and know nothing of custom resources. The session is ours and not the library's for two reasons. An idle
connection lives 60 s instead of 15 s, because a service woken after half a minute should not pay for TLS handshakes
on its way up (2–4 ms each). And proxies of the environment are not asked about a server on this machine.

The library is imported by whoever reads such credentials: it brings all of its models along, 38 MiB and a quarter of a
second of CPU, a third of what `zerogate up` needs to start, which has a token and a CA and nothing to read.

Every call is one request, bounded by `REQUEST_TIMEOUT` in total; streams (watch, log) have no total time-out, only the
one between two reads that the caller chooses. A 401 re-reads the credentials and tries once more, which is how expired
exec-plugin and file tokens are replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias
from urllib.parse import quote, urlsplit

import aiohttp
import orjson
import yaml

from controller.kube.errors import KubeError, Unauthorized, Unavailable, error_from
from gateway.contract import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject, Key

PatchBody: TypeAlias = "JsonObject | list[JsonObject]"
"""A merge or apply patch is an object, a JSON patch (RFC 6902) a list of operations."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"

REQUEST_TIMEOUT = 30.0
"""Seconds for a whole request; API servers end their own handlers after 60, controllers give one reconcile 30."""

CONNECT_TIMEOUT = 10.0
REQUESTS_AT_ONCE = 16
"""Requests under way; more wait for their turn. A hundred at once, as a burst of cold starts makes them, would open a
connection each: a TLS handshake costs both sides together as much as eight requests, and no answer comes sooner."""
KEEP_ALIVE = 60.0
"""Seconds an idle connection is kept. Below the 75 s after which common servers close it, so that a write does not
race with that close."""

USER_AGENT = "zerogate"
"""Its first word is also the field manager that the server records for our writes."""


class Kube(Protocol):
    """What controllers and agents ask of an API server. Every method raises KubeError and its subclasses."""

    async def get(self, kind: Kind, key: Key) -> JsonObject:
        """One object. Raises NotFound."""

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
    ) -> JsonObject:
        """One page of a List object; `limit` 0 asks for all at once. Gone when `continue_` has expired."""
        ...

    async def create(self, kind: Kind, obj: JsonObject, *, strict: bool = False) -> JsonObject:
        """Creates an object; `strict` has unknown and duplicate fields refused instead of dropped."""
        ...

    async def update(self, kind: Kind, obj: JsonObject, *, subresource: str = "") -> JsonObject:
        """Replaces a whole object, `status` or `scale` with `subresource`. Raises Conflict when its resourceVersion is
        no longer the current one, NotFound, Invalid."""

    async def patch(
        self,
        kind: Kind,
        key: Key,
        body: PatchBody,
        *,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
        field_manager: str = "",
        force: bool = False,
        strict: bool = False,
    ) -> JsonObject:
        """Changes a part of an object; `content_type` says what `body` is. APPLY_PATCH makes the object where it is not
        there and needs a `field_manager`; `force` takes the fields of others, else they are a Conflict. `strict` as for
        `create`."""

    async def delete(
        self,
        kind: Kind,
        key: Key,
        *,
        uid: str = "",
        grace_period: int | None = None,
    ) -> JsonObject:
        """Deletes one object. `uid` restricts it to that incarnation; `grace_period` in seconds."""
        ...

    def stream(
        self,
        kind: Kind,
        key: Key,
        *,
        subresource: str = "",
        query: Mapping[str, str],
        read_timeout: float | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The body of a GET as it arrives, in chunks cut anywhere. `Key("", "")` is the collection over all namespaces,
        `Key(ns, "")` the one of a namespace. `read_timeout`: seconds between two chunks, None for no limit; when it
        passes, or the connection breaks, Unavailable is raised."""
        ...


class Configuration(Protocol):
    """What is asked of kubernetes_asyncio's Configuration, by its names: files are paths, None where there is none."""

    host: str
    ssl_ca_cert: str | None
    cert_file: str | None
    key_file: str | None
    verify_ssl: bool
    disable_strict_ssl_verification: bool
    tls_server_name: str | None
    proxy: str | None
    proxy_headers: dict[str, str] | None

    async def auth_settings(self) -> dict[str, dict[str, Any]]:
        """`BearerToken`, if there is one, with the field's `value`; it may be read anew each time."""
        ...


@dataclass(slots=True)
class TokenConfiguration:
    """A server that is known by its URL, the PEM file of its CA, and a bearer token ("" for none)."""

    host: str
    token: str = ""
    ssl_ca_cert: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify_ssl: bool = True
    disable_strict_ssl_verification: bool = False
    tls_server_name: str | None = None
    proxy: str | None = None
    proxy_headers: dict[str, str] | None = None

    async def auth_settings(self) -> dict[str, dict[str, Any]]:
        return {"BearerToken": {"value": f"Bearer {self.token}"}} if self.token else {}


class KubeClient:
    """`Kube` over HTTP. Make it inside a running loop and close it (`async with`)."""

    def __init__(self, configuration: Configuration, reload: Callable[[], Awaitable[None]] | None = None) -> None:
        """`reload` reads the configuration's credentials anew."""
        self._configuration = configuration
        self._reload = reload
        self._reloading = asyncio.Lock()
        self._host = str(configuration.host).rstrip("/")
        tls = _ssl_context(configuration) if self._host.startswith("https:") else False
        self._session = self._pool(tls, REQUESTS_AT_ONCE)
        # Watches and followed logs hold a connection each; the callers bound their own number.
        self._streams = self._pool(tls, 0)

    def _pool(self, tls: ssl.SSLContext | bool, limit: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=limit, keepalive_timeout=KEEP_ALIVE),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            trust_env=not is_loopback(urlsplit(self._host).hostname or ""),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
        )

    @classmethod
    async def from_kubeconfig(cls, path: str | None = None) -> Self:
        """From a kubeconfig file (default: $KUBECONFIG, then ~/.kube/config). Raises Unavailable if it is unusable."""
        from kubernetes_asyncio import client
        from kubernetes_asyncio import config as kube_config

        configuration = client.Configuration()

        async def load() -> None:
            await kube_config.load_kube_config(path, client_configuration=configuration, persist_config=False)

        where = path or kube_config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION
        try:
            await load()
            return cls(configuration, load)  # which reads the certificates it names
        except (kube_config.ConfigException, OSError, ValueError) as error:
            raise Unavailable(0, "", f"can't use the kubeconfig {where}: {error}") from error
        except (AssertionError, TypeError, AttributeError, yaml.YAMLError) as error:  # so the library takes other files
            raise Unavailable(0, "", f"can't use the kubeconfig {where}: it is not one") from error

    @classmethod
    def in_cluster(cls) -> Self:
        """With the service account of the pod this process runs in. Raises Unavailable outside of a cluster."""
        from kubernetes_asyncio import client
        from kubernetes_asyncio import config as kube_config

        configuration = client.Configuration()
        try:
            kube_config.load_incluster_config(configuration)
        except kube_config.ConfigException as error:
            raise Unavailable(0, "", f"not inside a cluster: {error}") from error
        return cls(configuration)

    @classmethod
    def from_token(cls, url: str, token: str = "", ca: Path | None = None) -> Self:
        """With a bearer token; `ca` is the PEM file of the CA that signed the server's certificate."""
        return cls(TokenConfiguration(url, token, str(ca) if ca else None))

    async def close(self) -> None:
        """Close every connection, of watches too."""
        await self._session.close()
        await self._streams.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- Kube ---------------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, key: Key) -> JsonObject:
        return await self._json("GET", path_of(kind, key))

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
    ) -> JsonObject:
        query = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "limit": str(limit) if limit else "",
            "continue": continue_,
        }
        return await self._json("GET", collection_path(kind, namespace or ""), query)

    async def create(self, kind: Kind, obj: JsonObject, *, strict: bool = False) -> JsonObject:
        path = collection_path(kind, obj["metadata"].get("namespace", ""))
        query = {"fieldValidation": "Strict" if strict else ""}
        return await self._json("POST", path, query, obj)

    async def update(self, kind: Kind, obj: JsonObject, *, subresource: str = "") -> JsonObject:
        meta = obj["metadata"]
        path = object_path(kind, meta.get("namespace", ""), meta["name"], subresource)
        return await self._json("PUT", path, None, obj)

    async def patch(
        self,
        kind: Kind,
        key: Key,
        body: PatchBody,
        *,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
        field_manager: str = "",
        force: bool = False,
        strict: bool = False,
    ) -> JsonObject:
        query = {
            "fieldManager": field_manager,
            "force": "true" if force else "",
            "fieldValidation": "Strict" if strict else "",
        }
        return await self._json("PATCH", path_of(kind, key, subresource), query, body, content_type)

    async def delete(
        self,
        kind: Kind,
        key: Key,
        *,
        uid: str = "",
        grace_period: int | None = None,
    ) -> JsonObject:
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_period is not None:
            options["gracePeriodSeconds"] = grace_period
        return await self._json("DELETE", path_of(kind, key), None, options)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        kind: Kind,
        key: Key,
        *,
        subresource: str = "",
        query: Mapping[str, str],
        read_timeout: float | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        path = path_of(kind, key, subresource) if key.name else collection_path(kind, key.namespace)
        # aiohttp's session time-out would end every watch after REQUEST_TIMEOUT; a stream has only a read time-out.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=read_timeout)
        response = await self._send("GET", path, query, None, {}, timeout)
        try:
            yield _chunks(response)
        finally:
            response.close()

    async def table(self, kind: Kind, key: Key, *, label_selector: str = "") -> JsonObject:
        """What `kubectl get` prints: a meta.k8s.io/v1 Table of one object, or of a collection as for `stream`."""
        path = path_of(kind, key) if key.name else collection_path(kind, key.namespace)
        return _object(await self.request("GET", path, {"labelSelector": label_selector}, accept=TABLE), path)

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "",
    ) -> bytes:
        """Any other request (discovery, /healthz): the body of a successful answer."""
        headers = {"Content-Type": content_type} if body is not None else {}
        if accept:
            headers["Accept"] = accept
        response = await self._send(method, path, query or {}, body, headers, None)
        with _connection_errors(self._host):
            return await response.read()

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: PatchBody | None = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        sent = None if body is None else orjson.dumps(body)
        return _object(await self.request(method, path, query, sent, content_type), path)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout | None,
    ) -> aiohttp.ClientResponse:
        try:
            return await self._send_once(method, path, query, body, headers, timeout)
        except Unauthorized:
            if self._reload is None:
                raise
            async with self._reloading:
                await self._reload()
            return await self._send_once(method, path, query, body, headers, timeout)

    async def _send_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout | None,
    ) -> aiohttp.ClientResponse:
        """The response with its body unread; a stream's has a `timeout` of its own. Raises KubeError for any status
        from 300 on."""
        session = self._session if timeout is None else self._streams
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        with _connection_errors(self._host):
            response = await session.request(
                method,
                self._host + path,
                params={name: value for name, value in query.items() if value},
                data=body,
                headers={**headers, **await self._credentials()},
                server_hostname=self._configuration.tls_server_name,
                proxy=self._configuration.proxy,
                proxy_headers=self._configuration.proxy_headers,
                allow_redirects=False,  # a credential must not follow a redirect to somewhere else
                **options,
            )
            if response.status < 300:
                return response
            async with response:
                raise error_from(response.status, await response.read())

    async def _credentials(self) -> dict[str, str]:
        settings = await self._configuration.auth_settings()
        token = settings.get("BearerToken")
        return {"Authorization": token["value"]} if token and token["value"] else {}


def _object(answer: bytes, path: str) -> JsonObject:
    try:
        parsed = orjson.loads(answer)
    except ValueError as error:
        raise Unavailable(0, "", f"the API server's answer to {path} is not JSON") from error
    if not isinstance(parsed, dict):
        raise Unavailable(0, "", f"the API server's answer to {path} is not an object")
    return parsed


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with _connection_errors(response.host):
        async for chunk in response.content.iter_any():
            yield chunk


@contextlib.contextmanager
def _connection_errors(host: str) -> Iterator[None]:
    try:
        yield
    except KubeError:
        raise
    except TimeoutError as error:
        raise Unavailable(0, "Timeout", f"the API server {host} did not answer in time") from error
    except aiohttp.ClientConnectorError as error:
        cause = error.os_error
        code = 0 if isinstance(cause, ssl.SSLError) else cause.errno or 0  # OpenSSL's and the resolver's are no errno
        why = os.strerror(code) if code > 0 else str(cause)
        raise Unavailable(0, "", f"can't reach the API server {host}: {why}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(0, "", f"can't reach the API server {host}: {error}") from error


def collection_path(kind: Kind, namespace: str = "") -> str:
    """`/apis/GROUP/VERSION[/namespaces/NS]/PLURAL`; namespace "" is all of them."""
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    within = f"/namespaces/{quote(namespace, safe='')}" if kind.namespaced and namespace else ""
    return f"{root}{within}/{kind.plural}"


def object_path(kind: Kind, namespace: str, name: str, subresource: str = "") -> str:
    """The path of one object, or of its subresource. The name is quoted: it may come from a person."""
    path = f"{collection_path(kind, namespace)}/{quote(name, safe='')}"
    return f"{path}/{subresource}" if subresource else path


def path_of(kind: Kind, key: Key, subresource: str = "") -> str:
    """`object_path` by key."""
    return object_path(kind, key.namespace, key.name, subresource)


def _ssl_context(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
