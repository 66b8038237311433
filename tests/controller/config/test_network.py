"""config-network: every key, its default and its bounds."""

import pytest

from controller.apis.labels import INGRESS_CLASS_NAME
from controller.config.network import NetworkConfig, parse

NAMES = {"Name": "hello", "Namespace": "default", "Domain": "example.com"}


def test_defaults() -> None:
    """The ingress class is our own; everything else is Knative's."""
    config = parse({})
    assert config == NetworkConfig()
    assert config.ingress_class == INGRESS_CLASS_NAME
    assert config.domain_template.render(NAMES) == "hello.default.example.com"
    assert config.tag_template.render({"Name": "hello", "Tag": "blue"}) == "blue-hello"


def test_every_key_is_read() -> None:
    config = parse(
        {
            "ingress-class": "other.example.com",
            "certificate-class": "certs.example.com",
            "domain-template": '{{.Name}}-{{ index .Annotations "sub" }}.{{.Domain}}',
            "tag-template": "{{.Name}}-{{.Tag}}",
            "rollout-duration": "120",
            "external-domain-tls": "enabled",
            "cluster-local-domain-tls": "Enabled",
            "system-internal-tls": "ENABLED",
            "http-protocol": "redirected",
            "default-external-scheme": "https",
            "external-port": "8080",
            "autocreate-cluster-domain-claims": "true",
            "enable-mesh-pod-addressability": "true",
            "mesh-compatibility-mode": "Disabled",
            "namespace-wildcard-cert-selector": "a: b",
        }
    )
    assert config.ingress_class == "other.example.com"
    assert config.certificate_class == "certs.example.com"
    assert config.domain_template.render(NAMES, {"sub": "x"}) == "hello-x.example.com"
    assert config.tag_template.render({"Name": "hello", "Tag": "blue"}) == "hello-blue"
    assert config.rollout_duration == 120.0
    assert (config.external_domain_tls, config.cluster_local_domain_tls, config.system_internal_tls) == (True,) * 3
    assert (config.http_option, config.default_external_scheme) == ("Redirected", "https")
    assert config.external_port == 8080
    assert config.autocreate_cluster_domain_claims is True
    assert config.enable_mesh_pod_addressability is True
    assert (config.mesh_compatibility_mode, config.namespace_wildcard_cert_selector) == ("disabled", "a: b")


def test_deprecated_spellings() -> None:
    """auto-tls and internal-encryption count where the current key is absent; Disabled http-protocol is no option."""
    assert parse({"auto-tls": "Enabled"}).external_domain_tls is True
    assert parse({"auto-tls": "Enabled", "external-domain-tls": "Disabled"}).external_domain_tls is False
    assert parse({"internal-encryption": "true"}).system_internal_tls is True
    assert parse({"http-protocol": "Disabled"}).http_option == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"domain-template": "{{.Nme}}.{{.Domain}}"}, "{{.Nme}} is not one of"),
        ({"domain-template": "{{.Namespace}}.{{.Domain}}"}, "uses {{.Name}}"),
        ({"domain-template": "{{.Name}} {{.Domain}}"}, "does not fit in a host"),
        ({"tag-template": "{{.Name}}"}, "uses {{.Tag}}"),
        ({"tag-template": "{{.Tag}}-{{.Namespace}}"}, "is not one of"),
        ({"rollout-duration": "1m"}, "a whole number"),
        ({"external-domain-tls": "on"}, "one of Enabled, Disabled"),
        ({"http-protocol": "Both"}, "one of Enabled, Redirected, Disabled"),
        ({"default-external-scheme": "ftp"}, "one of http, https"),
        ({"external-port": "65536"}, "from 0 to 65535"),
        ({"autocreate-cluster-domain-claims": "ok"}, "true or false"),
        ({"mesh-compatibility-mode": "maybe"}, "one of auto, enabled, disabled"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bounds(refusal, data: dict[str, str], words: str) -> None:
    """Out of bounds: the error names the map, the key and what would be right."""
    message = refusal(parse, data)
    assert message.startswith("config-network: ")
    assert words in message
