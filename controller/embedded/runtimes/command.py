"""From a container's spec to the process to start: command line and environment. Pure.

Kubernetes' rules (core/v1 Container, EnvVar): `command` replaces the image's entrypoint and `args` its arguments;
`$(NAME)` in both and in `value` is replaced when NAME is defined before, `$$` is a literal `$`, and an unknown name
stays as it is. `envFrom` comes before `env`; later entries win. An image is only a name here: what it would run is
looked up in the table that `zerogate up --image NAME=COMMAND` fills.

A container's process inherits little: what programs need to find their files and speak the user's language, and none
of the credentials that a developer's environment is full of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.apis import meta

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SYSTEMROOT",
)
"""What a container gets of the environment of `zerogate up`."""

Images = Mapping[str, Sequence[str]]
_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


class NoCommand(Exception):
    """An image that no `--image` names and a container without `command`; the text says what to add."""


class ConfigError(Exception):
    """The container's configuration can't be met: a ConfigMap, Secret or key that is not there, a volume."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The ConfigMaps and Secrets a pod's containers take variables from, by name, as plain text; a name with no entry
    does not exist."""

    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def references(containers: Iterable[JsonObject]) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and of the Secrets that containers read."""
    config_maps: set[str] = set()
    secrets: set[str] = set()
    for container in containers:
        for source in container.get("envFrom") or ():
            config_maps |= {source["configMapRef"]["name"]} if "configMapRef" in source else set()
            secrets |= {source["secretRef"]["name"]} if "secretRef" in source else set()
        for variable in container.get("env") or ():
            origin = variable.get("valueFrom") or {}
            config_maps |= {origin["configMapKeyRef"]["name"]} if "configMapKeyRef" in origin else set()
            secrets |= {origin["secretKeyRef"]["name"]} if "secretKeyRef" in origin else set()
    return config_maps, secrets


def environment(
    pod: JsonObject, container: JsonObject, sources: Sources, given: Mapping[str, str], forced: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment: `given` (inherited), then envFrom, then env; `forced` is set before everything, so that
    `$(PORT)` works, and can't be overridden. Raises ConfigError."""
    env = {**given, **forced}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix", "")
        named = {prefix + name: value for name, value in _whole_source(source, sources).items()}
        env.update({name: value for name, value in named.items() if _ENV_NAME.fullmatch(name) and name not in forced})
    for variable in container.get("env") or ():
        value = _variable(pod, variable, sources, env)
        if value is not None and variable["name"] not in forced:
            env[variable["name"]] = value
    return env


def command_line(container: JsonObject, images: Images, env: Mapping[str, str]) -> tuple[str, ...]:
    """The program and its arguments. Raises NoCommand."""
    entrypoint = container.get("command") or _entrypoint(container.get("image", ""), images)
    return tuple(expand(word, env) for word in (*entrypoint, *(container.get("args") or ())))


def expand(text: str, env: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced where NAME is defined and `$$` made `$`."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else env.get(name, match[0])

    return _REFERENCE.sub(value, text)


def _entrypoint(image: str, images: Images) -> Sequence[str]:
    for name in _spellings(image):
        if name in images:
            return images[name]
    raise NoCommand(
        f'image "{image}" has no command on this machine: add command: to the container, '
        f'or start zerogate up with --image {_spellings(image)[1] or "NAME"}="COMMAND"'
    )


def _spellings(image: str) -> list[str]:
    """The image as written, without its digest, and without its tag too (a colon before a slash is a port)."""
    untied = image.partition("@")[0]
    head, slash, last = untied.rpartition("/")
    return [image, untied, head + slash + last.partition(":")[0]]


def _whole_source(source: JsonObject, sources: Sources) -> Mapping[str, str]:
    for field_name, kind, table in (
        ("configMapRef", "configmap", sources.config_maps),
        ("secretRef", "secret", sources.secrets),
    ):
        if field_name in source:
            reference = source[field_name]
            if reference["name"] not in table and not reference.get("optional"):
                raise ConfigError(f'{kind} "{reference["name"]}" not found')
            return table.get(reference["name"], {})
    return {}


def _variable(pod: JsonObject, variable: JsonObject, sources: Sources, env: Mapping[str, str]) -> str | None:
    """One variable's value; None leaves it undefined (an optional source that is not there)."""
    origin = variable.get("valueFrom")
    if not origin:
        return expand(variable.get("value") or "", env)
    if "configMapKeyRef" in origin:
        return _entry(origin["configMapKeyRef"], "configmap", sources.config_maps)
    if "secretKeyRef" in origin:
        return _entry(origin["secretKeyRef"], "secret", sources.secrets)
    if "fieldRef" in origin:
        return _field(pod, origin["fieldRef"]["fieldPath"])
    raise ConfigError(f'env "{variable["name"]}": valueFrom with {", ".join(origin)} is not known to local processes')


def _entry(reference: JsonObject, kind: str, table: Mapping[str, Mapping[str, str]]) -> str | None:
    name, key = reference["name"], reference["key"]
    if name in table and key in table[name]:
        return table[name][key]
    if reference.get("optional"):
        return None
    if name in table:
        raise ConfigError(f'key {key} not found in {kind} "{name}"')
    raise ConfigError(f'{kind} "{name}" not found')


_FIELDS: Mapping[str, Callable[[JsonObject], str]] = {
    "metadata.name": meta.name_of,
    "metadata.namespace": meta.namespace_of,
    "metadata.uid": meta.uid_of,
    "spec.nodeName": lambda pod: pod["spec"].get("nodeName", ""),
    "spec.serviceAccountName": lambda pod: pod["spec"].get("serviceAccountName", ""),
    "status.podIP": lambda pod: (pod.get("status") or {}).get("podIP", ""),
    "status.hostIP": lambda pod: (pod.get("status") or {}).get("hostIP", ""),
}
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


def _field(pod: JsonObject, path: str) -> str:
    if path in _FIELDS:
        return _FIELDS[path](pod)
    if match := _SUBSCRIPT.fullmatch(path):
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    raise ConfigError(f'fieldPath "{path}" is not supported')
