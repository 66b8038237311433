"""The KIngress: is it in the gateways?

The rules themselves travel by `controller.dataplane`; this controller writes the status that the Route waits for.
`NetworkConfigured` says that the rules make sense, `LoadBalancerReady` that every connected gateway worker has
acknowledged them. A KIngress that became ready stays so for its generation: neither a gateway that restarts nor a
controller that has just started and has heard of no gateway yet takes a route away from anybody.

`CertificatesReady`, on a KIngress with `spec.tls`, says whether each of its hosts has a certificate that can be used;
a Warning event says so as well when that changes. It is informational: with a broken Secret the rules are programmed
all the same, plain HTTP is served, and the certificate that was there before stays in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from controller.apis import conditions, kinds
from controller.apis.meta import JsonObject, Key, generation_of, key_of
from controller.dataplane import certificates, compile
from controller.reconcile import status
from controller.reconcile.plan import Controller, Event, Plan

if TYPE_CHECKING:
    from datetime import datetime

    from controller.apis.conditions import Conditions
    from controller.config.store import Config
    from controller.reconcile.plan import Cache

NETWORK_CONFIGURED = "NetworkConfigured"
LOAD_BALANCER_READY = "LoadBalancerReady"
CERTIFICATES_READY = "CertificatesReady"

CONDITIONS = conditions.ConditionSet(dependents=(NETWORK_CONFIGURED, LOAD_BALANCER_READY))

PUBLIC_GATEWAY = "zerogate-gateway.knative-serving.svc.cluster.local"
PRIVATE_GATEWAY = "zerogate-gateway-local.knative-serving.svc.cluster.local"
"""The in-cluster names of the gateways' external and cluster-local listeners."""

INVALID = "InvalidIngress"
UNINITIALIZED = "Uninitialized"
NOT_USABLE = "CertificateNotUsable"

_LOOK_AGAIN = 24 * 3600.0
"""Seconds; a certificate that expires is noticed then, or when it does."""

Programmed = Callable[[Key, int], bool | None]
"""(KIngress, generation): do all connected gateway workers have it? None: there is no worker."""


@dataclass(frozen=True, slots=True)
class ObservedIngress:
    """`problem` says why the rules can't be programmed, "" if they can. `secrets` are those that exist of the ones that
    `spec.tls` names."""

    ingress: JsonObject
    problem: str
    programmed: bool | None
    secrets: Mapping[Key, JsonObject]


def controller(programmed: Programmed) -> Controller[ObservedIngress]:
    """Of KIngresses of our class; all others are left alone."""

    def observe(cache: Cache, key: Key) -> ObservedIngress | None:
        ingress = cache.get(kinds.INGRESS, key)
        if ingress is None or not compile.is_ours(ingress):
            return None
        problem = _problem(ingress)
        named = () if problem else (Key(*claim.secret) for claim in compile.claims(ingress))
        secrets = {name: secret for name in named if (secret := cache.get(kinds.SECRET, name)) is not None}
        return ObservedIngress(ingress, problem, programmed(key, generation_of(ingress)), secrets)

    return Controller(kinds.INGRESS, observe, reconcile, watches={kinds.SECRET: ingresses_of_secret})


def ingresses_of_secret(secret: JsonObject, cache: Cache) -> Iterable[Key]:
    """The KIngresses that claim hosts for a Secret. It looks at all of them: TLS Secrets change a few times a year."""
    key = key_of(secret)
    for ingress in cache.list(kinds.INGRESS):
        for item in (ingress.get("spec") or {}).get("tls") or ():
            if (item.get("secretNamespace"), item.get("secretName")) == key:
                yield key_of(ingress)


def reconcile(seen: ObservedIngress, _config: Config, now: datetime) -> Plan:
    """The status; nothing else is written."""
    before = status.begin(CONDITIONS, seen.ingress, now)
    found = tuple(condition for condition in before if condition.type != CERTIFICATES_READY)
    if seen.problem:
        found = CONDITIONS.mark_false(found, NETWORK_CONFIGURED, INVALID, seen.problem, now)
        return Plan(status=status.finish(seen.ingress, found))
    plan = Plan()
    if claims := compile.claims(seen.ingress):
        faults, expires = _looked_at(claims, seen.secrets, now)
        found = _with_certificates(found, faults, now)
        plan = Plan(events=_events(before, found), requeue_after=min(expires, _LOOK_AGAIN))
    return replace(plan, status=_programmed_status(seen, found, now))


def _looked_at(
    claims: Iterable[certificates.Claim], secrets: Mapping[Key, JsonObject], now: datetime
) -> tuple[list[str], float]:
    """What is wrong with the certificates, and in how many seconds the first of the good ones expires."""
    faults, expires = [], inf
    for claim in claims:
        try:
            material = certificates.material(claim.secret, secrets.get(Key(*claim.secret)), now)
        except certificates.BrokenCertificate as error:
            faults.append(str(error))
            continue
        expires = min(expires, (material.expires - now).total_seconds())
        bare = [host for host in claim.hosts if not material.covers(host)]
        if bare:
            faults.append(f"Secret {claim.secret}: its certificate is not for {', '.join(bare)}")
    return faults, expires


def _with_certificates(found: Conditions, faults: list[str], now: datetime) -> Conditions:
    if faults:
        return CONDITIONS.mark_false(found, CERTIFICATES_READY, NOT_USABLE, "; ".join(faults), now)
    return CONDITIONS.mark_true(found, CERTIFICATES_READY, now)


def _events(before: Conditions, found: Conditions) -> tuple[Event, ...]:
    was, condition = conditions.get(before, CERTIFICATES_READY), conditions.get(found, CERTIFICATES_READY)
    if condition is None or not condition.is_false or (was is not None and was.message == condition.message):
        return ()
    return (Event("Warning", NOT_USABLE, condition.message),)


def _programmed_status(seen: ObservedIngress, found: Conditions, now: datetime) -> JsonObject | None:
    found = CONDITIONS.mark_true(found, NETWORK_CONFIGURED, now)
    if not (seen.programmed or _was_ready(seen.ingress, found)):
        message = "Waiting for load balancer to be ready" if seen.programmed is False else "No gateway is connected"
        found = CONDITIONS.mark_unknown(found, LOAD_BALANCER_READY, UNINITIALIZED, message, now)
        return status.finish(seen.ingress, found)
    found = CONDITIONS.mark_true(found, LOAD_BALANCER_READY, now)
    return status.finish(
        seen.ingress,
        found,
        publicLoadBalancer={"ingress": [{"domainInternal": PUBLIC_GATEWAY}]},
        privateLoadBalancer={"ingress": [{"domainInternal": PRIVATE_GATEWAY}]},
    )


def _was_ready(ingress: JsonObject, found: Conditions) -> bool:
    return conditions.is_current(ingress) and conditions.status_of(found, LOAD_BALANCER_READY) == conditions.TRUE


def _problem(ingress: JsonObject) -> str:
    try:
        compile.route_rules(ingress)
        compile.claims(ingress)
    except compile.InvalidIngress as error:
        return str(error)
    return ""
