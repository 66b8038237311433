"""Label and field selectors, as the `labelSelector` and `fieldSelector` query parameters spell them (pure).

Grammar of labels (k8s.io/apimachinery/pkg/labels): requirements joined by commas, each `key`, `!key`, `key=v`,
`key==v`, `key!=v`, `key in (a, b)`, `key notin (a, b)`, `key>1`, `key<1`. As in Kubernetes, `!=` and `notin` also
match objects without the key. Fields know only `=`, `==` and `!=`, on the few paths Kubernetes serves for a kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.apis.meta import JsonObject, labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.apis.kinds import Kind

_EVERY_KIND = ("metadata.name", "metadata.namespace")
_BY_KIND: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    ),
    ("", "Event"): (
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.resourceVersion",
        "involvedObject.uid",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    ("", "Namespace"): ("status.phase",),
    ("", "Secret"): ("type",),
}
_KEY = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_SET = re.compile(r"(\S+)\s+(in|notin)\s*\(([^()]*)\)")
_COMPARED = re.compile(r"([^=!<>\s]+)\s*(==|=|!=|>|<)\s*([^=!<>\s]*)")


class SelectorError(ValueError):
    """Not a selector; the text says which part."""


def is_label_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    return _VALUE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Requirement:
    """`operator` is one of in, notin, exists, absent, >, <."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels fulfils it; only `in`, `exists` and comparisons need the label."""
        value = labels.get(self.key)
        match self.operator:
            case "exists":
                return value is not None
            case "absent":
                return value is None
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case _:
                return _compares(value, self.operator, next(iter(self.values)))


def _compares(value: str | None, operator: str, bound: str) -> bool:
    if value is None or not re.fullmatch(r"-?[0-9]{1,18}", value):
        return False
    return int(value) > int(bound) if operator == ">" else int(value) < int(bound)


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """The field at `path`, dots between its parts, has `value`; with `negated` it has another, or is absent."""

    path: str
    value: str
    negated: bool = False

    def matches(self, obj: JsonObject) -> bool:
        return (_field(obj, self.path) == self.value) is not self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Labels and fields together; the empty one selects everything."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[FieldRequirement, ...] = ()

    def matches(self, obj: JsonObject) -> bool:
        """Whether the object fulfils every requirement."""
        if self.labels:
            labels = labels_of(obj)
            if not all(requirement.matches(labels) for requirement in self.labels):
                return False
        return all(requirement.matches(obj) for requirement in self.fields)

    @property
    def is_empty(self) -> bool:
        """Whether it picks everything."""
        return not self.labels and not self.fields

    def exact_name(self) -> str | None:
        """The one name that can match, where the selector says so (`metadata.name=x`)."""
        names = (each.value for each in self.fields if each.path == "metadata.name" and not each.negated)
        return next(names, None)


EVERYTHING = Selector()


def parse(labels: str, fields: str, kind: Kind) -> Selector:
    """Raises SelectorError in Kubernetes' wording."""
    if not labels and not fields:
        return EVERYTHING
    return Selector(parse_labels(labels), parse_fields(fields, kind))


def parse_labels(text: str) -> tuple[Requirement, ...]:
    return tuple(_requirement(part.strip()) for part in _split(text))


def parse_fields(text: str, kind: Kind) -> tuple[FieldRequirement, ...]:
    known = (*_EVERY_KIND, *_BY_KIND.get((kind.group, kind.kind), ()))
    return tuple(_field_requirement(part.strip(), known) for part in text.split(",") if part.strip())


def _split(text: str) -> list[str]:
    """Parts between commas, except the commas inside brackets."""
    if not text.strip():
        return []
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _requirement(part: str) -> Requirement:
    if found := _SET.fullmatch(part):
        key, operator, values = found.groups()
        return Requirement(_key(key, part), operator, frozenset(_value(v.strip(), part) for v in values.split(",")))
    if found := _COMPARED.fullmatch(part):
        key, operator, value = found.groups()
        if operator in "><":
            if not re.fullmatch(r"-?[0-9]{1,18}", value):
                raise SelectorError(
                    f"unable to parse requirement: {part!r}: for '>' and '<' the value must be a number"
                )
            return Requirement(_key(key, part), operator, frozenset({value}))
        return Requirement(_key(key, part), "notin" if operator == "!=" else "in", frozenset({_value(value, part)}))
    if part.startswith("!"):
        return Requirement(_key(part[1:].strip(), part), "absent")
    return Requirement(_key(part, part), "exists")


def _key(text: str, part: str) -> str:
    if not is_label_key(text):
        raise SelectorError(f"unable to parse requirement: {part!r}: {text!r} is not a label key")
    return text


def _value(text: str, part: str) -> str:
    if not is_label_value(text):
        raise SelectorError(f"unable to parse requirement: {part!r}: {text!r} is not a label value")
    return text


def _field_requirement(part: str, known: tuple[str, ...]) -> FieldRequirement:
    path, operator, value = re.match(r"([^=!]*)(!=|==|=)?(.*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
    if operator is None:
        raise SelectorError(f"invalid selector: '{part}'; can't understand '{part}'")
    if path not in known:
        raise SelectorError(f"field label not supported: {path}")
    return FieldRequirement(path, value, operator == "!=")


def _field(obj: JsonObject, path: str) -> str:
    if path == "source" and "involvedObject" in obj:
        path = "source.component"
    value: object = obj
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
