import base64
from datetime import UTC, datetime, timedelta

import pytest

from controller.apis import kinds, labels
from controller.apis.conditions import find, is_ready
from controller.apis.meta import Key
from controller.config.store import Config
from controller.reconcile import ingress as subject
from controller.reconcile.plan import Event, Plan

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
    """A cache with one KIngress and one Secret, or none."""

    def __init__(self, obj, secret=None):
        self.obj, self.secret = obj, secret

    def get(self, kind, key):
        return self.secret if kind == kinds.SECRET else self.obj

    def list(self, kind):
        return [self.obj]


def reconciled(obj, programmed, now=NOW, secret=None):
    """(the KIngress with its new status, the plan)"""
    controller = subject.controller(lambda key, generation: programmed)
    seen = controller.observe(OneIngress(obj, secret), Key("ns", "r"))
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


def secret(chain, key, name="tls"):
    data = {"tls.crt": base64.b64encode(chain.encode()).decode(), "tls.key": base64.b64encode(key.encode()).decode()}
    return {"metadata": {"namespace": "ns", "name": name}, "type": "kubernetes.io/tls", "data": data}


def with_tls(obj, *hosts):
    entry = {"secretNamespace": "ns", "secretName": "tls", "hosts": list(hosts)}
    return {**obj, "spec": {**obj["spec"], "tls": [entry]}}


def test_a_good_certificate_is_reported(authority):
    """Informational, and looked at again within a day or when it expires."""
    obj = with_tls(ingress(), "h.test")
    after, plan = reconciled(obj, True, secret=secret(*authority.issue("h.test")))
    assert condition(after, "CertificatesReady") == ("True", "")
    assert find(after, "CertificatesReady").severity == "Info"
    assert is_ready(after)
    assert plan.requeue_after == 24 * 3600.0
    assert plan.events == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "there is no Secret ns/tls of type kubernetes.io/tls"),
        (("other.test",), "Secret ns/tls: its certificate is not for h.test"),
    ],
)
def test_a_broken_certificate_is_reported_and_breaks_nothing(authority, names, message):
    """The condition and a Warning event say what is wrong, once; the KIngress is ready all the same."""
    obj = with_tls(ingress(), "h.test")
    found = None if names is None else secret(*authority.issue(*names))
    after, plan = reconciled(obj, True, secret=found)
    assert condition(after, "CertificatesReady") == ("False", "CertificateNotUsable")
    assert find(after, "CertificatesReady").message == message
    assert is_ready(after)
    assert plan.events == (Event("Warning", "CertificateNotUsable", message),)
    again, plan = reconciled(after, True, LATER, secret=found)
    assert (again, plan.status, plan.events) == (after, None, ())
    mended, _ = reconciled(after, True, LATER, secret=secret(*authority.issue("h.test")))
    assert condition(mended, "CertificatesReady") == ("True", "")


def test_an_expired_certificate_is_noticed(authority):
    """When its time comes the condition turns, without a change of anything."""
    obj, pair = with_tls(ingress(), "h.test"), secret(*authority.issue("h.test"))
    now = datetime.now(UTC) + timedelta(days=29, hours=23)
    after, plan = reconciled(obj, True, now, secret=pair)
    assert 0 < plan.requeue_after <= 3600
    after, _ = reconciled(after, True, now + timedelta(hours=2), secret=pair)
    assert "its certificate expired at" in find(after, "CertificatesReady").message


def test_without_tls_there_is_no_such_condition(authority):
    """One that was there goes with the entry."""
    after, _ = reconciled(with_tls(ingress(), "h.test"), True)
    plain, plan = reconciled({**after, "spec": ingress()["spec"]}, True)
    assert find(plain, "CertificatesReady") is None
    assert plan.requeue_after is None


def test_an_entry_without_a_secrets_name_is_refused():
    """As Knative's webhook does: the field is named."""
    obj = {**ingress(), "spec": {**ingress()["spec"], "tls": [{"hosts": ["h.test"], "secretNamespace": "ns"}]}}
    after, _ = reconciled(obj, True)
    assert condition(after, "NetworkConfigured") == ("False", "InvalidIngress")
    assert "spec.tls[].secretName" in find(after, "Ready").message


def test_a_secret_wakes_who_claims_it(authority):
    """And nobody else."""
    watched = subject.controller(lambda key, generation: True).watches[kinds.SECRET]
    pair = authority.issue("h.test")
    cache = OneIngress(with_tls(ingress(), "h.test"))
    assert list(watched(secret(*pair), cache)) == [Key("ns", "r")]
    assert list(watched(secret(*pair, name="other"), cache)) == []
    assert list(watched(secret(*pair), OneIngress(ingress()))) == []


def test_a_foreign_class_is_left_alone():
    """Another implementation writes its status."""
    controller = subject.controller(lambda key, generation: True)
    assert controller.observe(OneIngress(ingress(ingress_class="other")), Key("ns", "r")) is None
    assert controller.observe(OneIngress(None), Key("ns", "r")) is None
