from datetime import UTC, datetime

import pytest

from controller.apis import kinds, labels
from controller.apis.conditions import find, is_ready
from controller.apis.meta import Key
from controller.config.store import Config
from controller.reconcile import ingress as subject
from controller.reconcile.plan import Plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)


def ingress(percent=100, generation=1, status=None, ingress_class=labels.INGRESS_CLASS_NAME):
    split = {"serviceNamespace": "ns", "serviceName": "rev", "servicePort": 80, "percent": percent}
    return {
        "apiVersion": kinds.INGRESS.api_version,
        "kind": "Ingress",
        "metadata": {
            "namespace": "ns",
            "name": "r",
            "generation": generation,
            "annotations": {labels.INGRESS_CLASS: ingress_class},
        },
        "spec": {"rules": [{"hosts": ["h"], "http": {"paths": [{"splits": [split]}]}}]},
        **({"status": status} if status else {}),
    }


class OneIngress:
    def __init__(self, obj):
        self.obj = obj

    def get(self, kind, key):
        return self.obj


def reconciled(obj, programmed, now=NOW):
    """(the KIngress with its new status, the plan)"""
    controller = subject.controller(lambda key, generation: programmed)
    seen = controller.observe(OneIngress(obj), Key("ns", "r"))
    plan = controller.reconcile(seen, Config(), now)
    return {**obj, "status": plan.status} if plan.status else obj, plan


def condition(obj, type_):
    found = find(obj, type_)
    return found.status, found.reason


def test_it_waits_for_the_gateways():
    """Unknown while no gateway is connected, and while one has not acknowledged."""
    for programmed, message in ((None, "No gateway is connected"), (False, "Waiting for load balancer to be ready")):
        after, _ = reconciled(ingress(), programmed)
        assert condition(after, "NetworkConfigured") == ("True", "")
        assert condition(after, "LoadBalancerReady") == ("Unknown", "Uninitialized")
        assert find(after, "Ready").message == message
        assert not is_ready(after)


def test_it_is_ready_when_all_gateways_have_it():
    """With the names of both gateway Services, for the Route's placeholders."""
    after, _ = reconciled(ingress(), True)
    assert is_ready(after)
    assert after["status"]["publicLoadBalancer"]["ingress"] == [{"domainInternal": subject.PUBLIC_GATEWAY}]
    assert after["status"]["privateLoadBalancer"]["ingress"] == [{"domainInternal": subject.PRIVATE_GATEWAY}]


@pytest.mark.parametrize("programmed", [None, False])
def test_a_ready_generation_stays_ready(programmed):
    """A gateway or controller that restarts takes no route away; nothing is written."""
    ready, _ = reconciled(ingress(), True)
    after, plan = reconciled(ready, programmed, LATER)
    assert is_ready(after)
    assert plan == Plan()


def test_a_new_generation_waits_again():
    """The gateways have to acknowledge the new rules."""
    ready, _ = reconciled(ingress(), True)
    ready["metadata"]["generation"] = 2
    after, _ = reconciled(ready, False, LATER)
    assert after["status"]["observedGeneration"] == 2
    assert condition(after, "Ready") == ("Unknown", "Uninitialized")


def test_rules_that_cannot_be_programmed_say_why():
    """NetworkConfigured is False with the field, and Ready follows."""
    after, _ = reconciled(ingress(percent=50), False)
    assert condition(after, "Ready") == ("False", "InvalidIngress")
    assert "sum to 100" in find(after, "Ready").message


@pytest.mark.parametrize("programmed", [None, False, True])
def test_reconciling_again_changes_nothing(programmed):
    """A fixed point."""
    once, _ = reconciled(ingress(), programmed)
    assert reconciled(once, programmed, LATER)[1] == Plan()


def test_a_foreign_class_is_left_alone():
    """Another implementation writes its status."""
    controller = subject.controller(lambda key, generation: True)
    assert controller.observe(OneIngress(ingress(ingress_class="other")), Key("ns", "r")) is None
    assert controller.observe(OneIngress(None), Key("ns", "r")) is None
