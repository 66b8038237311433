"""List, then watch, and keep what was seen: the cache every reconcile reads.

Theory of operation
-------------------
An `Informer` owns one kind. It lists (in pages), remembers the list's resourceVersion, and watches from there; every
event and bookmark moves that version on, so that a kind in which nothing happens does not fall out of the server's
history. What changes goes into a `KindCache`, and each real change is told to one sink, synchronously, as
`(old, new)`. `Caches` puts the kinds together behind the `Cache` protocol of the reconcilers.

What goes wrong with watches, and what happens then:

- 410 Gone, as the status of the watch or as an ERROR event inside a 200 answer: list again and tell the sink the
  difference to what was cached. The old resourceVersion is never tried again. Any other ERROR event does the same.
- The server ends the watch after `timeoutSeconds`: watch again from the last version. The time is drawn at random
  between `WATCH_SECONDS`, so that the watches of all kinds don't come back in the same moment.
- The connection goes silent (a NAT forgot it): the read time-out is `READ_MARGIN` longer than the server's time-out,
  so whatever the network does, a dead watch is replaced.
- A line arrives cut into chunks, or is longer than a stream reader's line limit: `LineSplitter` puts lines together,
  up to `LINE_LIMIT`.
- The server is away: back-off from 0.1 s doubling to 30 s with jitter; the cache keeps what it had. A watch that ends
  at once without an event counts as a failure, so that a server which slams the door is not called in a loop.

A write's answer is newer than the cache until its event arrives. `KindCache.offer` takes it in at once, which spares
the next reconcile from repeating what it just did, and saves the way through the watch. That is safe because the
watch's version says what it has told already: an answer not above it is old news and is dropped (the object may have
been deleted since), and an event or list below an accepted answer does not take it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import orjson

from controller.apis import labels as keys
from controller.apis.meta import Key, key_of, labels_of
from controller.apis.references import references
from controller.kube.errors import Gone, KubeError, Unavailable, error_from_status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.kube.client import Kube

log = logging.getLogger(__name__)

Entry = TypeVar("Entry")

INDEXED_LABELS = (
    keys.SERVICE,
    keys.CONFIGURATION,
    keys.REVISION,
    keys.REVISION_UID,
    keys.ROUTE,
    keys.SERVICE_NAME,
)
"""Labels that reconcilers select by; a list by one of them touches only the objects that match."""

LIST_PAGE = 500
"""Objects a page, as client-go asks for: a page stays a few megabytes at most."""

WATCH_SECONDS = (120.0, 240.0)
READ_MARGIN = 15.0
BACK_OFF_BASE = 0.1
BACK_OFF_CAP = 30.0
SHORT_WATCH = 1.0
"""Seconds; a watch that lived shorter and said nothing counts as failed."""

LINE_LIMIT = 16 * 2**20
"""Bytes of one watch event. etcd refuses objects above 1.5 MiB and JSON can only be a few times longer."""

_COME_BACK_LATER = (0, 429, 503)
"""Failures of the connection or of a busy server (0: no answer at all): the place in history still holds."""

Change = tuple["JsonObject | None", "JsonObject | None"]
"""(old, new): None for old is a creation, None for new a deletion."""


class LineSplitter:
    """Chunks in, whole lines out. Raises Unavailable when a line exceeds `limit` bytes."""

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are complete now, without their newline; empty lines are left out."""
        first, *rest = chunk.split(b"\n")
        self._keep(first)
        lines = []
        for part in rest:
            lines.append(b"".join(self._parts))
            self._parts, self._size = [], 0
            self._keep(part)
        return [line for line in lines if line.strip()]

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise Unavailable(0, "", f"a watch event is longer than {self._limit} bytes")
        if part:
            self._parts.append(part)


class KindCache:
    """The known objects of one kind, indexed by namespace, by `INDEXED_LABELS` and by whom they refer to."""

    def __init__(self) -> None:
        self._objects: dict[Key, JsonObject] = {}
        self._by_namespace: dict[str, set[Key]] = defaultdict(set)
        self._by_label: dict[tuple[str, str], set[Key]] = defaultdict(set)
        self._by_reference: dict[str, set[Key]] = defaultdict(set)
        self._ahead: dict[Key, int] = {}  # versions of offered objects that the watch has not reached yet
        self.version = ""
        """Everything up to this resourceVersion has been seen; "" before the first list."""

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._objects)

    def get(self, key: Key) -> JsonObject | None:
        """The object, or None. It is shared: never change it."""
        return self._objects.get(key)

    def select(self, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[JsonObject]:
        """As `Cache.list`: the cost is that of the smallest index that applies, not of the whole kind."""
        wanted = labels or {}
        candidates: list[Collection[Key]] = [
            self._by_label.get((name, value), ()) for name, value in wanted.items() if name in INDEXED_LABELS
        ]
        if namespace is not None:
            candidates.append(self._by_namespace.get(namespace, ()))
        smallest = min(candidates, key=len, default=self._objects.keys())
        found = sorted(smallest if namespace is None else (key for key in smallest if key.namespace == namespace))
        objects = [self._objects[key] for key in found]
        return [obj for obj in objects if wanted.items() <= labels_of(obj).items()] if wanted else objects

    def referring(self, namespace: str, reference: str) -> list[JsonObject]:
        """As `Cache.referring`."""
        found = (key for key in self._by_reference.get(reference, ()) if key.namespace == namespace)
        return [self._objects[key] for key in sorted(found)]

    def replace(self, items: Iterable[JsonObject], version: str) -> list[Change]:
        """A list taken at `version` becomes the content; answers offered since then stay. The changes, in any order."""
        listed = {key_of(obj): obj for obj in items}
        floor = _number(version)
        self._ahead = {key: at for key, at in self._ahead.items() if floor is not None and at > floor}
        self.version = version
        changes = [self._set(key, None) for key in list(self._objects) if key not in listed and key not in self._ahead]
        changes += [self._set(key, obj) for key, obj in listed.items() if key not in self._ahead]
        return [change for change in changes if change is not None]

    def observe(self, event_type: str, obj: JsonObject) -> Change | None:
        """A watch event in its order. None when it changes nothing here."""
        key, at = key_of(obj), resource_version(obj)
        self.version = at
        ahead = self._ahead.get(key)
        if ahead is not None:
            number = _number(at)
            if number is not None and number < ahead:
                return None
            del self._ahead[key]
        return self._set(key, None if event_type == "DELETED" else obj)

    def bookmark(self, version: str) -> None:
        """The watch has passed `version`: a watch that breaks may go on from there."""
        self.version = version
        reached = _number(version)
        if reached is not None and self._ahead:
            self._ahead = {key: at for key, at in self._ahead.items() if at > reached}

    def offer(self, obj: JsonObject) -> Change | None:
        """The answer to a write of ours. None when the watch has told about it already, or it can't be compared."""
        key, at, reached = key_of(obj), _number(resource_version(obj)), _number(self.version)
        if at is None or reached is None or at <= max(reached, self._ahead.get(key, 0)):
            return None
        if "deletionTimestamp" not in obj["metadata"] or obj["metadata"].get("finalizers"):
            self._ahead[key] = at
            return self._set(key, obj)
        return None

    def _set(self, key: Key, obj: JsonObject | None) -> Change | None:
        old = self._objects.pop(key, None)
        if obj is not None:
            self._objects[key] = obj
        if old is None or obj is None or _indexed(old) != _indexed(obj) or references(old) != references(obj):
            if old is not None:
                self._unindex(key, old)
            if obj is not None:
                self._index(key, obj)
        if obj is None:
            return None if old is None else (old, None)
        unchanged = old is not None and resource_version(old) == resource_version(obj)
        return None if unchanged else (old, obj)

    def _index(self, key: Key, obj: JsonObject) -> None:
        self._by_namespace[key.namespace].add(key)
        for index in _indexed(obj):
            self._by_label[index].add(key)
        for reference in references(obj):
            self._by_reference[reference].add(key)

    def _unindex(self, key: Key, obj: JsonObject) -> None:
        _discard(self._by_namespace, key.namespace, key)
        for index in _indexed(obj):
            _discard(self._by_label, index, key)
        for reference in references(obj):
            _discard(self._by_reference, reference, key)


class Caches:
    """`Cache` over several kinds. A kind nobody watches is a programming error: KeyError."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.kinds = {kind: KindCache() for kind in kinds}

    def get(self, kind: Kind, key: Key) -> JsonObject | None:
        """As in `plan.Cache`; KeyError for a kind that is not watched."""
        return self.kinds[kind].get(key)

    def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[JsonObject]:
        return self.kinds[kind].select(namespace, labels)

    def referring(self, kind: Kind, namespace: str, reference: str) -> Sequence[JsonObject]:
        return self.kinds[kind].referring(namespace, reference)


class Informer:
    """Keeps one `KindCache` equal to the server, for one kind and, if given, one namespace and a field selector."""

    def __init__(
        self,
        kube: Kube,
        kind: Kind,
        cache: KindCache,
        sink: Callable[[JsonObject | None, JsonObject | None], None],
        *,
        namespace: str = "",
        field_selector: str = "",
    ) -> None:
        self._kube = kube
        self._kind = kind
        self._cache = cache
        self._sink = sink
        self._namespace = namespace
        self._field_selector = field_selector
        self._failures = 0
        self._must_list = True
        self.synced = asyncio.Event()
        """Set when the first list is in the cache."""

    async def run(self) -> None:
        """Until cancelled. Errors of the server never end it; an error of the sink does, because that is a bug."""
        while True:
            try:
                if self._must_list:
                    await self._list()
                await self._watch()
            except Gone as error:
                log.info("%s: listing again: %s", self._kind.plural, error)
                self._must_list = True
                await self._back_off()
            except KubeError as error:
                log.warning("watching %s failed, trying again: %s", self._kind.plural, error)
                self._must_list = self._must_list or error.status not in _COME_BACK_LATER
                await self._back_off()

    # --- list ---------------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        try:
            items, version = await self._pages(LIST_PAGE)
        except Gone:  # a continue token expired half way: only a list in one piece is sure to end
            items, version = await self._pages(0)
        changes = self._cache.replace(items, version)
        self._must_list = False
        for old, new in changes:
            self._sink(old, new)
        self.synced.set()

    async def _pages(self, limit: int) -> tuple[list[JsonObject], str]:
        items: list[JsonObject] = []
        token = version = ""
        while True:
            page = await self._kube.list(
                self._kind,
                self._namespace or None,
                field_selector=self._field_selector,
                limit=limit,
                continue_=token,
            )
            meta = page.get("metadata") or {}
            version = version or str(meta.get("resourceVersion") or "")
            items += [self._typed(item) for item in page.get("items") or ()]
            token = str(meta.get("continue") or "")
            if not token:
                return items, version

    def _typed(self, item: JsonObject) -> JsonObject:
        """Items of a list of built-in kinds come without apiVersion and kind."""
        item.setdefault("apiVersion", self._kind.api_version)
        item.setdefault("kind", self._kind.kind)
        return item

    # --- watch --------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """One watch, until the server ends it. Raises KubeError; Gone when only a list can help."""
        loop = asyncio.get_running_loop()
        seconds = random.uniform(*WATCH_SECONDS)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "fieldSelector": self._field_selector,
            "resourceVersion": self._cache.version,
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        started, events = loop.time(), 0
        lines = LineSplitter()
        read_timeout = seconds + READ_MARGIN
        stream = self._kube.stream(self._kind, Key(self._namespace, ""), query=query, read_timeout=read_timeout)
        async with stream as chunks:
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    self._on_line(line)
                    events += 1
                    self._failures = 0
        if not events and loop.time() - started < SHORT_WATCH:
            await self._back_off()

    def _on_line(self, line: bytes) -> None:
        event_type, obj = parse_event(line)
        if event_type == "BOOKMARK":
            self._cache.bookmark(resource_version(obj))
            return
        change = self._cache.observe(event_type, self._typed(obj))
        if change is not None:
            self._sink(*change)

    async def _back_off(self) -> None:
        delay = min(BACK_OFF_CAP, BACK_OFF_BASE * 2 ** min(self._failures, 20))
        self._failures += 1
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))


def parse_event(line: bytes) -> tuple[str, JsonObject]:
    """Type and object of one watch event. Raises Gone for an ERROR event, and for what is no event at all: in both
    cases this place in history is lost, and only a list can help."""
    try:
        event = orjson.loads(line)
        event_type, obj = str(event["type"]), event["object"]
        if event_type not in ("ERROR", "BOOKMARK"):
            key_of(obj)
        elif event_type == "BOOKMARK":
            resource_version(obj)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Gone(0, "", f"not a watch event: {line[:200]!r}") from error
    if event_type == "ERROR":
        cause = error_from_status(obj if isinstance(obj, dict) else {})
        raise Gone(cause.status, cause.reason, cause.message)
    return event_type, obj


def resource_version(obj: JsonObject) -> str:
    """The object's resourceVersion, "" if it has none. Only equality means anything."""
    return str(obj["metadata"].get("resourceVersion") or "")


def _number(version: str) -> int | None:
    """The version as a number where it is one; Kubernetes' are (KEP-5504), but a client must survive any other."""
    with contextlib.suppress(ValueError):
        return int(version)
    return None


def _indexed(obj: JsonObject) -> list[tuple[str, str]]:
    labels = labels_of(obj)
    return [(name, labels[name]) for name in INDEXED_LABELS if name in labels]


def _discard(index: dict[Entry, set[Key]], entry: Entry, key: Key) -> None:
    members = index[entry]
    members.discard(key)
    if not members:
        del index[entry]
