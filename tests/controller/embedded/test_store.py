"""The store: revisions, history, compaction, the lock, and what survives."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.apis.meta import Key
from controller.embedded.resources import ResourceId
from controller.embedded.store import BACKLOG, Compacted, Event, Store, StoreInUse, StoreUnusable, TooNew

if TYPE_CHECKING:
    from pathlib import Path

THINGS = ResourceId("", "things")


def _obj(name: str, value: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name}, "value": value}


def _key(name: str) -> Key:
    return Key("ns", name)


def test_each_write_has_the_next_revision(store: Store) -> None:
    """One counter over all objects; deletions count too."""
    first = store.put(THINGS, _key("a"), _obj("a"))
    second = store.put(THINGS, _key("b"), _obj("b"))
    gone = store.remove(THINGS, _key("a"))
    assert [first.revision, second.revision, gone.revision] == [1, 2, 3]
    assert gone.obj["metadata"]["resourceVersion"] == "3"
    assert store.get(THINGS, _key("a")) is None


def test_a_restart_shows_the_same_state_and_history(tmp_path: Path) -> None:
    """Objects, the counter and the log are there again; revisions go on from where they were."""
    store = Store(tmp_path)
    store.put(THINGS, _key("a"), _obj("a", 1))
    store.put(THINGS, _key("a"), _obj("a", 2))
    store.put(THINGS, _key("b"), _obj("b"))
    store.remove(THINGS, _key("b"))
    before = [(event.revision, event.type, event.new.body) for event in store.since(0)]
    store.close()
    again = Store(tmp_path)
    assert [(event.revision, event.type, event.new.body) for event in again.since(0)] == before
    assert [stored.obj["value"] for stored in again.find(THINGS)] == [2]
    assert again.put(THINGS, _key("c"), _obj("c")).revision == 5
    again.close()


def _damaged(path: Path, how: str) -> None:
    if how == "no database":
        path.write_bytes(b"not a database, but text of some length" * 100)
    elif how == "torn":
        path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    else:
        db = sqlite3.connect(path)
        db.execute("UPDATE log SET body = 'x{'" if how == "no JSON" else "ALTER TABLE log RENAME COLUMN body TO text")
        db.commit()
        db.close()


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("no database", r"is damaged \(file is not a database\): put a backup in its place, or move .*sqlite\* away"),
        ("torn", r"is damaged \(.*malformed.*\): put a backup in its place"),
        ("no JSON", r"is damaged \(unexpected character.*\): put a backup in its place"),
        ("anothers", r"objects.sqlite can't be used: no such column: body"),
    ],
)
def test_a_damaged_database_is_refused_in_one_sentence(tmp_path: Path, how: str, complaint: str) -> None:
    """Which file, what is wrong, and what to do; the directory is not held, and following the advice helps."""
    store = Store(tmp_path)
    for number in range(50):
        store.put(THINGS, _key(f"a{number}"), _obj("a" * 500))
    store.close()
    _damaged(tmp_path / "objects.sqlite", how)
    for _ in range(2):
        with pytest.raises(StoreUnusable, match=complaint) as refused:
            Store(tmp_path)
        assert "\n" not in str(refused.value)
    for file in tmp_path.glob("objects.sqlite*"):
        file.unlink()
    Store(tmp_path).close()


def test_compaction_forgets_history_but_no_object(tmp_path: Path) -> None:
    """Old events are gone (Compacted), every live object stays, also over a restart."""
    store = Store(tmp_path, history=10)
    store.put(THINGS, _key("quiet"), _obj("quiet"))
    for value in range(30):
        store.put(THINGS, _key("busy"), _obj("busy", value))
    with pytest.raises(Compacted):
        store.since(1)
    with pytest.raises(TooNew):
        store.since(99)
    compacted, revision = store.compacted, store.revision
    store.close()
    again = Store(tmp_path, history=10)
    assert (again.compacted, again.revision) == (compacted, revision)
    assert {stored.key.name: stored.obj["value"] for stored in again.find(THINGS)} == {"quiet": 0, "busy": 29}
    assert len(again.since(again.compacted)) <= 11
    again.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The directory belongs to one process at a time; the error says who has it and what to do."""
    store = Store(tmp_path)
    with pytest.raises(StoreInUse, match=r"is in use by another zerogate \(process \d+\); stop that one"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_subscriber_gets_what_it_missed_then_what_comes(store: Store) -> None:
    """Events after the revision it names, of its resource only, in order, without a gap."""
    store.put(THINGS, _key("a"), _obj("a"))
    store.put(THINGS, _key("b"), _obj("b"))
    woken: list[int] = []
    subscription = store.subscribe(THINGS, lambda: woken.append(1), since=1)
    assert [event.new.key.name for event in subscription.take()] == ["b"]
    store.put(ResourceId("", "others"), _key("x"), _obj("x"))
    store.put(THINGS, _key("c"), _obj("c"))
    store.remove(THINGS, _key("c"))
    assert [event.type for event in subscription.take()] == ["ADDED", "DELETED"]
    assert len(woken) == 1


def test_a_subscriber_that_takes_nothing_is_cut_off(store: Store) -> None:
    """Its queue is bounded: at the bound it is emptied and marked, so it costs no more memory."""
    subscription = store.subscribe(THINGS, lambda: None, since=0)
    event = Event(1, "ADDED", THINGS, store.put(THINGS, _key("a"), _obj("a")), None)
    for _ in range(BACKLOG):
        subscription.offer(event)
    assert subscription.overflowed
    assert subscription.take() == []


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    """When the disk is full the caller gets the error, and readers see neither the object nor a gap in revisions."""
    store = Store(tmp_path, history=4)
    store.put(THINGS, _key("a"), _obj("a"))
    store._db.execute("PRAGMA max_page_count = 1")  # SQLite never goes below what is in use: full from here on

    def fill() -> None:
        for number in range(1000):
            store.put(THINGS, _key("b"), _obj("b", number) | {"pad": "x" * 5000})

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    revision = store.revision
    seen = [each.body for each in store.find(THINGS)]
    store._db.execute("PRAGMA max_page_count = 1073741823")
    assert store.put(THINGS, _key("c"), _obj("c")).revision == revision + 1
    store.close()
    again = Store(tmp_path, history=4)
    assert [each.body for each in again.find(THINGS)][: len(seen)] == seen
    again.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=20))
def test_a_list_at_a_revision_is_the_list_that_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, bool]]
) -> None:
    """For every revision in the history, `find_at` gives what `find` gave then."""
    store = Store(tmp_path_factory.mktemp("store"))
    seen = {0: store.find(THINGS)}
    for name, value, is_removal in steps:
        if not is_removal:
            store.put(THINGS, _key(name), _obj(name, value))
        elif store.get(THINGS, _key(name)):
            store.remove(THINGS, _key(name))
        seen[store.revision] = store.find(THINGS)
    for revision, expected in seen.items():
        assert [each.body for each in store.find_at(revision, THINGS)] == [each.body for each in expected]
    store.close()


_WRITER = """
import sys
from pathlib import Path
from controller.apis.meta import Key
from controller.embedded.resources import ResourceId
from controller.embedded.store import Store
store = Store(Path(sys.argv[1]), history=50)
for n in range(100_000):
    name = f"o{n % 40}"
    obj = {"metadata": {"name": name}, "value": n, "pad": "x" * 500}
    stored = store.put(ResourceId("", "things"), Key("ns", name), obj)
    if n % 97 == 0:
        store.checkpoint()
    print(stored.revision, name, n, flush=True)
"""


def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    """A child that writes in a loop is killed at some moment; whatever it had acknowledged is there."""
    acknowledged: dict[str, tuple[int, int]] = {}
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if not line.endswith("\n"):
                break  # killed in the middle of saying it: that is no acknowledgement yet
            revision, name, value = line.split()
            acknowledged[name] = (int(revision), int(value))
            if int(revision) == 1500:
                child.send_signal(signal.SIGKILL)
    store = Store(tmp_path, history=50)
    last = max(revision for revision, _ in acknowledged.values())
    assert last <= store.revision <= last + 1  # one write may have been on its way to us
    for name, (revision, value) in acknowledged.items():
        stored = store.get(THINGS, _key(name))
        assert stored is not None
        assert stored.revision == store.revision or (stored.revision, stored.obj["value"]) == (revision, value)
    store.close()


def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    """Secrets are among the objects: every file of the store is the owner's alone."""
    store = Store(tmp_path / "data")
    store.put(THINGS, _key("a"), _obj("a"))
    files = [path for path in (tmp_path / "data").iterdir() if path.name.startswith("objects")]
    assert {path.name for path in files} == {"objects.sqlite", "objects.sqlite-wal", "objects.sqlite-shm"}
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    store.close()


def test_what_was_replaced_long_ago_is_read_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events tell the same whether their bytes are still in memory or not, after a restart too; of an object whose
    row is gone nothing is made up."""
    monkeypatch.setattr("controller.embedded.store.RECENT", 2)
    store = Store(tmp_path, history=10)
    for value in range(9):
        store.put(THINGS, _key("a"), _obj("a", value))
    store.remove(THINGS, _key("a"))
    told = [(event.type, event.new.obj["value"], event.old and event.old.obj["value"]) for event in store.since(0)]
    assert told == [
        ("ADDED", 0, None),
        *(("MODIFIED", value, value - 1) for value in range(1, 9)),
        ("DELETED", 8, 8),
    ]
    store.close()
    again = Store(tmp_path, history=10)
    assert [event.new.obj["value"] for event in again.since(0)] == [new for _, new, _ in told]
    lost = again.since(0)[0].new
    for value in range(20):
        again.put(THINGS, _key("b"), _obj("b", value))
    with pytest.raises(Compacted):
        _ = lost.body
    again.close()
