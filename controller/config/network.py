"""config-network: ingress class, host names and the scheme and port of URLs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.apis.labels import INGRESS_CLASS_NAME
from controller.config.reading import Reader
from controller.config.template import Template, parse_template

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-network"
DEFAULT_DOMAIN_TEMPLATE = "{{.Name}}.{{.Namespace}}.{{.Domain}}"
DEFAULT_TAG_TEMPLATE = "{{.Tag}}-{{.Name}}"
_DOMAIN_VARIABLES = frozenset({"Name", "Namespace", "Domain", "Annotations", "Labels"})
_TAG_VARIABLES = frozenset({"Name", "Tag"})


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """`http_option` is what a KIngress gets: "Enabled", "Redirected" or "" (unset). `external_port` is written into
    public http URLs, `external_https_port` into https ones and into redirects; 0 writes none. Knative has no such keys:
    they are for gateways that people reach on other ports than 80 and 443, as on a laptop, so that a URL that is
    printed is one that works."""

    ingress_class: str = INGRESS_CLASS_NAME
    domain_template: Template = field(
        default_factory=lambda: parse_template(DEFAULT_DOMAIN_TEMPLATE, _DOMAIN_VARIABLES)
    )
    tag_template: Template = field(default_factory=lambda: parse_template(DEFAULT_TAG_TEMPLATE, _TAG_VARIABLES))
    http_option: str = "Enabled"
    default_external_scheme: str = "http"
    external_port: int = 0
    external_https_port: int = 0


def parse(data: Mapping[str, str]) -> NetworkConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    return NetworkConfig(
        ingress_class=read.text("ingress-class", INGRESS_CLASS_NAME),
        domain_template=_template(read, "domain-template", DEFAULT_DOMAIN_TEMPLATE, _DOMAIN_VARIABLES, "Name"),
        tag_template=_template(read, "tag-template", DEFAULT_TAG_TEMPLATE, _TAG_VARIABLES, "Tag"),
        http_option=_http_option(read),
        default_external_scheme=read.choice("default-external-scheme", "http", ("http", "https")),
        external_port=read.integer("external-port", 0, high=65535),
        external_https_port=read.integer("external-https-port", 0, high=65535),
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


def _http_option(read: Reader) -> str:
    # Disabled is deprecated: it once meant "no plain HTTP at all" and now leaves the option unset.
    choice = read.choice("http-protocol", "Enabled", ("Enabled", "Redirected", "Disabled"))
    return "" if choice == "Disabled" else choice
