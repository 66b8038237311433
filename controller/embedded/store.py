"""The embedded API server's store: all objects, one counter of revisions, and the log that watches read.

Theory of operation
-------------------
One SQLite table is both the log and the state: each write adds a row `(revision, resource, namespace, name, deleted,
body)`, and an object's newest row is its state. SQLite in WAL mode with synchronous=NORMAL hands every commit to the
kernel before the write is acknowledged, so an acknowledged write survives `kill -9` of the process; it costs no fsync
(a power cut may lose the last moments, never consistency). The fsyncs happen at checkpoints, which `checkpoint` does
on a connection of its own so that a thread can run it beside the writer.

Nearly everything that is read comes from memory: live objects as parsed JSON and as the bytes on disk (lists and
watches splice the bytes), and the newest `history` events. An event keeps the object it replaced, so a watcher with a
selector can be told when an object left its view, and a paginated list can be continued at the revision it began with.
What has been replaced is read again by hardly anybody but the watchers of that moment: beyond the last `RECENT`
versions its bytes are only on disk, which took the process from 64 MiB of them, and as much of holes in its heap, to a
few.

Compaction: when the log holds `history` events and a tenth more (or their bodies pass `HISTORY_BYTES`), the oldest are
dropped and the rows they replaced are deleted. A watch from before that point raises `Compacted` (410 Gone).

Subscriptions are the fan-out: a write offers its event to each subscriber of the resource in the same call; what a
subscriber hasn't taken yet is bounded, and one that falls behind is cut off (`Subscription.overflowed`).

Objects handed out are shared: never change one. There is one writer, this process: `lock` on the directory refuses a
second one. All methods are synchronous and must run on one thread, except `checkpoint`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import orjson

from controller.apis.meta import JsonObject, Key
from controller.embedded.resources import ResourceId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"

HISTORY = 10_000
"""Events kept for watches that resume; etcd behind Kubernetes keeps five minutes."""
HISTORY_BYTES = 32 * 1024 * 1024
"""On disk."""
RECENT = 512
"""Replaced versions that are still held in memory."""
BACKLOG = 4_096
"""Events a subscriber may leave untaken."""
_CHECKPOINT_WRITES = 500
"""Writes between checkpoints (a body longer than a page counts for more): the write-ahead log stays at some 13 MB."""
_LOG_LIMIT = 16 * 1024 * 1024
"""Bytes to which the write-ahead log is cut back when a checkpoint that came late let it grow."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
  revision INTEGER PRIMARY KEY,
  resource_group TEXT NOT NULL,
  resource TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  deleted INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class StoreInUse(RuntimeError):
    """Another process has the data directory."""


class StoreUnusable(RuntimeError):
    """The database can't be read; the text says what to do."""


class Compacted(LookupError):
    """The history asked for is gone."""


class TooNew(LookupError):
    """The revision asked for has not happened yet."""


class Stored:
    """One version of an object; `size` is the length of its JSON. Parsed it is kept while the version is the live one,
    and its bytes until it is put away."""

    __slots__ = ("_body", "_obj", "_read", "key", "revision", "size")

    def __init__(self, key: Key, revision: int, obj: JsonObject | None, body: bytes) -> None:
        self.key = key
        self.revision = revision
        self.size = len(body)
        self._body: bytes | None = body
        self._obj = obj
        self._read: Callable[[int], bytes] | None = None

    @property
    def body(self) -> bytes:
        """Its JSON. Raises Compacted for one that was put away and whose history is gone."""
        if self._body is not None:
            return self._body
        assert self._read is not None
        return self._read(self.revision)

    @property
    def obj(self) -> JsonObject:
        """As `body`, parsed."""
        if self._obj is not None:
            return self._obj
        parsed: JsonObject = orjson.loads(self.body)
        return parsed

    def parse(self) -> None:
        """It is the live version, to be read often."""
        self._obj = self.obj

    def supersede(self) -> None:
        """Another version is the live one: this is history, which hardly anybody reads. Its bytes are enough; parsed
        they would take five times the memory, and the collector's time."""
        self._obj = None

    def put_away(self, read: Callable[[int], bytes]) -> None:
        """Not even the bytes are kept: `read` fetches those of a revision."""
        self._body, self._read = None, read


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What one write did. `new` is the object after it; for a deletion its last state under the deletion's revision.
    `old` is None for a creation."""

    revision: int
    type: str
    resource: ResourceId
    new: Stored
    old: Stored | None


class Subscription:
    """One watcher's queue. `wake` is called on the writer's stack whenever something was added to an empty queue or
    the subscription ended; it must not write to the store."""

    __slots__ = ("_closed", "_events", "_wake", "overflowed")

    def __init__(self, wake: Callable[[], None], events: Iterable[Event]) -> None:
        self._wake = wake
        self._events: list[Event] = list(events)
        self._closed = False
        self.overflowed = False

    def offer(self, event: Event) -> None:
        if self.overflowed:
            return
        if len(self._events) >= BACKLOG:
            self._events.clear()
            self.overflowed = True
            self._wake()
            return
        self._events.append(event)
        if len(self._events) == 1:
            self._wake()

    def take(self) -> list[Event]:
        """All that is queued, oldest first; the queue is empty afterwards."""
        taken, self._events = self._events, []
        return taken

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """No more events will come: the server is stopping."""
        self._closed = True
        self._wake()


class Store:
    """Opens (or makes) the store in `directory`. Raises StoreInUse, StoreUnusable, or OSError."""

    def __init__(self, directory: Path, *, history: int = HISTORY) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(directory / "lock")
        self._path = directory / "objects.sqlite"
        self._path.touch(mode=0o600)  # it holds Secrets; SQLite's other files copy this mode
        self._history = history
        self._objects: dict[ResourceId, dict[str, dict[str, Stored]]] = {}
        self._log: deque[Event] = deque()
        self._log_bytes = 0
        self._replaced: deque[Stored] = deque()  # the last RECENT of them
        self._subscriptions: dict[ResourceId, set[Subscription]] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._uncheckpointed = 0
        self._compacted = self._revision = 0
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock)
            self._db = self._opened()
            undo.pop_all()

    def _opened(self) -> sqlite3.Connection:
        """The database, read. Raises StoreUnusable."""
        try:
            db = _connect(self._path)
            db.executescript(_SCHEMA)
            row = db.execute("SELECT value FROM facts WHERE name = 'compacted'").fetchone()
            self._compacted = self._revision = row[0] if row else 0
            self._load(db)
        except sqlite3.OperationalError as error:
            raise StoreUnusable(f"{self._path} can't be used: {error}") from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise StoreUnusable(
                f"{self._path} is damaged ({error}): put a backup in its place, or move {self._path}* away to begin"
                " with no objects"
            ) from error
        return db

    @property
    def revision(self) -> int:
        """The newest write's revision; 0 in an empty store."""
        return self._revision

    @property
    def compacted(self) -> int:
        """The newest revision whose history is gone."""
        return self._compacted

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, resource: ResourceId, key: Key) -> Stored | None:
        return self._objects.get(resource, {}).get(key.namespace, {}).get(key.name)

    def find(self, resource: ResourceId, namespace: str | None = None) -> list[Stored]:
        """All live objects of a resource, in one namespace if given, sorted by key."""
        namespaces = self._objects.get(resource, {})
        if namespace is not None:
            found = namespaces.get(namespace, {})
            return [found[name] for name in sorted(found)]
        return [namespaces[ns][name] for ns in sorted(namespaces) for name in sorted(namespaces[ns])]

    def count(self, resource: ResourceId, namespace: str) -> int:
        """How many live objects of a resource a namespace has."""
        return len(self._objects.get(resource, {}).get(namespace, ()))

    def find_at(self, revision: int, resource: ResourceId, namespace: str | None = None) -> list[Stored]:
        """The list as it was at `revision`. Raises Compacted or TooNew."""
        state = {stored.key: stored for stored in self.find(resource, namespace)}
        for event in reversed(self.since(revision)):
            if event.resource != resource or namespace not in (None, event.new.key.namespace):
                continue
            if event.old is None:
                state.pop(event.new.key, None)
            else:
                state[event.new.key] = event.old
        return [state[key] for key in sorted(state)]

    def in_namespace(self, namespace: str) -> Iterator[tuple[ResourceId, Stored]]:
        """Everything that lives in a namespace."""
        for resource, namespaces in self._objects.items():
            for stored in namespaces.get(namespace, {}).values():
                yield resource, stored

    def everything(self) -> Iterator[tuple[ResourceId, Stored]]:
        for resource, namespaces in self._objects.items():
            for names in namespaces.values():
                for stored in names.values():
                    yield resource, stored

    def since(self, revision: int) -> list[Event]:
        """Events after `revision`, oldest first. Raises Compacted or TooNew."""
        if revision > self._revision:
            raise TooNew
        if revision < self._compacted:
            raise Compacted
        first = bisect_right(self._log, revision, key=lambda event: event.revision)
        return [self._log[index] for index in range(first, len(self._log))]

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, resource: ResourceId, key: Key, obj: JsonObject) -> Stored:
        """Writes `obj` (the store keeps it and sets metadata.resourceVersion) as the object's new state."""
        stored = self._stamp(key, obj)
        old = self.get(resource, key)
        self._append(resource, stored, deleted=False)
        self._objects.setdefault(resource, {}).setdefault(key.namespace, {})[key.name] = stored
        self._publish(Event(stored.revision, MODIFIED if old else ADDED, resource, stored, old))
        if old is not None:
            self._supersede(old)
        return stored

    def remove(self, resource: ResourceId, key: Key) -> Stored:
        """Deletes a live object; returns its last state under the deletion's revision. Raises KeyError."""
        namespaces = self._objects[resource]
        old = namespaces[key.namespace][key.name]
        stored = self._stamp(key, orjson.loads(old.body))
        self._append(resource, stored, deleted=True)
        self._drop(namespaces, key)
        self._publish(Event(stored.revision, DELETED, resource, stored, old))
        self._supersede(old)
        self._supersede(stored)
        return stored

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Calls `listener` with every event, on the writer's stack; it must not write to the store."""
        self._listeners.append(listener)

    def subscribe(self, resource: ResourceId, wake: Callable[[], None], since: int) -> Subscription:
        """A queue of `resource`'s events after revision `since`. Raises Compacted or TooNew."""
        missed = (event for event in self.since(since) if event.resource == resource)
        subscription = Subscription(wake, missed)
        self._subscriptions.setdefault(resource, set()).add(subscription)
        return subscription

    def unsubscribe(self, resource: ResourceId, subscription: Subscription) -> None:
        self._subscriptions[resource].discard(subscription)

    def subscriptions(self, resource: ResourceId) -> tuple[Subscription, ...]:
        """Who follows a resource."""
        return tuple(self._subscriptions.get(resource, ()))

    def end_subscriptions(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in tuple(subscriptions):
                subscription.close()

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def wants_checkpoint(self) -> bool:
        return self._uncheckpointed >= _CHECKPOINT_WRITES

    def checkpoint(self) -> bool:
        """Moves the write-ahead log into the database and syncs; call it from a thread, the writer goes on. False if
        something was written meanwhile: the log begins anew with the first write that finds all of it moved, so without
        another checkpoint in a quieter moment it would only grow."""
        self._uncheckpointed = 0
        db = _connect(self._path)
        try:
            _, in_log, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            db.close()
        return bool(moved >= in_log)

    def close(self) -> None:
        self.end_subscriptions()
        # On a full disk the write-ahead log stays as it is, and the next start reads it.
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._db.close()
        os.close(self._lock)

    def _stamp(self, key: Key, obj: JsonObject) -> Stored:
        revision = self._revision + 1
        obj["metadata"]["resourceVersion"] = str(revision)
        return Stored(key, revision, obj, orjson.dumps(obj))

    def _append(self, resource: ResourceId, stored: Stored, *, deleted: bool) -> None:
        self._db.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)",
            (stored.revision, *resource, *stored.key, deleted, stored.body),
        )
        self._revision = stored.revision
        self._uncheckpointed += 1 + len(stored.body) // 4096

    def _supersede(self, stored: Stored) -> None:
        stored.supersede()
        self._replaced.append(stored)
        if len(self._replaced) > RECENT:
            self._replaced.popleft().put_away(self._body_of)

    def _body_of(self, revision: int) -> bytes:
        row = self._db.execute("SELECT body FROM log WHERE revision = ?", (revision,)).fetchone()
        if row is None:
            raise Compacted
        body: bytes = row[0]
        return body

    def _drop(self, namespaces: dict[str, dict[str, Stored]], key: Key) -> None:
        names = namespaces[key.namespace]
        del names[key.name]
        if not names:
            del namespaces[key.namespace]

    def _publish(self, event: Event) -> None:
        self._remember(event)
        for listener in self._listeners:
            listener(event)
        for subscription in self._subscriptions.get(event.resource, ()):
            subscription.offer(event)
        if len(self._log) > self._history * 1.1 or self._log_bytes > HISTORY_BYTES:
            # The write is acknowledged whatever happens here; a full disk lets the next write try again.
            with contextlib.suppress(sqlite3.Error):
                self._compact()

    def _remember(self, event: Event) -> None:
        self._log.append(event)
        self._log_bytes += event.new.size

    def _compact(self) -> None:
        """Forgets the oldest events, down to the bounds less a tenth of the bytes, and deletes the rows they made
        useless. The newest event stays: its row carries the revision counter over a restart."""
        count, size = 0, self._log_bytes
        useless: list[tuple[int]] = []
        for event in islice(self._log, len(self._log) - 1):
            if len(self._log) - count <= self._history and size <= HISTORY_BYTES * 0.9:
                break
            count += 1
            size -= event.new.size
            if event.old is not None:
                useless.append((event.old.revision,))
            if event.type == DELETED:
                useless.append((event.revision,))
        if count == 0:
            return
        compacted = self._log[count - 1].revision
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM log WHERE revision = ?", useless)
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('compacted', ?)", (compacted,))
        self._compacted, self._log_bytes = compacted, size
        self._uncheckpointed += len(useless)
        for _ in range(count):
            self._log.popleft()

    def _load(self, db: sqlite3.Connection) -> None:
        rows = db.execute(
            "SELECT revision, resource_group, resource, namespace, name, deleted, body FROM log ORDER BY revision"
        )
        for revision, group, plural, namespace, name, deleted, body in rows:
            resource, key = ResourceId(group, plural), Key(namespace, name)
            stored = Stored(key, revision, None, body)
            old = self.get(resource, key)
            namespaces = self._objects.setdefault(resource, {})
            if not deleted:
                namespaces.setdefault(namespace, {})[name] = stored
            elif old is not None:
                self._drop(namespaces, key)
            if old is not None:
                self._supersede(old)
            if deleted:
                self._supersede(stored)
            if revision > self._compacted:
                kind = DELETED if deleted else MODIFIED if old else ADDED
                self._remember(Event(revision, kind, resource, stored, old))
            self._revision = revision
        for _, stored in self.everything():
            stored.parse()


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL").fetchall()
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(f"PRAGMA journal_size_limit={_LOG_LIMIT}").fetchall()
    # Checkpoints sync the disk; `checkpoint` does them off the writer's thread instead of SQLite within a commit.
    db.execute("PRAGMA wal_autocheckpoint=0").fetchall()
    return db


def _lock(path: Path) -> int:
    """The descriptor that holds the directory's lock; the kernel lets go of it when the process ends, however."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        by = f" (process {holder})" if holder else ""
        raise StoreInUse(
            f"{path.parent} is in use by another zerogate{by}; stop that one or choose another directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
