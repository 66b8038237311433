"""The small part of Go's text/template that Knative's configuration uses.

`domain-template`, `tag-template` and `container-name-template` are Go templates over a handful of variables. Whole
text/template is a programming language; what names need is substitution, so that is all there is here:
`{{.Name}}`-like variables and `{{index .Annotations "key"}}` / `{{index .Labels "key"}}`, the latter being empty
where the key is not set, as in Go. Anything else is an error when the ConfigMap is read, not when a name is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE = re.compile(r"\.([A-Z][A-Za-z]*)")
_INDEX = re.compile(r'index\s+\.(Annotations|Labels)\s+"([^"\\]*)"')
_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_LITERAL = re.compile(r"[a-z0-9.-]*")
_MAPS = ("Annotations", "Labels")


@dataclass(frozen=True, slots=True)
class _Literal:
    text: str


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str


@dataclass(frozen=True, slots=True)
class _Index:
    map: str
    key: str


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `source` is the text it was parsed from."""

    source: str
    parts: tuple[_Literal | _Variable | _Index, ...]

    def render(
        self,
        variables: Mapping[str, str],
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """The text with every action replaced. `variables` is keyed by Go's names (`Name`, `Namespace`, …) and must
        hold each one the template was parsed with."""
        maps = {"Annotations": annotations or {}, "Labels": labels or {}}
        return "".join(_rendered(part, variables, maps) for part in self.parts)


def _rendered(
    part: _Literal | _Variable | _Index, variables: Mapping[str, str], maps: Mapping[str, Mapping[str, str]]
) -> str:
    match part:
        case _Literal(text):
            return text
        case _Variable(name):
            return variables[name]
        case _Index(name, key):
            return maps[name].get(key, "")


def parse_template(source: str, variables: frozenset[str]) -> Template:
    """The template in `source`, which may use `variables`, and annotations and labels where those two names are among
    them. Raises ValueError with what is not understood."""
    parts: list[_Literal | _Variable | _Index] = []
    position = 0
    for action in _ACTION.finditer(source):
        parts += _literal(source[position : action.start()])
        parts.append(_action(action[1].strip(), variables))
        position = action.end()
    parts += _literal(source[position:])
    return Template(source, tuple(parts))


def _literal(text: str) -> list[_Literal]:
    if not _LITERAL.fullmatch(text):
        raise ValueError(f'"{text}" does not fit in a host or container name (a-z, 0-9, "-" and "." do)')
    return [_Literal(text)] if text else []


def _action(text: str, variables: frozenset[str]) -> _Variable | _Index:
    variable = _VARIABLE.fullmatch(text)
    if variable and variable[1] in variables and variable[1] not in _MAPS:
        return _Variable(variable[1])
    index = _INDEX.fullmatch(text)
    if index and index[1] in variables:
        return _Index(index[1], index[2])
    known = [f'{{{{index .{name} "key"}}}}' if name in _MAPS else f"{{{{.{name}}}}}" for name in sorted(variables)]
    raise ValueError(f"{{{{{text}}}}} is not one of {', '.join(known)}")
