"""Grammars of names."""

import pytest

from controller.apis import names


@pytest.mark.parametrize("name", ["a", "hello-1", "a" * 63])
def test_labels(name: str) -> None:
    """Lower-case letters, digits and inner hyphens, up to 63: right under RFC 1035 and RFC 1123."""
    assert names.dns_1035_label(name) is None
    assert names.dns_1123_label(name) is None


@pytest.mark.parametrize("name", ["", "1a", "Hello", "a_b", "a.b", "-a", "a-", "a" * 64, "ü"])
def test_not_a_1035_label(name: str) -> None:
    """A digit at the beginning, capitals, dots, outer hyphens, other letters and 64 characters are wrong."""
    assert names.dns_1035_label(name)


def test_1123_may_start_with_a_digit() -> None:
    """The one freedom that RFC 1123 adds; length and capitals stay as they were."""
    assert names.dns_1123_label("1a") is None
    assert names.dns_1123_label("a" * 64)
    assert names.dns_1123_label("A")


def test_subdomain() -> None:
    """Labels joined by dots, up to 253 characters."""
    assert names.dns_1123_subdomain("a.b-c.1") is None
    assert names.dns_1123_subdomain("foo@bar.baz")
    assert names.dns_1123_subdomain("a" * 254)


def test_qualified_name() -> None:
    """A label's or annotation's name: letters, digits, and - _ . inside, up to 63."""
    assert names.qualified_name("My_name.1") is None
    assert names.qualified_name("a b")
    assert names.qualified_name("a" * 64)


def test_environment_variable() -> None:
    """Kubernetes takes dots and hyphens too, but no digit at the beginning and no equals sign."""
    assert names.environment_variable("A_b.c-1") is None
    assert names.environment_variable("1A")
    assert names.environment_variable("A=B")


@pytest.mark.parametrize(
    "image",
    [
        "hello",
        "library/hello:v1",
        "gcr.io/project/image",
        "localhost:5000/a/b__c:Tag_1.2",
        "ghcr.io/a/b@sha256:" + "0" * 64,
        "dev.local/x-y/z:1@sha256:" + "a" * 64,
    ],
)
def test_image(image: str) -> None:
    """Any reference, and plain names too."""
    assert names.image_reference(image) is None


@pytest.mark.parametrize("image", ["Hello", "a//b", "a:", "a b", "a:b:c", "a@sha256:xyz", "/a", "a/", "a" * 256])
def test_not_an_image(image: str) -> None:
    """Empty parts, capitals in the path, two tags and digests that are none are refused."""
    assert names.image_reference(image)
