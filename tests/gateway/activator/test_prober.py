from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.activator.prober import Prober, interval
from gateway.contract import Endpoint, Probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    prober = Prober()
    yield prober
    await prober.close()
    assert len(prober) == 0


@pytest.mark.parametrize(
    ("age", "probed", "expected"),
    [(0.0, 1, 0.010), (2.9, 40, 0.010), (0.0, 60, 0.015), (0.0, 1000, 0.025), (3.0, 1, 0.1), (10.0, 1, 1.0)],
)
def test_interval(age: float, probed: int, expected: float) -> None:
    """10 to 25 ms by the number of probed endpoints, 100 ms after 3 s, 1 s after 10 s."""
    assert interval(age, probed) == expected


async def test_tcp_probe_passes_when_something_listens(prober: Prober, upstream) -> None:
    """A connect is enough where there is no path; the callback comes once and the key is forgotten."""
    passed = asyncio.Event()
    prober.start("key", (await upstream()).endpoint, Probe(), passed.set)
    await asyncio.wait_for(passed.wait(), 5)
    assert "key" not in prober


async def test_probing_goes_on_until_it_listens(prober: Prober, upstream, free_port: int, until) -> None:
    """Refused connects are failures; the first connect after the process listens passes."""
    passed = asyncio.Event()
    prober.start("key", Endpoint("127.0.0.1", free_port, "pod"), Probe(), passed.set)
    await until(lambda: prober.failures >= 2)
    assert not passed.is_set()
    await upstream(port=free_port)
    await asyncio.wait_for(passed.wait(), 5)


async def test_http_probe_needs_a_status_below_400(prober: Prober, upstream) -> None:
    """A GET of the probe's path with its fields; 200 to 399 pass, others are tried again."""
    passed = asyncio.Event()
    server = await upstream([503, 404, 302])
    prober.start("key", server.endpoint, Probe("/ready?deep=1", (("host", "probe.test"), ("x-a", "b"))), passed.set)
    await asyncio.wait_for(passed.wait(), 5)
    assert len(server.heads) == 3
    head = server.heads[0].lower()
    assert head.startswith(b"get /ready?deep=1 http/1.1\r\nhost: probe.test\r\n")
    assert b"\r\nx-a: b\r\n" in head
    assert head.count(b"\r\nhost:") == 1


async def test_http_probe_times_out(prober: Prober, upstream, until) -> None:
    """An endpoint that accepts and says nothing fails after the probe's time-out, and is asked again."""
    server = await upstream()
    prober.start("key", server.endpoint, Probe("/", timeout=0.01), pytest.fail)
    await until(lambda: prober.failures >= 2)
    assert len(server.heads) >= 2


async def test_stop_in_the_middle_of_an_attempt(prober: Prober, upstream, until) -> None:
    """A stopped probe never calls back, and leaves no task."""
    server = await upstream()
    prober.start("key", server.endpoint, Probe("/"), pytest.fail)
    await until(lambda: server.heads)
    prober.stop("key")
    prober.stop("key")
    await prober.close()
    assert len(asyncio.all_tasks()) <= 2  # this test and the upstream's connection


async def test_attempts_at_once_are_bounded(upstream, until) -> None:
    """With as many exchanges running as may, other endpoints wait: the silent one has to time out first."""
    prober = Prober(limit=1)
    silent, other = await upstream(), await upstream([200])
    failures: list[int] = []
    prober.start("silent", silent.endpoint, Probe("/", timeout=0.05), pytest.fail)
    await until(lambda: silent.heads)
    prober.start("other", other.endpoint, Probe("/"), lambda: failures.append(prober.failures))
    await until(lambda: failures)
    assert failures[0] >= 1
    await prober.close()


async def test_a_host_that_is_no_address_fails_like_any_other(prober: Prober, until) -> None:
    """Its attempts are counted as failures, and leave no socket behind."""
    prober.start("key", Endpoint("256.0.0.1", 80, "pod"), Probe(), pytest.fail)
    await until(lambda: prober.failures >= 2)
