"""How the parent asks a worker for its status."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from gateway.core.traffic import Family
from gateway.net import admin
from gateway.net.admin import StatusServer, WorkerStatus, ask_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUS = WorkerStatus("", [Family("requests", "counter", "Help.", ("code",), {("200",): (3.0,)})])


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The parent's and the worker's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_a_worker_answers_as_often_as_it_is_asked(ends: tuple[socket.socket, socket.socket]) -> None:
    """Also to questions that come together."""
    server = StatusServer(ends[1], lambda: STATUS)
    assert await asyncio.gather(*(ask_worker(ends[0]) for _ in range(5))) == [STATUS] * 5
    assert await ask_worker(ends[0]) == STATUS
    server.close()


async def test_a_large_answer_comes_whole(ends: tuple[socket.socket, socket.socket]) -> None:
    """More than a socket's buffer holds."""
    samples = {(f"{number:060}",): (float(number),) for number in range(20_000)}
    large = WorkerStatus("", [Family("requests", "counter", "Help.", ("code",), samples)])
    server = StatusServer(ends[1], lambda: large)
    assert await ask_worker(ends[0]) == large
    server.close()


async def test_a_worker_that_is_not_there_or_is_gone_answers_nothing(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """At once: nobody waits for a process that has ended."""
    assert await ask_worker(None) is None
    question = asyncio.ensure_future(ask_worker(ends[0]))
    await asyncio.sleep(0)
    ends[1].close()
    assert await question is None
    assert await ask_worker(ends[0]) is None


async def test_a_late_answer_is_not_taken_for_the_next_one(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was busy answers the old question too, where nobody reads it any more."""
    monkeypatch.setattr(admin, "ANSWER_TIMEOUT", 0.01)
    assert await ask_worker(ends[0]) is None
    monkeypatch.setattr(admin, "ANSWER_TIMEOUT", 10.0)
    reasons = iter(["old", "new"])
    server = StatusServer(ends[1], lambda: WorkerStatus(next(reasons), []))
    assert await ask_worker(ends[0]) == WorkerStatus("new", [])
    server.close()


async def test_a_worker_that_never_looks_costs_a_bounded_number_of_questions(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the channel is full, the next question is refused at once, without an error."""
    monkeypatch.setattr(admin, "ANSWER_TIMEOUT", 0.0)
    for _ in range(2_000):
        assert await ask_worker(ends[0]) is None
    with pytest.raises(BlockingIOError):
        ends[0].send(b"?")
