"""Hosts and URLs of Routes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.apis import labels
from controller.config import domain, network
from controller.config.store import Config
from controller.reconcile import domains
from controller.reconcile.domains import DomainError

CONFIG = Config(domain=domain.parse({"example.com": ""}))


def route(name="hello", **own):
    return {"metadata": {"name": name, "namespace": "default", "labels": own}}


def test_hosts():
    """Knative's own example."""
    assert domains.external_host(route(), "", CONFIG) == "hello.default.example.com"
    assert domains.external_host(route(), "blue", CONFIG) == "blue-hello.default.example.com"
    assert domains.local_hosts(route(), "blue", CONFIG) == (
        "blue-hello.default",
        "blue-hello.default.svc",
        "blue-hello.default.svc.cluster.local",
    )
    assert domains.tag_name(route(), "", CONFIG) == "hello"


def test_urls():
    """Scheme and port of the gateway outside, plain inside."""
    config = replace(CONFIG, network=network.parse({"external-port": "8080"}))
    assert domains.url(route(), "", False, config) == "http://hello.default.example.com:8080"
    https = {"external-port": "8080", "external-https-port": "8443", "default-external-scheme": "https"}
    config = replace(CONFIG, network=network.parse(https))
    assert domains.url(route(), "", False, config) == "https://hello.default.example.com:8443"
    assert domains.url(route(), "", True, config) == "http://hello.default.svc.cluster.local"
    assert domains.address_url(route()) == "http://hello.default.svc.cluster.local"


def test_cluster_local():
    """By label, or because no domain is configured."""
    assert domains.is_cluster_local(route(**{labels.VISIBILITY: labels.CLUSTER_LOCAL}), CONFIG)
    assert domains.is_cluster_local(route(), Config())
    assert not domains.is_cluster_local(route(), CONFIG)
    assert domains.external_host(route(), "", Config()) == "hello.default.svc.cluster.local"


def test_templates():
    """Templates rename the outside; names inside the cluster stay as they are."""
    templates = {"domain-template": "{{.Name}}-{{.Namespace}}.{{.Domain}}", "tag-template": "{{.Name}}-{{.Tag}}"}
    config = replace(CONFIG, network=network.parse(templates))
    assert domains.external_host(route(), "blue", config) == "hello-blue-default.example.com"
    assert domains.local_hosts(route(), "blue", config)[0] == "hello-blue.default"


@pytest.mark.parametrize("tag", ["t" * 60, "-"])
def test_invalid_label(tag):
    """A host that DNS can't hold is refused, with the part that is wrong."""
    with pytest.raises(DomainError, match=r"tag-template makes .* is not a DNS label"):
        domains.tag_name(route(), tag, CONFIG)


def test_host_too_long():
    """A host of more than 253 characters is refused."""
    config = replace(CONFIG, domain=domain.parse({".".join(["d" * 60] * 4): ""}))
    with pytest.raises(DomainError, match="over 253 characters"):
        domains.external_host(route("n" * 20), "", config)
