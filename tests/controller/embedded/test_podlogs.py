"""Container logs on disk and as `kubectl logs` reads them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from controller.embedded import logfile
from controller.embedded.apiserver import LogError
from controller.embedded.podlogs import PodLogs

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UID = "6a5b1c0e-3f5f-4c0e-9a51-0d1f2a3b4c5d"
POD = {"metadata": {"name": "p", "namespace": "n", "uid": UID}}


@pytest.fixture
def logs(tmp_path):
    return PodLogs(tmp_path / "logs")


async def read(logs, **options):
    return b"".join([chunk async for chunk in await logs.open(POD, "c", **options)]).decode()


def filled(logs, life=0, lines=("one", "two", "three"), now=NOW):
    writer = logs.writer(POD, "c", life)
    writer.write("stdout", "".join(f"{line}\n" for line in lines).encode(), now)
    return writer


async def test_entries_are_cri_and_read_back_plain(logs):
    """On disk a line has time, stream and tag, as the CRI writes it; a reader gets text, with times if asked."""
    writer = filled(logs, lines=["one"])
    writer.write("stderr", b"two\n", NOW)
    assert writer.path.read_text() == (
        "2026-01-01T00:00:00.000000000Z stdout F one\n2026-01-01T00:00:00.000000000Z stderr F two\n"
    )
    assert await read(logs) == "one\ntwo\n"
    assert await read(logs, timestamps=True) == (
        "2026-01-01T00:00:00.000000000Z one\n2026-01-01T00:00:00.000000000Z two\n"
    )
    writer.close(NOW)


async def test_lines_cut_anywhere_come_back_whole(logs):
    """A line is written when it is complete, and at the end of the stream whatever is left."""
    writer = logs.writer(POD, "c", 0)
    for byte in b"hello\nwor":
        writer.write("stdout", bytes([byte]), NOW)
    assert await read(logs) == "hello\n"
    writer.close(NOW)
    assert await read(logs) == "hello\nwor\n"


async def test_a_long_line_is_written_in_parts_and_read_as_one(logs):
    """No entry exceeds the CRI's limit, and readers count the parts as the one line they were."""
    writer = logs.writer(POD, "c", 0)
    writer.write("stdout", b"x" * 40000, NOW)
    assert writer.path.read_text().count(" stdout P ") == 2
    writer.write("stdout", b"y\nnext\n", NOW)
    assert await read(logs) == "x" * 40000 + "y\nnext\n"
    assert await read(logs, tail_lines=2) == "x" * 40000 + "y\nnext\n"
    assert (await read(logs, timestamps=True)).count("2026-01-01") == 2
    writer.close(NOW)


@pytest.mark.parametrize(("count", "text"), [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (9, "one\ntwo\nthree\n")])
async def test_tail(logs, count, text):
    """The last lines, as many as there are; 0 is none."""
    filled(logs).close(NOW)
    assert await read(logs, tail_lines=count) == text


async def test_limit_bytes_cuts_exactly(logs):
    """The limit counts bytes and may fall inside a line."""
    filled(logs).close(NOW)
    assert await read(logs, limit_bytes=5) == "one\nt"


async def test_since_leaves_older_lines_out(logs):
    """Lines older than the given seconds are skipped."""
    writer = filled(logs, lines=["old"], now=datetime.now(UTC) - timedelta(minutes=5))
    writer.write("stdout", b"new\n", datetime.now(UTC))
    assert await read(logs, since_seconds=60) == "new\n"
    writer.close(NOW)


async def test_previous_is_the_life_before_and_older_ones_are_removed(logs):
    """Two lives of a container are kept; a pod that is forgotten has no log."""
    for life in range(3):
        filled(logs, life, [f"life {life}"]).close(NOW)
    assert await read(logs) == "life 2\n"
    assert await read(logs, previous=True) == "life 1\n"
    logs.forget(POD)
    with pytest.raises(LogError, match="is waiting to start"):
        await read(logs)


async def test_previous_of_a_first_life_is_refused(logs):
    """Without a restart there is no life before, and the error says so."""
    filled(logs).close(NOW)
    with pytest.raises(LogError, match="has not been restarted"):
        await read(logs, previous=True)


async def test_a_rotated_log_is_read_in_order(logs, monkeypatch):
    """Readers see one log, oldest line first, whatever file it is in."""
    writer = logs.writer(POD, "c", 0)
    monkeypatch.setattr(logfile, "MAX_BYTES", 200)
    for number in range(9):
        writer.write("stdout", f"{number}\n".encode(), NOW)
    assert (await read(logs)).split() == [str(n) for n in range(9)][-len((await read(logs)).split()) :]
    assert await read(logs, tail_lines=3) == "6\n7\n8\n"
    writer.close(NOW)


async def test_following_sees_what_comes_over_rotations_until_the_end(logs, monkeypatch):
    """A follower misses nothing and repeats nothing, and ends with the container."""
    writer = filled(logs)
    monkeypatch.setattr(logfile, "MAX_BYTES", 300)
    stream = await logs.open(POD, "c", follow=True, tail_lines=1)
    assert await anext(stream) == b"three\n"
    got = bytearray()
    for number in range(30):
        writer.write("stdout", f"{number}\n".encode(), NOW)
        got += await anext(stream)
    writer.close(NOW)
    async with asyncio.timeout(5):
        async for chunk in stream:
            got += chunk
    assert got.decode().split() == [str(n) for n in range(30)]


async def test_a_follower_that_leaves_is_forgotten(logs):
    """A client that hangs up leaves nobody waiting at the writer."""
    writer = filled(logs)
    stream = await logs.open(POD, "c", follow=True)
    await anext(stream)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert writer._waiting == []
    writer.close(NOW)


async def test_who_says_nothing_has_an_empty_log(logs):
    """A container that has not written yet costs no file, can be read and followed, and has a log after its end."""
    writer = logs.writer(POD, "c", 0)
    assert not logs._root.exists()
    assert await read(logs) == ""
    stream = await logs.open(POD, "c", follow=True)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    writer.write("stdout", b"at last\n", NOW)
    assert await first == b"at last\n"
    writer.close(NOW)
    silent = logs.writer(POD, "c", 1)
    silent.close(NOW)
    filled(logs, life=2).close(NOW)
    assert await read(logs, previous=True) == ""


def test_logs_of_pods_that_are_gone_are_removed(logs):
    """At a start only the folders of pods that still exist stay."""
    filled(logs).close(NOW)
    logs.forget_all_but({UID})
    assert [folder.name for folder in logs._root.iterdir()] == [f"n_p_{UID}"]
    logs.forget_all_but(set())
    assert list(logs._root.iterdir()) == []


@pytest.mark.parametrize("name", ["important", "n_p_u", f"n_p_{UID}.bak", f"My_Files_{UID}", "a_b", UID])
def test_only_what_is_a_pods_folder_by_its_name_is_removed(logs, name):
    """A folder of the user's own stays, with all that is in it."""
    kept = logs._root / name / "file"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    logs.forget_all_but(set())
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("name", ["../../outside", "..", ".", "", "a/b", "/etc", "a\0b"])
async def test_no_containers_name_leads_out_of_the_pods_folder(logs, tmp_path, name):
    """Should the API have let such a name through, its log is refused, for writing and for reading."""
    with pytest.raises(OSError, match="not a name that a file can have"):
        logs.writer(POD, name, 0)
    with pytest.raises(LogError, match="not a name that a file can have"):
        await logs.open(POD, name)
    assert list(tmp_path.iterdir()) == []


async def test_no_pods_name_leads_out_of_the_logs(logs, tmp_path):
    """The folder of a pod is an entry of the logs' folder, and so is what is removed with the pod."""
    kept = tmp_path / "kept"
    kept.mkdir()
    pod = {"metadata": {"name": "p", "namespace": "../kept/..", "uid": "/../../kept"}}
    with pytest.raises(OSError, match="not a name that a file can have"):
        logs.writer(pod, "c", 0)
    logs.forget(pod)
    assert kept.is_dir()
