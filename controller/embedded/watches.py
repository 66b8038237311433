"""One watch: what a client that follows a resource is told, from the state it knows to the end of its connection.

A watch is a queue in the store and a coroutine that takes what is there, writes it in one piece and sleeps until it is
woken, which happens in the turn of the loop in which the write is made. A client that stops reading is held back by its
socket until its queue is full (`store.BACKLOG`); then it is ended with an ERROR event 410 and has to list again. So
each watcher costs bounded memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from controller.embedded import status, views
from controller.embedded.requests import number
from controller.embedded.store import ADDED, DELETED, MODIFIED, Compacted, Event, Store, Stored, TooNew

if TYPE_CHECKING:
    from aiohttp import web

    from controller.embedded.requests import Call

BOOKMARK_INTERVAL = 60.0
WATCH_TIMEOUT = 3600.0
"""Seconds a watch lives at most, and where the client doesn't say."""


class Watch:
    """One watch: what to send first, then what the store's queue brings, until time-out, overflow or shutdown."""

    def __init__(self, call: Call, store: Store) -> None:
        self._store = store
        self._resource = call.resource
        self._namespace = call.target.namespace
        self._selector = call.selector()
        self._view = call.view()
        self._bookmarks = call.query.get("allowWatchBookmarks") in ("true", "1")
        self._initial_end = call.query.get("sendInitialEvents") in ("true", "1")
        self._timeout = min(number(call.query, "timeoutSeconds") or WATCH_TIMEOUT, WATCH_TIMEOUT)
        self._woken = asyncio.Event()
        since = number(call.query, "resourceVersion") or 0
        self._initial: list[Stored] = []
        if since == 0 or self._initial_end:
            if since > store.revision:
                raise status.too_new(since, store.revision)
            since = store.revision
            self._initial = store.find(self._resource.id, self._namespace)
        try:
            self._subscription = store.subscribe(self._resource.id, self._woken.set, since)
        except Compacted:
            raise status.expired(f"too old resource version: {since} ({store.compacted})") from None
        except TooNew:
            raise status.too_new(since, store.revision) from None
        self._started_at = since

    def close(self) -> None:
        """Take no more events; `run` has ended by then."""
        self._store.unsubscribe(self._resource.id, self._subscription)

    async def run(self, response: web.StreamResponse) -> None:
        """Send events until the time-out, the store's end, or a backlog that overflowed, which the client is told as
        410."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        next_bookmark = loop.time() + BOOKMARK_INTERVAL
        await self._send_initial(response)
        while True:
            events = self._subscription.take()
            self._woken.clear()
            if events:
                try:
                    lines = b"".join(self._lines(events))
                except Compacted:  # what it has yet to be told is history already, and gone
                    await response.write(_too_far_behind())
                    return
                if lines:
                    await response.write(lines)
                continue
            if self._subscription.overflowed:
                await response.write(_too_far_behind())
                return
            if self._subscription.closed or loop.time() >= end:
                await self._bookmark(response)
                return
            if loop.time() >= next_bookmark:
                await self._bookmark(response)
                next_bookmark = loop.time() + BOOKMARK_INTERVAL
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(end, next_bookmark)):
                    await self._woken.wait()

    async def _send_initial(self, response: web.StreamResponse) -> None:
        now = datetime.now(UTC)
        lines = [
            views.watch_event(self._view, self._resource, ADDED, stored, now)
            for stored in self._initial
            if self._selects(stored)
        ]
        self._initial = []
        if self._initial_end:
            lines.append(views.bookmark(self._view, self._resource, self._started_at, initial_end=True))
        if lines:
            await response.write(b"".join(lines))

    async def _bookmark(self, response: web.StreamResponse) -> None:
        # Every event up to the store's revision has been taken and written by now: there is no await in between.
        if self._bookmarks:
            await response.write(views.bookmark(self._view, self._resource, self._store.revision))

    def _lines(self, events: list[Event]) -> list[bytes]:
        now = datetime.now(UTC)
        shown = (self._shown(event) for event in events)
        return [views.watch_event(self._view, self._resource, *each, now) for each in shown if each is not None]

    def _shown(self, event: Event) -> tuple[str, Stored] | None:
        """What this watcher sees of an event. An object that leaves its selection is deleted to it, one that enters
        is added."""
        if self._namespace is not None and event.new.key.namespace != self._namespace:
            return None
        before = event.old is not None and self._selects(event.old)
        after = event.type != DELETED and self._selects(event.new)
        if after:
            return (MODIFIED if before else ADDED), event.new
        if before and event.old is not None:
            return DELETED, event.new if event.type == DELETED else _as_of(event.old, event.revision)
        return None

    def _selects(self, stored: Stored) -> bool:
        return self._selector.is_empty or self._selector.matches(stored.obj)


def _as_of(old: Stored, revision: int) -> Stored:
    obj = {**old.obj, "metadata": {**old.obj["metadata"], "resourceVersion": str(revision)}}
    return Stored(old.key, revision, obj, orjson.dumps(obj))


def _too_far_behind() -> bytes:
    error = status.expired("the watch fell too far behind; list again")
    return orjson.dumps({"type": "ERROR", "object": error.status()}) + b"\n"
