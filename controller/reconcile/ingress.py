"""The KIngress: is it in the gateways?

The rules themselves travel by `controller.dataplane`; this controller writes the status that the Route waits for.
`NetworkConfigured` says that the rules make sense, `LoadBalancerReady` that every connected gateway worker has
acknowledged them. A KIngress that became ready stays so for its generation: neither a gateway that restarts nor a
controller that has just started and has heard of no gateway yet takes a route away from anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis import conditions, kinds
from controller.apis.meta import JsonObject, Key, generation_of
from controller.dataplane import compile
from controller.reconcile import status
from controller.reconcile.plan import Controller, Plan

if TYPE_CHECKING:
    from datetime import datetime

    from controller.apis.conditions import Conditions
    from controller.config.store import Config
    from controller.reconcile.plan import Cache

NETWORK_CONFIGURED = "NetworkConfigured"
LOAD_BALANCER_READY = "LoadBalancerReady"

CONDITIONS = conditions.ConditionSet(dependents=(NETWORK_CONFIGURED, LOAD_BALANCER_READY))

PUBLIC_GATEWAY = "zerogate-gateway.knative-serving.svc.cluster.local"
PRIVATE_GATEWAY = "zerogate-gateway-local.knative-serving.svc.cluster.local"
"""The in-cluster names of the gateways' external and cluster-local listeners."""

INVALID = "InvalidIngress"
UNINITIALIZED = "Uninitialized"

Programmed = Callable[[Key, int], bool | None]
"""(KIngress, generation): do all connected gateway workers have it? None: there is no worker."""


@dataclass(frozen=True, slots=True)
class ObservedIngress:
    """`problem` says why the rules can't be programmed, "" if they can."""

    ingress: JsonObject
    problem: str
    programmed: bool | None


def controller(programmed: Programmed) -> Controller[ObservedIngress]:
    """Of KIngresses of our class; all others are left alone."""

    def observe(cache: Cache, key: Key) -> ObservedIngress | None:
        ingress = cache.get(kinds.INGRESS, key)
        if ingress is None or not compile.is_ours(ingress):
            return None
        return ObservedIngress(ingress, _problem(ingress), programmed(key, generation_of(ingress)))

    return Controller(kinds.INGRESS, observe, reconcile)


def reconcile(seen: ObservedIngress, _config: Config, now: datetime) -> Plan:
    """The status; nothing else is written."""
    found = status.begin(CONDITIONS, seen.ingress, now)
    if seen.problem:
        found = CONDITIONS.mark_false(found, NETWORK_CONFIGURED, INVALID, seen.problem, now)
        return Plan(status=status.finish(seen.ingress, found))
    found = CONDITIONS.mark_true(found, NETWORK_CONFIGURED, now)
    if not (seen.programmed or _was_ready(seen.ingress, found)):
        message = "Waiting for load balancer to be ready" if seen.programmed is False else "No gateway is connected"
        found = CONDITIONS.mark_unknown(found, LOAD_BALANCER_READY, UNINITIALIZED, message, now)
        return Plan(status=status.finish(seen.ingress, found))
    found = CONDITIONS.mark_true(found, LOAD_BALANCER_READY, now)
    return Plan(
        status=status.finish(
            seen.ingress,
            found,
            publicLoadBalancer={"ingress": [{"domainInternal": PUBLIC_GATEWAY}]},
            privateLoadBalancer={"ingress": [{"domainInternal": PRIVATE_GATEWAY}]},
        )
    )


def _was_ready(ingress: JsonObject, found: Conditions) -> bool:
    return conditions.is_current(ingress) and conditions.status_of(found, LOAD_BALANCER_READY) == conditions.TRUE


def _problem(ingress: JsonObject) -> str:
    try:
        compile.route_rules(ingress)
    except compile.InvalidIngress as error:
        return str(error)
    return ""
