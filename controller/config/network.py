"""config-network: ingress class, host names, TLS and rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.apis.labels import INGRESS_CLASS_NAME
from controller.config.reading import Reader
from controller.config.template import Template, parse_template

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-network"
DEFAULT_CERTIFICATE_CLASS = "cert-manager.certificate.networking.knative.dev"
DEFAULT_DOMAIN_TEMPLATE = "{{.Name}}.{{.Namespace}}.{{.Domain}}"
DEFAULT_TAG_TEMPLATE = "{{.Tag}}-{{.Name}}"
_DOMAIN_VARIABLES = frozenset({"Name", "Namespace", "Domain", "Annotations", "Labels"})
_TAG_VARIABLES = frozenset({"Name", "Tag"})
_SWITCH = ("Enabled", "Disabled")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """`rollout_duration` is in seconds, 0 switches at once. `http_option` is what a KIngress gets: "Enabled",
    "Redirected" or "" (unset). `external_port` is written into public URLs; 0 writes none. Knative has no such key:
    it is for gateways that people reach on another port than 80 or 443, as on a laptop, so that a URL that is printed
    is one that works."""

    ingress_class: str = INGRESS_CLASS_NAME
    certificate_class: str = DEFAULT_CERTIFICATE_CLASS
    domain_template: Template = field(
        default_factory=lambda: parse_template(DEFAULT_DOMAIN_TEMPLATE, _DOMAIN_VARIABLES)
    )
    tag_template: Template = field(default_factory=lambda: parse_template(DEFAULT_TAG_TEMPLATE, _TAG_VARIABLES))
    rollout_duration: float = 0.0
    external_domain_tls: bool = False
    cluster_local_domain_tls: bool = False
    system_internal_tls: bool = False
    http_option: str = "Enabled"
    default_external_scheme: str = "http"
    external_port: int = 0
    autocreate_cluster_domain_claims: bool = False
    enable_mesh_pod_addressability: bool = False
    mesh_compatibility_mode: str = "auto"
    namespace_wildcard_cert_selector: str = ""


def parse(data: Mapping[str, str]) -> NetworkConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    return NetworkConfig(
        ingress_class=read.text("ingress-class", INGRESS_CLASS_NAME),
        certificate_class=read.text("certificate-class", DEFAULT_CERTIFICATE_CLASS),
        domain_template=_template(read, "domain-template", DEFAULT_DOMAIN_TEMPLATE, _DOMAIN_VARIABLES, "Name"),
        tag_template=_template(read, "tag-template", DEFAULT_TAG_TEMPLATE, _TAG_VARIABLES, "Tag"),
        rollout_duration=float(read.integer("rollout-duration", 0)),
        external_domain_tls=_enabled(read, "external-domain-tls", "auto-tls"),
        cluster_local_domain_tls=_enabled(read, "cluster-local-domain-tls"),
        system_internal_tls=_enabled(read, "system-internal-tls", "internal-encryption"),
        http_option=_http_option(read),
        default_external_scheme=read.choice("default-external-scheme", "http", ("http", "https")),
        external_port=read.integer("external-port", 0, high=65535),
        autocreate_cluster_domain_claims=read.boolean("autocreate-cluster-domain-claims", False),
        enable_mesh_pod_addressability=read.boolean("enable-mesh-pod-addressability", False),
        mesh_compatibility_mode=read.choice("mesh-compatibility-mode", "auto", ("auto", "enabled", "disabled")),
        namespace_wildcard_cert_selector=read.text("namespace-wildcard-cert-selector", ""),
    )


def _template(read: Reader, key: str, default: str, variables: frozenset[str], needed: str) -> Template:
    """A template that uses `.needed`: without it every Route (or tag) of a namespace would get the same host."""
    try:
        template = parse_template(read.text(key, default), variables)
    except ValueError as error:
        raise read.error(key, f"a host name template, but {error}") from error
    sample = template.render({"Name": "n", "Namespace": "ns", "Domain": "d", "Tag": "t", needed: "needed"})
    if "needed" not in sample:
        raise read.error(key, f"a template that uses {{{{.{needed}}}}}")
    return template


def _enabled(read: Reader, key: str, deprecated: str | None = None) -> bool:
    """A switch; the deprecated spelling counts where the current one is absent. `true` was a value of the old one."""
    chosen = key if deprecated is None or read.text(key, "") else deprecated
    return read.choice(chosen, "Disabled", (*_SWITCH, "true", "false")) in ("Enabled", "true")


def _http_option(read: Reader) -> str:
    # Disabled is deprecated: it once meant "no plain HTTP at all" and now leaves the option unset.
    choice = read.choice("http-protocol", "Enabled", ("Enabled", "Redirected", "Disabled"))
    return "" if choice == "Disabled" else choice
