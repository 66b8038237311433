from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from gateway.activator.prober import PER_TURN, Prober, interval
from gateway.contract import Endpoint, Probe
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    prober = Prober()
    yield prober
    await prober.close()
    assert len(prober) == 0


@pytest.mark.parametrize(
    ("age", "probed", "refused", "expected"),
    [
        (0.0, 1, False, 0.010),
        (2.9, 40, False, 0.010),
        (0.0, 60, False, 0.015),
        (0.0, 1000, False, 0.25),
        (3.0, 1, False, 0.1),
        (10.0, 1, False, 1.0),
        (10.0, 8000, False, 2),
        (0.0, 1, True, 0.001),
        (0.05, 1, True, 0.001),
        (0.2, 1, True, 0.004),
        (2.9, 1, True, 0.010),
        (3.0, 1, True, 0.060),
        (60.0, 1, True, 1.0),
        (0.0, 100, True, 0.025),
    ],
)
def test_interval(age: float, probed: int, refused: bool, expected: float) -> None:
    """10 ms, 100 ms after 3 s, 1 s after 10 s; a fiftieth of the age, and a millisecond at least, where a refusal cost
    nothing; and 0.25 ms for each endpoint that is probed, at least."""
    assert interval(age, probed, refused=refused) == pytest.approx(expected)


async def test_tcp_probe_passes_when_something_listens(prober: Prober, upstream) -> None:
    """A connect is enough where there is no path; the callback comes once and the key is forgotten."""
    passed = asyncio.Event()
    prober.start("key", (await upstream()).endpoint, Probe(), passed.set)
    await asyncio.wait_for(passed.wait(), 5)
    assert "key" not in prober


async def test_probing_goes_on_until_it_listens(prober: Prober, upstream, free_port: int) -> None:
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


async def test_http_probe_times_out(prober: Prober, upstream) -> None:
    """An endpoint that accepts and says nothing fails after the probe's time-out, and is asked again."""
    server = await upstream()
    prober.start("key", server.endpoint, Probe("/", timeout=0.01), pytest.fail)
    await until(lambda: len(server.heads) >= 2)  # on a busy machine one may time out before it is read
    assert prober.failures >= 1


async def test_stop_in_the_middle_of_an_attempt(prober: Prober, upstream) -> None:
    """A stopped probe never calls back, and leaves no task."""
    server = await upstream()
    prober.start("key", server.endpoint, Probe("/"), pytest.fail)
    await until(lambda: server.heads)
    prober.stop("key")
    prober.stop("key")
    await prober.close()
    assert len(asyncio.all_tasks()) <= 2  # this test and the upstream's connection


async def test_attempts_at_once_are_bounded(upstream) -> None:
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


async def test_many_endpoints_do_not_hold_up_the_loop(upstream) -> None:
    """Those that fall due together are attempted PER_TURN at a time; in between the loop does other work."""
    prober, endpoint = Prober(), (await upstream()).endpoint
    passed: list[int] = []
    for number in range(4 * PER_TURN):
        prober.start(number, endpoint, Probe(), partial(passed.append, number))
    await asyncio.sleep(0)
    assert len(passed) <= PER_TURN
    await until(lambda: not len(prober))
    assert set(passed) == set(range(4 * PER_TURN))
    await prober.close()


async def test_a_host_that_is_no_address_fails_like_any_other(prober: Prober) -> None:
    """Its attempts are counted as failures, and leave no socket behind."""
    prober.start("key", Endpoint("256.0.0.1", 80, "pod"), Probe(), pytest.fail)
    await until(lambda: prober.failures >= 2)


@asynccontextmanager
async def h2c(*statuses: bytes, body: bytes = b"", trailers: list[tuple[bytes, bytes]] | None = None):
    """An HTTP/2 server that answers each connection with the next of `statuses` → (Endpoint, requests' headers)."""
    left = list(statuses)
    requests: list[dict[bytes, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        peer.initiate_connection()
        writer.write(peer.data_to_send())
        try:
            while data := await reader.read(65536):
                if data.startswith(b"GET "):
                    break
                for event in peer.receive_data(data):
                    if isinstance(event, RequestReceived):
                        requests.append(dict(event.headers))
                        peer.send_headers(event.stream_id, [(b":status", left.pop(0))])
                        peer.send_data(event.stream_id, body, end_stream=trailers is None)
                        if trailers is not None:
                            peer.send_headers(event.stream_id, trailers, end_stream=True)
                writer.write(peer.data_to_send())
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], "pod"), requests
    server.close()


async def test_an_h2c_endpoint_is_asked_in_http2(prober: Prober) -> None:
    """The GET comes in the protocol of the requests, with the probe's own fields."""
    passed = asyncio.Event()
    async with h2c(b"503", b"204") as (endpoint, requests):
        probe = Probe("/ready", (("host", "probe.test"), ("x-a", "b")), protocol="h2c")
        prober.start("key", endpoint, probe, passed.set)
        await asyncio.wait_for(passed.wait(), 5)
    assert len(requests) == 2
    assert requests[0][b":authority"] == b"probe.test"
    assert (requests[0][b":path"], requests[0][b"x-a"]) == (b"/ready", b"b")
    assert requests[0][b"user-agent"].startswith(b"kube-probe/")


async def test_an_http1_server_on_a_port_named_h2c_does_not_pass(prober: Prober, upstream) -> None:
    """It could not take the requests either."""
    server = await upstream([200])
    prober.start("key", server.endpoint, Probe("/", protocol="h2c"), pytest.fail)
    await until(lambda: prober.failures >= 2)


async def test_a_port_to_be_detected_passes_in_either(prober: Prober, upstream) -> None:
    """Asked in HTTP/1.1 and HTTP/2 by turns."""
    passed = asyncio.Event()
    prober.start("key", (await upstream([200])).endpoint, Probe("/", protocol="detect"), passed.set)
    await asyncio.wait_for(passed.wait(), 5)
    passed.clear()
    async with h2c(b"200") as (endpoint, _):
        prober.start("key", endpoint, Probe("/", protocol="detect"), passed.set)
        await asyncio.wait_for(passed.wait(), 5)


@pytest.mark.parametrize(
    ("body", "status", "passes"),
    [
        (b"\0\0\0\0\2\x08\1", b"0", True),
        (b"\0\0\0\0\2\x08\2", b"0", False),
        (b"\0\0\0\0\0", b"0", False),
        (b"", b"12", False),
    ],
)
async def test_a_grpc_probe_passes_when_it_is_serving(prober: Prober, body: bytes, status: bytes, passes: bool) -> None:
    """grpc.health.v1: the service's state counts, not that something answers."""
    passed = asyncio.Event()
    async with h2c(*[b"200"] * 50, body=body, trailers=[(b"grpc-status", status)]) as (endpoint, requests):
        prober.start("key", endpoint, Probe(grpc_service="a.B"), passed.set)
        await until(lambda: passed.is_set() or prober.failures >= 2)
    assert passed.is_set() is passes
    assert requests[0][b":path"] == b"/grpc.health.v1.Health/Check"
