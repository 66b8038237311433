"""From the runner's caches to the feed.

A change of a KIngress, Revision, EndpointSlice or TLS Secret marks the entry it belongs to; at the end of the same turn
of the loop the marked entries are compiled and published as one update. That is no delay for one change, and one
message for a hundred that arrive together. `drains` says which endpoints are to drain, and hears of every flush.
Nothing is published before the caches are filled.

Of pods only their beginnings are noted (`podtimes`); a change of a pod publishes nothing. Where the node agent is in
this process, an endpoint is told when the agent has started its pod, which is when `publish` is called: before, nothing
can listen there, and probing it would take the processor from the start. It comes with the moment of that start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from controller.apis import kinds, labels
from controller.apis.meta import Key, generation_of, key_of, labels_of, namespace_of, uid_of
from controller.bugs import BugLog
from controller.config.features import Gate
from controller.dataplane import certificates, compile
from controller.dataplane.podtimes import PodTimes
from controller.reconcile.children.services import private_service_name
from gateway.contract import CertificateId, Milestones, RevisionId, RouteId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from controller.apis.meta import JsonObject
    from controller.dataplane.drains import Drains
    from controller.dataplane.server import FeedServer
    from controller.kube.runner import Runner

HTTPS_PORT = 443

log = logging.getLogger(__name__)

KINDS = (kinds.INGRESS, kinds.REVISION, kinds.ENDPOINT_SLICE, kinds.SECRET, kinds.POD)
"""What the runner has to cache for the publisher."""

FIELD_SELECTORS = {kinds.SECRET: f"type={certificates.SECRET_TYPE}"}
"""Of these kinds only what the data plane needs: other people's Secrets are not to be in our memory."""


class Node(Protocol):
    """The node agent, asked about a pod of its machine by uid."""

    def is_starting(self, uid: str, /) -> bool:
        """Nothing of it was started so far; `Publisher.publish` is called when that changes."""

    def started(self, uid: str, /) -> float | None:
        """When the last of its containers was started, on the wall clock; None unless all run."""


class Publisher:
    """Make it before the runner runs, `run` it beside it."""

    def __init__(
        self,
        runner: Runner,
        server: FeedServer,
        drains: Drains,
        *,
        woken: Callable[[Key], float | None],
        node: Node | None,
    ) -> None:
        """`woken` says when the autoscaler last decided to scale a revision up from zero, on the wall clock. `node` is
        None where pods run elsewhere."""
        self._runner = runner
        self._server = server
        self._drains = drains
        self._woken = woken
        self._node = node
        self._pods = PodTimes()
        self._table = compile.Table()
        self._routes: set[Key] = set()
        self._revisions: set[RevisionId] = set()
        self._secrets: set[CertificateId] = set()
        self._by_private_service: dict[Key, RevisionId] = {}
        self._generations: dict[RouteId, int] = {}
        self._bugs = BugLog(log)
        self._open = False
        self._flush_due = False
        runner.on_config(self._config_changed)
        runner.on_change(kinds.INGRESS, self._ingress_changed)
        runner.on_change(kinds.REVISION, self._revision_changed)
        runner.on_change(kinds.ENDPOINT_SLICE, self._slice_changed)
        runner.on_change(kinds.SECRET, self._secret_changed)
        runner.on_change(kinds.POD, self._pod_changed)

    async def run(self) -> None:
        """Opens the feed when the caches are filled."""
        await self._runner.ready.wait()
        self._open = True
        self._flush()

    def programmed(self, key: Key, generation: int) -> bool | None:
        """Do all gateways have this generation of the KIngress? None: no gateway is connected."""
        route_id = RouteId(*key)
        if self._generations.get(route_id, -1) < generation:
            return None if not self._server.workers else False
        return self._server.programmed(route_id)

    def publish(self, revision_id: RevisionId) -> None:
        """Tell the gateways of a revision anew: what drains has changed, or a pod was started."""
        self._revisions.add(revision_id)
        self._schedule()

    def _config_changed(self) -> None:
        self._routes.update(self._runner.cache.kinds[kinds.INGRESS])
        self._revisions.update(self._by_private_service.values())
        self._schedule()

    def _ingress_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        self._routes.add(key_of(new or old or {}))
        self._schedule()

    def _revision_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        revision_id = compile.revision_id(new or old or {})
        service = Key(revision_id.namespace, private_service_name(revision_id.name))
        if new is None:
            self._by_private_service.pop(service, None)
        else:
            self._by_private_service[service] = revision_id
        self._revisions.add(revision_id)
        self._schedule()

    def _slice_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        piece = new or old or {}
        service = Key(namespace_of(piece), labels_of(piece).get(labels.SERVICE_NAME, ""))
        revision_id = self._by_private_service.get(service)
        if revision_id is not None:
            self._revisions.add(revision_id)
            self._schedule()

    def _secret_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        secret = CertificateId(*key_of(new or old or {}))
        if self._table.certificates.is_claimed(secret):
            self._secrets.add(secret)
            self._schedule()

    def _pod_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if old is not None and (new is None or uid_of(new) != uid_of(old)):
            self._pods.forget(old)
        if new is not None:
            self._pods.note(new, datetime.now(UTC).timestamp(), is_new=self._open and old is None)

    def _schedule(self) -> None:
        if self._open and not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for key in self._routes:
            with self._bugs_contained("Ingress", key):
                self._compile_route(key)
        for secret in self._secrets:
            with self._bugs_contained("Secret", secret):
                self._compile_secret(secret)
        for revision_id in self._revisions:
            with self._bugs_contained("Revision", revision_id):
                self._compile_revision(revision_id)
        compiled, self._revisions = self._revisions, set()
        self._routes.clear()
        self._secrets.clear()
        delta = self._table.drain()
        self._server.publish(delta)
        self._drains.on_published(compiled, delta.revisions, self._server.snapshot)

    def _compile_route(self, key: Key) -> None:
        route_id, ingress = RouteId(*key), self._runner.cache.get(kinds.INGRESS, key)
        if ingress is None or not compile.is_ours(ingress):
            self._table.set_route(route_id, None)
            self._table.certificates.claim(route_id, ())
            self._generations.pop(route_id, None)
            return
        try:
            rules, claims = compile.route_rules(ingress, self._https_port()), compile.claims(ingress)
            self._table.set_route(route_id, rules)
            self._table.certificates.claim(route_id, claims)
            self._secrets.update(claim.secret for claim in claims)
        except compile.InvalidIngress as error:
            # The Ingress controller says the same in its status; what was programmed before goes.
            log.warning("Ingress %s is not programmed: %s", key, error)
            self._table.set_route(route_id, None)
            self._table.certificates.claim(route_id, ())
        self._generations[route_id] = generation_of(ingress)

    def _https_port(self) -> int:
        return self._runner.config.network.external_https_port or HTTPS_PORT

    def _compile_secret(self, secret: CertificateId) -> None:
        found = self._runner.cache.get(kinds.SECRET, Key(*secret))
        try:
            self._table.certificates.set(secret, certificates.material(secret, found, datetime.now(UTC)))
        except certificates.BrokenCertificate as error:
            # The Ingress controller says the same in the status of whoever claims it; what was told before stays.
            log.warning("a certificate is not used: %s", error)

    def _compile_revision(self, revision_id: RevisionId) -> None:
        key = Key(*revision_id)
        revision = self._runner.cache.get(kinds.REVISION, key)
        if revision is None:
            self._table.set_revision(revision_id, None)
            return
        service = {labels.SERVICE_NAME: private_service_name(revision_id.name)}
        slices = self._runner.cache.list(kinds.ENDPOINT_SLICE, revision_id.namespace, service)
        autodetects = self._runner.config.features.autodetect_http2 is Gate.ENABLED
        woken = self._woken(key)

        def milestones(uid: str) -> Milestones | None:
            created, started = self._pods.of(uid)
            if self._node is None:
                return Milestones(woken, created, started)
            return None if self._node.is_starting(uid) else Milestones(woken, created, self._node.started(uid))

        draining = self._drains.draining(revision_id)
        compiled = compile.revision(
            revision, slices, autodetect_http2=autodetects, draining=draining, milestones=milestones
        )
        self._table.set_revision(revision_id, compiled)

    @contextlib.contextmanager
    def _bugs_contained(self, kind: str, name: object) -> Iterator[None]:
        """One entry that can't be compiled keeps what was told of it, and the others go out."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a bug of ours, of any kind
            self._bugs.report(kind, error, f"{kind} {name} was not compiled")
