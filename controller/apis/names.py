"""The grammars of names that Kubernetes and Knative check: labels, subdomains, images.

Each function returns what is wrong as one sentence, or None.
"""

from __future__ import annotations

import re

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"  # registry
    rf"{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"  # tag
    r"(?:@[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,})?"  # digest
)
_LABEL_LENGTH, _SUBDOMAIN_LENGTH, _IMAGE_LENGTH = 63, 253, 255


def dns_1035_label(name: str) -> str | None:
    """A label that starts with a letter: Services, Routes, tags, everything that becomes a host name."""
    if len(name) > _LABEL_LENGTH:
        return f"must be no more than {_LABEL_LENGTH} characters"
    if not _DNS_1035.fullmatch(name):
        return 'must consist of a-z, 0-9 and "-", start with a letter and end with a letter or digit (my-name, abc-123)'
    return None


def dns_1123_label(name: str) -> str | None:
    """What is wrong with `name` as a DNS label (RFC 1123: it may start with a digit); None if it is right."""
    if len(name) > _LABEL_LENGTH:
        return f"must be no more than {_LABEL_LENGTH} characters"
    if not _DNS_1123.fullmatch(name):
        return 'must consist of a-z, 0-9 and "-", and start and end with a letter or digit (my-name, 123-abc)'
    return None


def dns_1123_subdomain(name: str) -> str | None:
    """What is wrong with `name` as labels joined by dots; None if it is right."""
    if len(name) > _SUBDOMAIN_LENGTH:
        return f"must be no more than {_SUBDOMAIN_LENGTH} characters"
    if not _SUBDOMAIN.fullmatch(name):
        return 'must consist of a-z, 0-9, "-" and ".", and start and end with a letter or digit (example.com)'
    return None


def qualified_name(name: str) -> str | None:
    """What is wrong with `name` as the part of a label's or annotation's key after the slash; None if it is right."""
    if len(name) > _LABEL_LENGTH:
        return f"must be no more than {_LABEL_LENGTH} characters"
    if not _QUALIFIED.fullmatch(name):
        return 'must consist of letters, digits, "-", "_" and ".", and start and end with a letter or digit'
    return None


def environment_variable(name: str) -> str | None:
    """What is wrong with `name` as an environment variable, by Kubernetes' rules; None if it is right."""
    if not _ENV_NAME.fullmatch(name):
        return 'must consist of letters, digits, "_", "-" and ".", and not start with a digit'
    return None


def image_reference(image: str) -> str | None:
    """`[registry/]path[:tag][@digest]`. Whether it exists is not asked: a process runtime never pulls it."""
    if len(image) > _IMAGE_LENGTH:
        return f"must be no more than {_IMAGE_LENGTH} characters"
    if not _IMAGE.fullmatch(image):
        return "must look like registry.example/path/name:tag or name, in lower case"
    return None
