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
    """Each key sets its field."""
    config = parse(
        {
            "ingress-class": "other.example.com",
            "domain-template": '{{.Name}}-{{ index .Annotations "sub" }}.{{.Domain}}',
            "tag-template": "{{.Name}}-{{.Tag}}",
            "http-protocol": "redirected",
            "default-external-scheme": "https",
            "external-port": "8080",
        }
    )
    assert config.ingress_class == "other.example.com"
    assert config.domain_template.render(NAMES, {"sub": "x"}) == "hello-x.example.com"
    assert config.tag_template.render({"Name": "hello", "Tag": "blue"}) == "hello-blue"
    assert (config.http_option, config.default_external_scheme) == ("Redirected", "https")
    assert config.external_port == 8080


def test_disabled_http_protocol() -> None:
    """A deprecated value, which says nothing: the KIngress gets no httpOption."""
    assert parse({"http-protocol": "Disabled"}).http_option == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"domain-template": "{{.Nme}}.{{.Domain}}"}, "{{.Nme}} is not one of"),
        ({"domain-template": "{{.Namespace}}.{{.Domain}}"}, "uses {{.Name}}"),
        ({"domain-template": "{{.Name}} {{.Domain}}"}, "does not fit in a host"),
        ({"tag-template": "{{.Name}}"}, "uses {{.Tag}}"),
        ({"tag-template": "{{.Tag}}-{{.Namespace}}"}, "is not one of"),
        ({"http-protocol": "Both"}, "one of Enabled, Redirected, Disabled"),
        ({"default-external-scheme": "ftp"}, "one of http, https"),
        ({"external-port": "65536"}, "from 0 to 65535"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bounds(refusal, data: dict[str, str], words: str) -> None:
    """Out of bounds: the error names the map, the key and what would be right."""
    message = refusal(parse, data)
    assert message.startswith("config-network: ")
    assert words in message
