import asyncio
import contextlib
from collections import deque

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from controller.apis import kinds, labels
from controller.apis.meta import Key, key_of
from controller.kube import informer as informer_module
from controller.kube.client import KubeClient
from controller.kube.errors import Gone, Unavailable
from controller.kube.informer import Caches, Informer, KindCache, LineSplitter, parse_event
from tests.polling import until


def obj(name, version, namespace="ns", **label_values):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "resourceVersion": str(version),
            "labels": label_values,
        },
    }


def names(cache):
    return {(key.name, cache.get(key)["metadata"]["resourceVersion"]) for key in cache}


# --- lines ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b and b.strip())), st.integers(1, 7))
def test_lines_come_out_whole_however_they_are_cut(lines, size):
    """Cutting the stream anywhere changes nothing."""
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter()
    out = [line for i in range(0, len(stream), size) for line in splitter.feed(stream[i : i + size])]
    assert out == lines


def test_a_line_above_the_bound_is_refused():
    """Memory for one event is bounded, and the bound is for a line, not for the stream."""
    splitter = LineSplitter(limit=10)
    assert splitter.feed(b"0123456789\n" * 5) == [b"0123456789"] * 5
    splitter.feed(b"01234")
    with pytest.raises(Unavailable, match="longer than 10"):
        splitter.feed(b"567890")


# --- cache ------------------------------------------------------------------------------------------------------------


def test_a_list_selects_by_namespace_and_labels_and_is_sorted():
    """Indexed and other labels together; all of them must match."""
    cache = Caches([kinds.POD])
    pods = cache.kinds[kinds.POD]
    rev = labels.REVISION
    pods.replace(
        [obj("b", 1, **{rev: "r"}), obj("a", 1, **{rev: "r", "x": "1"}), obj("c", 1, "other", **{rev: "r"})], "1"
    )

    def found(*args):
        return [str(key_of(o)) for o in cache.list(kinds.POD, *args)]

    assert found() == ["ns/a", "ns/b", "other/c"]
    assert found("ns", {rev: "r"}) == ["ns/a", "ns/b"]
    assert found(None, {rev: "r", "x": "1"}) == ["ns/a"]
    assert found(None, {"x": "1"}) == ["ns/a"]
    assert found("ns", {rev: "other"}) == []
    assert found("nowhere") == []


def test_objects_are_found_by_whom_they_refer_to():
    """In one namespace and sorted; what no longer refers is not found."""
    cache = Caches([kinds.CORE_SERVICE])
    services = cache.kinds[kinds.CORE_SERVICE]

    def service(name, version, namespace="ns", **selector):
        found = {**obj(name, version, namespace), "apiVersion": "v1", "kind": "Service"}
        return {**found, "spec": {"selector": selector}}

    services.replace([service("b", 1, app="x"), service("a", 1, app="x"), service("c", 1, "other", app="x")], "1")

    def found(reference):
        return [str(key_of(o)) for o in cache.referring(kinds.CORE_SERVICE, "ns", reference)]

    assert found("label app=x") == ["ns/a", "ns/b"]
    services.observe("MODIFIED", service("a", 2, app="y"))
    services.observe("DELETED", service("b", 3, app="x"))
    assert (found("label app=x"), found("label app=y")) == ([], ["ns/a"])


def test_an_object_leaves_the_index_of_a_label_it_lost():
    """Indexes follow changes and deletions."""
    cache = KindCache()
    cache.replace([obj("a", 1, **{labels.ROUTE: "r"})], "1")
    cache.observe("MODIFIED", obj("a", 2, **{labels.ROUTE: "s"}))
    assert cache.select(None, {labels.ROUTE: "r"}) == []
    assert len(cache.select(None, {labels.ROUTE: "s"})) == 1
    cache.observe("DELETED", obj("a", 3, **{labels.ROUTE: "s"}))
    assert cache.select("ns") == cache.select(None, {labels.ROUTE: "s"}) == []


def test_a_label_index_is_used_instead_of_a_scan():
    """Of thousands of objects only those with the label's value are looked at."""
    cache = KindCache()
    cache.replace([obj(f"p{i}", 1, **{labels.REVISION_UID: f"u{i}"}) for i in range(2000)], "1")

    class Counting(dict):
        looked = 0

        def __getitem__(self, key):
            Counting.looked += 1
            return super().__getitem__(key)

    cache._objects = Counting(cache._objects)
    assert len(cache.select("ns", {labels.REVISION_UID: "u7"})) == 1
    assert Counting.looked == 1


def test_a_relist_tells_the_difference():
    """After a 410: what is new, what changed and what is gone; nothing about what stayed."""
    cache = KindCache()
    cache.replace([obj("stays", 1), obj("changes", 2), obj("goes", 3)], "3")
    changes = cache.replace([obj("stays", 1), obj("changes", 8), obj("comes", 9)], "9")
    told = {(old and old["metadata"]["name"], new and new["metadata"]["name"]) for old, new in changes}
    assert told == {("changes", "changes"), ("goes", None), (None, "comes")}


def test_an_answer_to_a_write_is_in_the_cache_at_once_and_its_event_says_nothing_new():
    """One change, told once: by the answer or by the watch, whichever comes first."""
    cache = KindCache()
    cache.replace([obj("a", 1)], "5")
    assert cache.offer(obj("a", 8)) is not None
    assert cache.observe("MODIFIED", obj("a", 7)) is None, "an older event doesn't take the answer back"
    assert names(cache) == {("a", "8")}
    assert cache.observe("MODIFIED", obj("a", 8)) is None
    assert cache.observe("MODIFIED", obj("a", 9)) is not None


def test_an_answer_that_the_watch_has_passed_is_dropped():
    """The object may have been deleted since: a late answer must not bring it back."""
    cache = KindCache()
    cache.replace([], "5")
    cache.observe("ADDED", obj("a", 6))
    cache.observe("DELETED", obj("a", 7))
    assert cache.offer(obj("a", 6)) is None
    assert names(cache) == set()


def test_a_list_older_than_an_answer_does_not_remove_it():
    """A relist that began before the write does not know the new object; one that began later decides."""
    cache = KindCache()
    cache.replace([], "5")
    cache.offer(obj("new", 8))
    assert cache.replace([], "7") == []
    assert names(cache) == {("new", "8")}
    assert len(cache.replace([], "8")) == 1


def test_versions_that_are_no_numbers_still_work():
    """resourceVersion is opaque: without an order answers are not offered, events still apply in their order."""
    cache = KindCache()
    cache.replace([obj("a", "x1")], "x1")
    assert cache.offer(obj("a", "x3")) is None
    assert cache.observe("MODIFIED", obj("a", "x2")) is not None


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "delete", "watch", "answer", "relist"]), st.integers(0, 2)), max_size=40
)


@given(STEPS)
def test_the_cache_converges_whatever_the_order(steps):
    """Server history, watch, answers and relists interleaved at will: once the watch has caught up, cache == server,
    and the changes told add up to the same."""
    cache, told = KindCache(), {}
    cache.replace([], "0")
    history, server, answers, position, version = [], {}, deque(), 0, 0

    def tell(change):
        if change is not None:
            old, new = change
            told.update({key_of(new or old): new})

    def watch():
        nonlocal position
        event = history[position]
        position += 1
        if int(event[1]["metadata"]["resourceVersion"]) > int(cache.version):
            tell(cache.observe(*event))

    for step, n in steps:
        name = f"o{n}"
        if step == "write":
            version += 1
            new = obj(name, version)
            history.append(("MODIFIED" if name in server else "ADDED", new))
            server[name] = new
            answers.append(new)
        elif step == "delete" and name in server:
            version += 1
            del server[name]
            history.append(("DELETED", obj(name, version)))
        elif step == "watch" and position < len(history):
            watch()
        elif step == "answer" and answers:
            tell(cache.offer(answers.popleft()))
        elif step == "relist":
            for change in cache.replace(list(server.values()), str(version)):
                tell(change)
    while position < len(history):
        watch()
    while answers:
        tell(cache.offer(answers.popleft()))
    expected = {(o["metadata"]["name"], o["metadata"]["resourceVersion"]) for o in server.values()}
    assert names(cache) == expected
    assert {key.name for key, new in told.items() if new} == set(server)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"type":"ADDED"}', b'{"type":"ADDED","object":{}}', b'{"type":"BOOKMARK","object":7}'],
)
def test_what_is_no_event_makes_a_relist(line):
    """Garbage on the stream is never guessed at."""
    with pytest.raises(Gone):
        parse_event(line)


# --- against servers that misbehave -----------------------------------------------------------------------------------


class Api:
    """Lists and watches answered one by one as a test scripts them; without a script a watch stays silent."""

    def __init__(self):
        self.lists, self.watches = deque(), deque()
        self.list_queries, self.watch_queries = [], []
        self.closing = asyncio.Event()

    def a_list(self, version, *items, token=""):
        body = {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}
        self.lists.append(lambda: web.json_response(body))

    def a_status(self, where, status, reason=""):
        body = {"kind": "Status", "code": status, "reason": reason, "message": reason}
        where.append(lambda: web.json_response(body, status=status))

    def a_watch(self, *chunks, then="end"):
        self.watches.append((chunks, then))

    async def handle(self, request):
        if request.query.get("watch") != "true":
            self.list_queries.append(dict(request.query))
            return self.lists.popleft()() if len(self.lists) > 1 else self.lists[0]()
        self.watch_queries.append(dict(request.query))
        script = self.watches.popleft() if self.watches else ((), "silence")
        return script() if callable(script) else await self._stream(request, *script)

    async def _stream(self, request, chunks, then):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then == "silence":
            await self.closing.wait()
        elif then == "reset":
            request.transport.abort()
        return response


def event(event_type, obj):
    return orjson.dumps({"type": event_type, "object": obj}) + b"\n"


@pytest.fixture
async def api():
    api = Api()
    yield api
    api.closing.set()


@pytest.fixture
async def watching(api, serve, monkeypatch):
    """`watching()` runs an informer of pods against `api` → (cache, list of told names)."""
    monkeypatch.setattr(informer_module, "BACK_OFF_BASE", 0.001)
    monkeypatch.setattr(informer_module, "BACK_OFF_CAP", 0.01)
    async with contextlib.AsyncExitStack() as stack:

        async def start():
            kube = await stack.enter_async_context(KubeClient.from_token(await serve(api.handle)))
            cache, told = KindCache(), []

            def sink(old, new):
                told.append((old and old["metadata"]["name"], new and new["metadata"]["name"]))

            informer = Informer(kube, kinds.POD, cache, sink)
            task = asyncio.ensure_future(informer.run())

            async def stop():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

            stack.push_async_callback(stop)

            await until(lambda: informer.synced.is_set() or task.done())
            return cache, told

        yield start
        api.closing.set()


async def test_it_lists_in_pages_and_watches_from_the_lists_version(api, watching):
    """limit/continue until the last page; the watch starts at the version of the list and asks for bookmarks."""
    api.a_list(7, obj("a", 1), token="next")
    api.a_list(7, {"metadata": {"namespace": "ns", "name": "b", "resourceVersion": "2"}})
    cache, _ = await watching()
    await until(lambda: api.watch_queries)
    assert [q.get("continue") for q in api.list_queries] == [None, "next"]
    assert all(q["limit"] == "500" for q in api.list_queries)
    assert api.watch_queries[0]["resourceVersion"] == "7"
    assert api.watch_queries[0]["allowWatchBookmarks"] == "true"
    assert names(cache) == {("a", "1"), ("b", "2")}
    assert cache.get(Key("ns", "b"))["kind"] == "Pod", "list items come without kind"


async def test_an_expired_continue_token_lists_again_in_one_piece(api, watching):
    """A 410 between two pages restarts the list without a limit."""
    api.a_list(7, obj("a", 1), token="old")
    api.a_status(api.lists, 410, "Expired")
    api.a_list(9, obj("a", 8))
    cache, _ = await watching()
    assert [q.get("limit") for q in api.list_queries] == ["500", "500", None]
    assert names(cache) == {("a", "8")}


async def test_events_apply_and_bookmarks_move_the_version_on(api, watching):
    """A quiet kind watches again from the bookmark, not from its last event."""
    api.a_list(1)
    api.a_watch(
        event("ADDED", obj("a", 2)),
        event("MODIFIED", obj("a", 3)),
        event("ADDED", obj("b", 4)),
        event("DELETED", obj("b", 5)),
        event("BOOKMARK", {"metadata": {"resourceVersion": "90"}}),
    )
    cache, told = await watching()
    await until(lambda: len(api.watch_queries) == 2)
    assert api.watch_queries[1]["resourceVersion"] == "90"
    assert names(cache) == {("a", "3")}
    assert told == [(None, "a"), ("a", "a"), (None, "b"), ("b", None)]
    assert len(api.list_queries) == 1


async def test_410_as_a_status_lists_again(api, watching):
    """The old version is never tried again; the difference is told."""
    api.a_list(1, obj("a", 1))
    api.a_status(api.watches, 410, "Gone")
    api.a_list(50, obj("b", 40))
    cache, told = await watching()
    await until(lambda: len(api.watch_queries) == 2)
    assert [q["resourceVersion"] for q in api.watch_queries] == ["1", "50"]
    assert names(cache) == {("b", "40")}
    assert ("a", None) in told


@pytest.mark.parametrize("code", [410, 500])
async def test_an_error_event_inside_a_200_lists_again(api, watching, code):
    """410 Gone comes as an event too; any other ERROR event also ends this place in history."""
    status = {"kind": "Status", "code": code, "reason": "Expired" if code == 410 else "", "message": "too old"}
    api.a_list(1, obj("a", 1))
    api.a_watch(event("ADDED", obj("x", 2)), event("ERROR", status), then="silence")
    api.a_list(50, obj("a", 1))
    cache, told = await watching()
    await until(lambda: len(api.watch_queries) == 2)
    assert api.watch_queries[1]["resourceVersion"] == "50"
    assert names(cache) == {("a", "1")}
    assert told == [(None, "a"), (None, "x"), ("x", None)]


async def test_lines_cut_between_chunks_and_far_above_64_kib(api, watching):
    """One event of 300 KB in odd pieces, two events in one piece."""
    big = obj("big", 2)
    big["data"] = "x" * 300_000
    text = event("ADDED", big)
    api.a_list(1)
    pieces = [text[:10], text[10:70_000], text[70_000:], event("ADDED", obj("a", 3)) + event("ADDED", obj("b", 4))]
    api.a_watch(*pieces, then="silence")
    cache, _ = await watching()
    await until(lambda: len(cache) == 3)
    assert cache.get(Key("ns", "big"))["data"] == big["data"]


async def test_a_silent_connection_is_replaced(api, watching, monkeypatch):
    """The read time-out is longer than the server's own, and then the watch goes on from the last version."""
    api.a_list(1)
    api.a_watch(event("ADDED", obj("a", 2)), then="silence")
    api.a_watch(event("ADDED", obj("b", 3)), then="silence")
    monkeypatch.setattr(informer_module, "WATCH_SECONDS", (0.05, 0.06))
    monkeypatch.setattr(informer_module, "READ_MARGIN", 0.05)
    cache, _ = await watching()
    await until(lambda: len(cache) == 2)
    assert api.watch_queries[1]["resourceVersion"] == "2"
    assert len(api.list_queries) == 1


async def test_a_broken_connection_watches_again_from_the_last_version(api, watching):
    """A reset in the middle loses nothing and lists nothing."""
    api.a_list(1)
    api.a_watch(event("ADDED", obj("a", 2)), b'{"type":"ADD', then="reset")
    api.a_watch(event("ADDED", obj("b", 3)), then="silence")
    cache, _ = await watching()
    await until(lambda: len(cache) == 2)
    assert api.watch_queries[1]["resourceVersion"] == "2"
    assert len(api.list_queries) == 1


async def test_a_server_that_is_away_is_tried_again_and_the_cache_stays(api, watching):
    """503 on the watch: back-off and try again, from the same version."""
    api.a_list(1, obj("a", 1))
    for _ in range(3):
        api.a_status(api.watches, 503)
    cache, told = await watching()
    await until(lambda: len(api.watch_queries) == 4)
    assert names(cache) == {("a", "1")}
    assert {q["resourceVersion"] for q in api.watch_queries} == {"1"}
    assert told == [(None, "a")]


async def test_a_list_that_fails_is_tried_again(api, watching):
    """The kind may not be served yet when the controller starts."""
    api.a_status(api.lists, 404, "NotFound")
    api.a_status(api.lists, 500)
    api.a_list(3, obj("a", 1))
    cache, _ = await watching()
    assert names(cache) == {("a", "1")}


async def test_timeouts_are_spread(api, watching):
    """Each watch draws its own timeoutSeconds, so that not all kinds come back at once."""
    api.a_list(1)
    for n in range(12):
        api.a_watch(event("BOOKMARK", {"metadata": {"resourceVersion": str(n + 2)}}))
    await watching()
    await until(lambda: len(api.watch_queries) == 13)
    drawn = {int(q["timeoutSeconds"]) for q in api.watch_queries}
    assert len(drawn) > 1
    assert all(120 <= seconds <= 240 for seconds in drawn)
