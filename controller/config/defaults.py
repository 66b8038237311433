"""config-defaults: what a revision gets where its spec says nothing, and how far it may go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.config.reading import Reader
from controller.config.template import Template, parse_template

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "config-defaults"
_VARIABLES = frozenset({"Name", "Namespace", "Annotations", "Labels"})
"""Container names are templates over the ObjectMeta of the Service, Configuration or Revision that is defaulted."""


@dataclass(frozen=True, slots=True)
class DefaultsConfig:
    """Timeouts are whole seconds, as the fields of a revision they default. A timeout of 0 and a resource of None are
    not defaulted; `container_concurrency` 0 means unlimited; `enable_service_links` None leaves it to Kubernetes."""

    revision_timeout_seconds: int = 300
    max_revision_timeout_seconds: int = 600
    revision_response_start_timeout_seconds: int = 300
    revision_idle_timeout_seconds: int = 0
    revision_cpu_request: str | None = None
    revision_cpu_limit: str | None = None
    revision_memory_request: str | None = None
    revision_memory_limit: str | None = None
    revision_ephemeral_storage_request: str | None = None
    revision_ephemeral_storage_limit: str | None = None
    container_name_template: Template = field(default_factory=lambda: parse_template("user-container", _VARIABLES))
    init_container_name_template: Template = field(default_factory=lambda: parse_template("init-container", _VARIABLES))
    container_concurrency: int = 0
    container_concurrency_max_limit: int = 1000
    allow_container_concurrency_zero: bool = True
    enable_service_links: bool | None = False


def parse(data: Mapping[str, str]) -> DefaultsConfig:
    """The map's values. Raises ConfigError."""
    read = Reader(NAME, data)
    timeout = read.integer("revision-timeout-seconds", 300, low=1)
    limit = read.integer("container-concurrency-max-limit", 1000, low=1)
    config = DefaultsConfig(
        revision_timeout_seconds=timeout,
        max_revision_timeout_seconds=read.integer("max-revision-timeout-seconds", 600, low=1),
        revision_response_start_timeout_seconds=read.integer("revision-response-start-timeout-seconds", timeout),
        revision_idle_timeout_seconds=read.integer("revision-idle-timeout-seconds", 0),
        revision_cpu_request=read.quantity("revision-cpu-request"),
        revision_cpu_limit=read.quantity("revision-cpu-limit"),
        revision_memory_request=read.quantity("revision-memory-request"),
        revision_memory_limit=read.quantity("revision-memory-limit"),
        revision_ephemeral_storage_request=read.quantity("revision-ephemeral-storage-request"),
        revision_ephemeral_storage_limit=read.quantity("revision-ephemeral-storage-limit"),
        container_name_template=_template(read, "container-name-template", "user-container"),
        init_container_name_template=_template(read, "init-container-name-template", "init-container"),
        container_concurrency=read.integer("container-concurrency", 0, high=limit),
        container_concurrency_max_limit=limit,
        allow_container_concurrency_zero=read.boolean("allow-container-concurrency-zero", True),
        enable_service_links=_service_links(read),
    )
    _check(read, config)
    return config


def _template(read: Reader, key: str, default: str) -> Template:
    try:
        return parse_template(read.text(key, default), _VARIABLES)
    except ValueError as error:
        raise read.error(key, f"a name template, but {error}") from error


def _service_links(read: Reader) -> bool | None:
    choice = read.choice("enable-service-links", "false", ("true", "false", "default"))
    return None if choice == "default" else choice == "true"


def _check(read: Reader, config: DefaultsConfig) -> None:
    """The rules between keys."""
    longest = config.max_revision_timeout_seconds
    for key, value in (
        ("revision-timeout-seconds", config.revision_timeout_seconds),
        ("revision-response-start-timeout-seconds", config.revision_response_start_timeout_seconds),
        ("revision-idle-timeout-seconds", config.revision_idle_timeout_seconds),
    ):
        if value > longest:
            raise read.error(key, f"at most max-revision-timeout-seconds, which is {longest}")
    if config.container_concurrency == 0 and not config.allow_container_concurrency_zero:
        raise read.error("container-concurrency", "at least 1 while allow-container-concurrency-zero is false")
