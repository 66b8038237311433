"""Host, path and fields of a request → the rule that takes it.

Theory of operation
-------------------
The key is the host without port and trailing dot, lower-case, in one table per listener (external rules must not
answer on the cluster-local one, nor the other way round). The rules of one host are ordered longest path first and,
for the same path, those that match fields before those that don't, so the first that fits is the right one (Knative's
ingress contract). Paths match by whole segments: `/api` takes `/api` and `/api/x`, not `/apix`.

Rules are compiled once: the splits to a `Weighted`, the fields to bytes. Most hosts have one rule for `/`, which needs
no scan. An update touches only the hosts it names, so its cost does not grow with the table; the same host may come
from several routes. A request holds the compiled rule it was matched to, so the table may change under it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.fields import Additions, normalise_host
from gateway.core.split import Weighted
from gateway.errors import NoRoute, NotReady

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.contract import Fields, RevisionId, RouteId, RouteRule
    from gateway.core.http1 import RequestHead

__all__ = ["CompiledRule", "Destination", "RouteTable"]


class Destination:
    """Where one split sends its requests, and what it sets on them."""

    __slots__ = ("additions", "revision")

    def __init__(self, revision: RevisionId, *groups: Fields) -> None:
        self.revision = revision
        self.additions = Additions(*groups)


class CompiledRule:
    """One rule, ready to be applied."""

    __slots__ = ("destinations", "match_fields", "path", "redirect_port", "rewrite_host")

    def __init__(self, rule: RouteRule, destinations: Weighted[Destination]) -> None:
        self.path = rule.path.encode().rstrip(b"/")  # b"" takes every path
        self.match_fields = tuple((name.encode(), value.encode("latin-1")) for name, value in rule.match_fields)
        self.rewrite_host = None if rule.rewrite_host is None else rule.rewrite_host.encode()
        self.redirect_port = rule.redirect_port
        self.destinations = destinations

    def takes(self, path: bytes, head: RequestHead) -> bool:
        """Whether a request for `path` (without query) is this rule's."""
        if not path.startswith(self.path):
            return False
        if len(path) > len(self.path) and path[len(self.path) : len(self.path) + 1] != b"/":
            return False
        return all(head.field(name) == value for name, value in self.match_fields)


class _Compiler:
    """Compiles the rules of one update. The hosts of a route share what they do not differ in, which the feed has made
    one object: it is compiled once too."""

    __slots__ = ("_shared",)

    def __init__(self) -> None:
        self._shared: dict[tuple[int, int], Weighted[Destination]] = {}

    def compiled(self, rule: RouteRule) -> CompiledRule:
        key = (id(rule.splits), id(rule.append_fields))  # the rules are in the table by now, so no id is used again
        destinations = self._shared.get(key)
        if destinations is None:
            destinations = self._shared[key] = Weighted(
                [
                    (Destination(split.revision, rule.append_fields, split.append_fields), split.percent)
                    for split in rule.splits
                ]
            )
        return CompiledRule(rule, destinations)


class _Host:
    __slots__ = ("only", "rules")

    def __init__(self, compiled: list[CompiledRule]) -> None:
        # Stable: between equals, the order of the routes decides, and that is their names'.
        self.rules = sorted(compiled, key=lambda rule: (-len(rule.path), -len(rule.match_fields)))
        first = self.rules[0]
        self.only = first if len(compiled) == 1 and not first.path and not first.match_fields else None


_Key = tuple[bool, str]


class RouteTable:
    """The rules of a snapshot. Start empty, then `update` with each change. Before the first, every host is NotReady:
    an empty table that was never told anything must not deny a service that may well be there."""

    __slots__ = ("_known", "_routes", "_sources", "_tables")

    def __init__(self) -> None:
        self._known = False
        self._tables: tuple[dict[bytes, _Host], dict[bytes, _Host]] = ({}, {})
        self._routes: dict[RouteId, tuple[RouteRule, ...]] = {}
        self._sources: dict[_Key, tuple[RouteId, ...]] = {}  # in the order of their names; nearly always one

    def update(self, changes: Mapping[RouteId, tuple[RouteRule, ...] | None]) -> None:
        """Set the rules of some routes, or drop them where None. Raises ValueError for splits that don't sum to 100."""
        for rules in changes.values():
            _check(rules or ())
        self._known = True
        touched: set[_Key] = set()
        for route, rules in changes.items():
            for key in _keys(self._routes.pop(route, ())):
                self._sources[key] = tuple(other for other in self._sources[key] if other != route)
                touched.add(key)
            if rules:
                self._routes[route] = rules
                for key in _keys(rules):
                    self._sources[key] = tuple(sorted((*self._sources.get(key, ()), route)))
                    touched.add(key)
        compiler = _Compiler()
        for key in touched:
            self._rebuild(key, compiler)

    def _rebuild(self, key: _Key, compiler: _Compiler) -> None:
        cluster_local, host = key
        routes = self._sources[key]
        table = self._tables[cluster_local]
        if not routes:
            del self._sources[key]
            table.pop(host.encode(), None)
            return
        table[host.encode()] = _Host(
            [
                compiler.compiled(rule)
                for route in routes
                for rule in self._routes[route]
                if rule.host == host and rule.cluster_local == cluster_local
            ]
        )

    def match(self, cluster_local: bool, head: RequestHead) -> CompiledRule:
        """The rule for a request on one of the two listeners. Raises NoRoute, NotReady."""
        table = self._tables[cluster_local]
        name = head.host or b""
        host = table.get(name)  # most clients send just the key
        if host is None:
            host = table.get(normalise_host(name))
            if host is None:
                if not self._known:
                    raise NotReady("The gateway has not heard from its controller yet; ask again in a moment.")
                raise NoRoute(f"No service answers to the host {name.decode('latin-1')!r} here.")
        if host.only is not None:
            return host.only
        path = head.target.partition(b"?")[0]
        for rule in host.rules:
            if rule.takes(path, head):
                return rule
        raise NoRoute(f"The host {name.decode('latin-1')!r} has no rule for the path {path.decode('latin-1')!r}.")

    def __len__(self) -> int:
        return len(self._sources)


def _check(rules: Iterable[RouteRule]) -> None:
    """Refuse an update as a whole, before anything of it is in the table."""
    for rule in rules:
        if sum(split.percent for split in rule.splits) != 100:
            raise ValueError(f"the splits of host {rule.host!r}, path {rule.path!r} do not sum to 100")


def _keys(rules: Iterable[RouteRule]) -> set[_Key]:
    return {(rule.cluster_local, rule.host) for rule in rules}
