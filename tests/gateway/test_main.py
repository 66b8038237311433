"""The gateway as a process: `python -m gateway` with real workers, a feed and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import (
    Address,
    ConfigError,
    GatewayConfig,
    Limits,
    parse_address,
    parse_config,
    parse_network,
    serialise_config,
)
from tests.gateway_process import ANY_PORTS, HOST, feed_of, started

if TYPE_CHECKING:
    from aiohttp.test_utils import TestServer
    from pytest_aiohttp.plugin import AiohttpServer

    from tests.authority import Authority
    from tests.gateway_process import GatewayProcess

ASKED = web.AppKey("ASKED", asyncio.Event)
"""Set when the backend has got a request for /slow, which it answers once `LET_GO` is set."""
LET_GO = web.AppKey("LET_GO", asyncio.Event)


async def get(
    gateway: GatewayProcess, session: aiohttp.ClientSession, path: str = "/", host: str = HOST
) -> tuple[int, str]:
    async with session.get(f"http://127.0.0.1:{gateway.port}{path}", headers={"Host": host}) as response:
        return response.status, await response.text()


async def metrics(gateway: GatewayProcess, session: aiohttp.ClientSession) -> str:
    async with session.get(f"http://127.0.0.1:{gateway.admin}/metrics") as response:
        return await response.text()


async def refuses(gateway: GatewayProcess) -> None:
    """Wait until nothing listens on the port."""
    async with asyncio.timeout(20):
        with suppress(ConnectionRefusedError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.close()
                await asyncio.sleep(0.01)


@pytest.fixture
async def backend(aiohttp_server: AiohttpServer) -> TestServer:
    async def hello(request: web.Request) -> web.Response:
        if request.path == "/slow":
            request.app[ASKED].set()
            await request.app[LET_GO].wait()
        return web.Response(text="hello")

    application = web.Application()
    application[ASKED], application[LET_GO] = asyncio.Event(), asyncio.Event()
    application.router.add_get("/{tail:.*}", hello)
    return await aiohttp_server(application)


@pytest.fixture
async def feed(aiohttp_server: AiohttpServer, backend: TestServer) -> TestServer:
    return await aiohttp_server(feed_of(backend.port or 0))


@pytest.mark.slow
async def test_serve_replace_a_worker_measure_and_drain(feed: TestServer, backend: TestServer, tmp_path: Path) -> None:
    """Requests are carried, a killed worker is replaced, /metrics adds up, SIGTERM lets the last request finish."""
    log = tmp_path / "access.log"
    async with started(feed, tmp_path, "--workers", "2", "--access-log", str(log)) as gateway:
        # A connection for each request: none may hang on the worker that is killed.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            for _ in range(10):
                assert await get(gateway, session) == (200, "hello")
            assert (await get(gateway, session, host="nowhere"))[0] == 404
            families = {
                family.name: family for family in text_string_to_metric_families(await metrics(gateway, session))
            }
            requests = families["zerogate_gateway_requests"].samples
            assert [(one.value, one.labels["service"], one.labels["code_class"]) for one in requests] == [
                (10, "hello", "2xx")
            ]
            assert {one.value for one in families["zerogate_gateway_snapshot_version"].samples} == {7.0}
            assert families["zerogate_gateway_workers"].samples[0].value == 2

            victim = next(iter(gateway.workers()))
            os.kill(victim, signal.SIGKILL)
            await gateway.replaced({victim}, 2)
            for _ in range(10):
                assert await get(gateway, session) == (200, "hello")

            last = asyncio.ensure_future(get(gateway, session, "/slow"))
            await backend.app[ASKED].wait()
            gateway.process.terminate()
            await refuses(gateway)
            backend.app[LET_GO].set()
            assert await last == (200, "hello")
        async with asyncio.timeout(20):
            assert await gateway.process.wait() == 0
    assert log.read_text().count('"status":200') >= 11


def write_pair(folder: Path, pair: tuple[str, str]) -> list[str]:
    """The options for these files."""
    options = []
    for name, text in zip(("certificate", "key"), pair, strict=True):
        (folder / name).write_text(text)
        options += [f"--tls-{name}", str(folder / name)]
    return options


@pytest.mark.slow
async def test_tls_by_two_workers(feed: TestServer, backend: TestServer, tmp_path: Path, authority: Authority) -> None:
    """Each serves the default certificate, new files from the next handshake on, and its own sessions' resumption; what
    the other has made is a full handshake. /metrics counts both."""
    options = write_pair(tmp_path, authority.issue(HOST))
    context = ssl.create_default_context(cadata=authority.pem)
    async with started(feed, tmp_path, "--workers", "2", "--tls-listen", "127.0.0.1:0", *options) as gateway:
        (port,) = gateway.tls

        async def ask() -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)
            expires: str = writer.get_extra_info("peercert")["notAfter"]
            writer.write(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode())
            assert (await reader.read()).endswith(b"hello")
            writer.close()
            return expires

        def resumed() -> int:
            """How many of forty connections resume the session of the one before."""
            count, before = 0, None
            for _ in range(40):
                with (
                    socket.create_connection(("127.0.0.1", port)) as plain,
                    context.wrap_socket(plain, server_hostname=HOST, session=before) as client,
                ):
                    client.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode())
                    while client.recv(1000):  # tickets come with the answer
                        pass
                    count += bool(client.session_reused)
                    before = client.session
            return count

        async with aiohttp.ClientSession() as session:
            assert len({await ask() for _ in range(10)}) == 1
            write_pair(tmp_path, authority.issue(HOST, days=60))
            after = {await ask() for _ in range(10)}
            assert len(after) == 1
            text = await metrics(gateway, session)
            assert "zerogate_gateway_tls_handshakes_total 20" in text
            count = await asyncio.to_thread(resumed)
            assert 0 < count < 40
            assert f"zerogate_gateway_tls_resumed_total {count}" in await metrics(gateway, session)


@pytest.mark.slow
async def test_no_worker_outlives_its_parent(feed: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even at kill -9 the port is free at once, and no file is left in the temporary directory."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    async with started(feed, tmp_path) as gateway:
        workers = gateway.workers()
        gateway.process.kill()
        async with asyncio.timeout(10):
            while any(_lives(pid) for pid in workers):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert os.listdir(temporary) == []


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """Exit status 2, the address named, no traceback."""
    token = tmp_path / "token"
    token.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "--feed", "ws://127.0.0.1:1", "--feed-token-file", str(token), "--listen", address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1
    assert f"{address} is in use" in errors.decode()


@pytest.mark.slow
async def test_check_says_whether_a_gateway_could_start(tmp_path: Path) -> None:
    """Without listening, so that it can be asked beside a running gateway."""

    async def check() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "--check", "--feed", "ws://127.0.0.1:1", "--feed-token-file", str(tmp_path / "token")),
            *("--listen", f"127.0.0.1:{taken.getsockname()[1]}"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        return process.returncode, errors.decode()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert await check() == (2, f"gateway: {tmp_path / 'token'} can't be used: No such file or directory\n")
        (tmp_path / "token").write_text("secret")
        assert await check() == (0, "")


@pytest.mark.slow
async def test_an_access_log_that_is_a_link_is_one_clear_line(tmp_path: Path) -> None:
    """Exit status 2, and what the link points to is as it was."""
    (tmp_path / "token").write_text("secret")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "access.log").symlink_to(tmp_path / "mine")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "--feed", "ws://127.0.0.1:1", "--feed-token-file", str(tmp_path / "token")),
        *("--access-log", str(tmp_path / "access.log")),
        *ANY_PORTS,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1
    assert f"{tmp_path / 'access.log'} can't be used: it is a symbolic link" in errors.decode()
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), (":80", ("0.0.0.0", 80))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """HOST:PORT, with IPv6 in brackets."""
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "80", "a:b", "a:99999", "::1:80", "a:-1"])
def test_bad_addresses(text: str) -> None:
    """One sentence that shows what would be right."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:8080"):
        parse_address(text)


def test_a_worker_reads_what_its_parent_wrote() -> None:
    """The configuration survives the way to the worker."""
    config = GatewayConfig(
        feed_url="wss://127.0.0.1:1/v1/feed",
        feed_token_file=Path("token"),
        listen=Address("::1", 80),
        cluster_local_listen=Address("127.0.0.1", 81),
        admin_listen=Address("127.0.0.1", 82),
        workers=3,
        snapshot_file=Path("snapshot"),
        limits=Limits(max_body=5, queue_timeout=1.5),
        trusted_proxies=(parse_network("10.0.0.0/8"), parse_network("::1")),
        feed_ca=Path("ca"),
    )
    assert parse_config(serialise_config(config)) == config


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
async def test_signals_reopen_the_access_log(feed: TestServer, tmp_path: Path, number: signal.Signals) -> None:
    """What logrotate does: move the file, signal the parent. Each worker goes over to a new file at once."""
    log, moved = tmp_path / "access.log", tmp_path / "moved.log"
    async with started(feed, tmp_path, "--access-log", str(log)) as gateway, aiohttp.ClientSession() as session:
        assert await get(gateway, session, "/before") == (200, "hello")
        async with asyncio.timeout(20):
            while b"/before" not in log.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            log.rename(moved)
            gateway.process.send_signal(number)
            while not log.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert await get(gateway, session, "/after") == (200, "hello")
            while b"/after" not in log.read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert b"/after" not in moved.read_bytes()
