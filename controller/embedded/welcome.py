"""What `zerogate up` does once everything runs: applies the user's manifests, waits for them, and says what to try."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from controller.apis import conditions, kinds
from controller.apis.meta import Key, key_of
from controller.kube.errors import KubeError
from controller.manifests import ManifestError, apply_manifest
from controller.paths import default_data_dir, kubeconfig_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.apis.meta import JsonObject
    from controller.assembly import ControlPlane
    from controller.kube.client import Kube
    from controller.manifests import Manifest

_SETTLED_WITHIN = 10.0
"""Seconds to wait for the services to be Ready or to have failed, before the summary is printed as things stand."""
_NAMESPACE = "default"


def tell(text: str) -> None:
    """Print to who started us. That nobody reads any more (`zerogate up | head`) is no reason to stop."""
    try:
        print(text, flush=True)
    except OSError:  # what is buffered would fail again at the exit, and be its status
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Refused(Exception):
    """The API server did not take a manifest; the text says which and why."""


class Tls(NamedTuple):
    """Services answer over TLS on `port` of this machine; `ca` is whom clients have to trust for it, None where that is
    not for us to say."""

    port: int
    ca: Path | None


class Welcome:
    """`run` once the control plane and the gateway have been started."""

    def __init__(
        self,
        kube: Kube,
        plane: ControlPlane,
        manifests: Sequence[Manifest],
        kubeconfig: Path,
        port: int,
        tls: Tls | None,
    ) -> None:
        self._kube = kube
        self._plane = plane
        self._manifests = manifests
        self._kubeconfig = kubeconfig
        self._port = port
        self._tls = tls
        self._changed = asyncio.Event()
        plane.runner.on_change(kinds.SERVICE, lambda _old, _new: self._changed.set())

    async def run(self) -> None:
        """Prints the summary. Raises Refused."""
        await self._plane.ready.wait()
        await self._plane.feed.serving.wait()
        applied = [await self._apply(manifest) for manifest in self._manifests]
        services = [key_of(obj) for obj in applied if (obj["apiVersion"], obj["kind"]) == _SERVICE]
        if not self._manifests:
            services = [key_of(obj) for obj in self._plane.runner.cache.list(kinds.SERVICE)]  # of an earlier life
        with contextlib.suppress(TimeoutError):  # the summary says how far each has come
            async with asyncio.timeout(_SETTLED_WITHIN):
                await self._settled(services)
        tell(self._summary(services))

    async def _apply(self, manifest: Manifest) -> JsonObject:
        try:
            # What is in the file is what is to be: an earlier start, or kubectl, may have set the same fields.
            return await apply_manifest(self._kube, manifest, _NAMESPACE, force=True)
        except (KubeError, ManifestError) as error:
            raise Refused(f"{manifest.source}: {error}") from error

    async def _settled(self, services: list[Key]) -> None:
        while True:
            self._changed.clear()
            found = [self._plane.runner.cache.get(kinds.SERVICE, key) for key in services]
            if all(obj is not None and (conditions.is_ready(obj) or conditions.is_failed(obj)) for obj in found):
                return
            await self._changed.wait()

    def _summary(self, services: list[Key]) -> str:
        cache = self._plane.runner.cache
        found = [obj for key in services if (obj := cache.get(kinds.SERVICE, key)) is not None]
        width = max((len(key_of(obj).name) for obj in found), default=0)
        lines = ["zerogate is up.", ""]
        lines += [f"  {key_of(obj).name:<{width}}  {_url(obj)}  {_state(obj)}" for obj in found]
        lines += ["", "Try:", *(f"  {line}" for line in self._try(found)), "", "Ctrl-C stops everything."]
        return "\n".join(lines)

    def _try(self, services: list[JsonObject]) -> list[str]:
        url = next((_url(obj) for obj in services if conditions.is_ready(obj)), None)
        usual = self._kubeconfig == kubeconfig_path(default_data_dir())
        kubeconfig = quote(str(self._kubeconfig))
        option = "" if usual else f" --kubeconfig {kubeconfig}"
        name = key_of(services[0]).name if services else "NAME"
        return [
            *(self._curls(url) if url else ["zerogate apply -f deploy/examples/hello.yaml" + option]),
            f"zerogate get ksvc{option}",
            f"zerogate logs {name} -f{option}",
            f"export KUBECONFIG={kubeconfig}; kubectl get ksvc",
        ]

    def _curls(self, url: str) -> list[str]:
        """Lines that work, plain and over TLS."""
        host = urlsplit(url).hostname or ""
        lines = [_curl(host, self._port)]
        if self._tls is not None:
            lines.append(_curl_over_tls(host, *self._tls))
        return lines


_SERVICE = (kinds.SERVICE.api_version, kinds.SERVICE.kind)


def _url(service: JsonObject) -> str:
    return str((service.get("status") or {}).get("url", ""))


def _curl(host: str, port: int) -> str:
    """curl resolves *.localhost by itself, any other domain has to be told."""
    at = "" if port == 80 else f":{port}"
    if host.endswith(".localhost"):
        return f"curl http://{host}{at}"
    return f"curl -H 'Host: {host}' http://127.0.0.1{at}"


def _curl_over_tls(host: str, port: int, ca: Path | None) -> str:
    at = "" if port == 443 else f":{port}"
    trust = "" if ca is None else f" --cacert {quote(str(ca))}"
    place = "" if host.endswith(".localhost") else f" --resolve {host}:{port}:127.0.0.1"
    return f"curl{trust}{place} https://{host}{at}"


def _state(service: JsonObject) -> str:
    ready = conditions.find(service, "Ready")
    if ready is None:
        return "not reconciled yet"
    return "Ready" if ready.status == conditions.TRUE else f"not ready: {ready.reason}: {ready.message}"
