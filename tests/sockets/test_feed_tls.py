"""The feed over TLS, both ends as they are: what is believed, how the rest is told, and new certificates."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from controller.admin import listening
from controller.dataplane.compile import Delta
from controller.dataplane.server import FeedServer
from gateway import feed as module
from gateway.contract import FEED_PATH, RevisionId, RouteId, RouteRule, Split
from gateway.feed import Feed
from gateway.net.tlscontext import CertificateFiles
from tests.idle import Idle
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.authority import Authority

REVISION = RevisionId("default", "hello-00001")
ROUTES = {RouteId("default", "hello"): (RouteRule("hello.test", (Split(REVISION, 100),)),)}


class Files(CertificateFiles):
    """Counts the handshakes."""

    handshakes = 0

    def context(self) -> ssl.SSLContext:
        self.handshakes += 1
        return super().context()


class Controller:
    """A feed server behind TLS, and the feeds of gateways that follow it."""

    def __init__(self, folder: Path, pair: tuple[str, str]) -> None:
        self.folder = folder
        self.certify(pair)
        self.files = Files(folder / "tls.crt", folder / "tls.key", ["http/1.1"])
        self.server = FeedServer(
            "secret",
            on_stats=lambda *_: None,
            on_in_flight=lambda *_: None,
            on_carriers=lambda: None,
            on_disconnect=lambda _: None,
            on_programmed=lambda _: None,
        )
        self.server.publish(Delta(ROUTES, {}))
        self.port = 0
        self.tasks: list[asyncio.Task[None]] = []

    def certify(self, pair: tuple[str, str]) -> None:
        """Replace certificate and key."""
        for name, text in zip(("tls.crt", "tls.key"), pair, strict=True):
            (self.folder / name).write_text(text)

    @asynccontextmanager
    async def listening(self, *, tls: bool = True) -> AsyncIterator[None]:
        context = self.files.front() if tls else None
        async with listening(self.server.app, "127.0.0.1", 0, context) as self.port:
            try:
                yield
            finally:
                await self.leave()

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def follow(self, ca: Path | None, name: str = "worker", scheme: str = "wss") -> Feed:
        feed = Feed(
            f"{scheme}://localhost:{self.port}{FEED_PATH}",
            "secret",
            worker=name,
            on_update=lambda *_: None,
            on_peers=lambda _: None,
            waiting=list,
            loads=Idle(),
            ca=ca,
        )
        self.tasks.append(asyncio.get_running_loop().create_task(feed.run()))
        return feed


def write(path: Path, text: str | None) -> None:
    """None removes the file."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


@pytest.fixture
def ca(tmp_path: Path, authority: Authority) -> Path:
    """The file that names the authority."""
    path = tmp_path / "ca.crt"
    path.write_text(authority.pem)
    return path


@pytest.fixture
def controller(tmp_path: Path, authority: Authority) -> Controller:
    return Controller(tmp_path, authority.issue("localhost"))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the log got, everything counted; attempts follow each other closely."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(module, "_BACKOFF_LIMIT", 0.01)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_certificate_of_the_ca_is_believed(controller: Controller, ca: Path, told) -> None:
    """The snapshot arrives, and nothing is logged."""
    async with controller.listening():
        feed = controller.follow(ca)
        await until(lambda: feed.ready)
        assert feed.snapshot.routes == ROUTES
        await until(lambda: controller.server.programmed(RouteId("default", "hello")))
    assert told() == []


@pytest.mark.parametrize(
    ("names", "days", "why"),
    [
        (["other.test"], 30, "Hostname mismatch, certificate is not valid for 'localhost'"),
        (["localhost"], -1, "certificate has expired"),
    ],
)
async def test_a_certificate_that_does_not_hold_is_told_once(
    controller: Controller, ca: Path, authority: Authority, told, names: list[str], days: int, why: str
) -> None:
    """One line however often it is tried; the feed goes over to a good one by itself."""
    controller.certify(authority.issue(*names, days=days))
    async with controller.listening():
        feed = controller.follow(ca)
        await until(lambda: controller.files.handshakes > 4)
        assert not feed.ready
        (line,) = told()
        assert line.startswith(f"feed wss://localhost:{controller.port}{FEED_PATH}: the controller's certificate is")
        assert why in line
        controller.certify(authority.issue("localhost"))
        await until(lambda: feed.ready)
    assert len(told()) == 1


async def test_another_authority_is_not_believed_until_the_file_names_it(
    controller: Controller, ca: Path, authority: Authority, told
) -> None:
    """The CA's file is read for each connection, so it may be rotated too."""
    another = type(authority)()
    controller.certify(another.issue("localhost"))
    async with controller.listening():
        feed = controller.follow(ca)
        await until(lambda: controller.files.handshakes > 4)
        (line,) = told()
        assert "not accepted: " in line
        write(ca, "nothing")
        await until(lambda: len(told()) == 2)
        assert told()[1].endswith(f"{ca} holds no certificate in PEM")
        write(ca, None)
        await until(lambda: len(told()) == 3)
        assert f"No such file or directory: '{ca}'" in told()[2]
        write(ca, another.pem)
        await until(lambda: feed.ready)


async def test_without_a_file_the_systems_authorities_count(
    controller: Controller, ca: Path, told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which ours is none, unless the system says so."""
    async with controller.listening():
        feed = controller.follow(None)
        await until(told)
        assert "not accepted" in told()[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        await until(lambda: feed.ready)


async def test_a_rotation_needs_no_restart(controller: Controller, ca: Path, authority: Authority, told) -> None:
    """The next connection sees the new certificate, and those that are there stay. Half a rotation changes nothing."""
    async with controller.listening():
        controller.follow(ca, "first")
        await until(lambda: controller.server.workers == ("first",))
        another = type(authority)()
        chain, key = another.issue("localhost")
        (controller.folder / "tls.crt").write_text(chain)
        controller.follow(ca, "second")
        await until(lambda: controller.server.workers == ("first", "second"))
        (line,) = told()
        assert "the former one stays: the key is not the certificate's" in line
        (controller.folder / "tls.key").write_text(key)
        (controller.folder / "new.crt").write_text(another.pem)
        controller.follow(controller.folder / "new.crt", "third")
        await until(lambda: controller.server.workers == ("first", "second", "third"))


async def test_the_last_good_snapshot_stays(
    controller: Controller, ca: Path, authority: Authority, told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that comes back with a certificate that does not hold is refused; requests go on as before."""
    async with controller.listening():
        feed = controller.follow(ca)
        await until(lambda: feed.ready)
        controller.certify(authority.issue("other.test"))
        snapshot = feed.snapshot
        await controller.server.app.shutdown()  # the connection ends, the next one is tried
        await until(lambda: controller.files.handshakes > 4)
        assert feed.snapshot is snapshot
        assert feed.ready
        assert not feed.connected
        assert [line.split(": ")[1] for line in told()] == [
            "the controller closed the connection",
            "the controller's certificate is not accepted",
        ]


@pytest.mark.parametrize(("scheme", "right"), [("ws", "wss://"), ("wss", "ws://")])
async def test_one_end_with_tls_and_the_other_without(
    controller: Controller, ca: Path, told, scheme: str, right: str
) -> None:
    """The gateway's log says what would be right."""
    async with controller.listening(tls=scheme == "ws"):
        feed = controller.follow(ca, scheme=scheme)
        await until(told)
        assert f"the URL begins with {right}" in told()[0]
        assert not feed.ready


async def test_a_client_that_names_no_host_gets_the_certificate(controller: Controller, authority: Authority) -> None:
    """As one does that connects to an IP address. It gets no ticket: sessions are not resumed."""
    context = ssl.create_default_context(cadata=authority.pem)
    context.check_hostname = False
    async with controller.listening():
        reader, writer = await asyncio.open_connection("127.0.0.1", controller.port, ssl=context)
        session = writer.get_extra_info("ssl_object")
        assert session.version() == "TLSv1.3"
        assert ("DNS", "localhost") in session.getpeercert()["subjectAltName"]
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
        assert not session.session.has_ticket
        writer.close()
