"""config-domain: the most specific selector wins."""

import pytest

from controller.config.domain import Domain, parse

VISIBILITY = "networking.knative.dev/visibility"
PROD = "selector:\n  env: prod\n"
ENTRIES = {
    "_example": "not: a domain",
    "example.com": "",
    "prod.io": PROD,
    "vip.io": PROD + "  tier: gold\n",
    "aaa.io": PROD,
}


@pytest.mark.parametrize(
    ("labels", "domain"),
    [
        ({"env": "prod"}, "aaa.io"),
        ({"env": "prod", "tier": "gold"}, "vip.io"),
        ({}, "example.com"),
        ({"env": "test"}, "example.com"),
        ({VISIBILITY: "cluster-local", "env": "prod"}, "svc.cluster.local"),
    ],
)
def test_choice(labels: dict[str, str], domain: str) -> None:
    """Longest selector first, ties by name, then the default; a private Route has no domain outside."""
    assert parse(ENTRIES).domain_for(labels) == domain


def test_without_a_default_routes_are_private() -> None:
    """A Route that no selector takes has no domain outside, rather than one nobody chose for it."""
    assert parse({}).domain_for({}) == "svc.cluster.local"
    assert parse({"prod.io": PROD}).domain_for({}) == "svc.cluster.local"


def test_the_type_is_ignored() -> None:
    """`type: wildcard` is about certificates; Knative's maps have it, and it changes no host name."""
    assert parse({"a.io": "type: wildcard"}).domains == (Domain("a.io"),)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"Example.com": ""}, '"Example.com" is not a domain name'),
        ({"a..b": ""}, "not a domain name"),
        ({"a.io": "selector: ["}, "a.io"),
        ({"a.io": "just text"}, "must be empty, or YAML"),
        ({"a.io": "selector:\n  on: true"}, "must be empty, or YAML"),
    ],
)
def test_mistakes(refusal, data: dict[str, str], words: str) -> None:
    """A bad domain or value is named."""
    message = refusal(parse, data)
    assert message.startswith("config-domain: ")
    assert words in message
