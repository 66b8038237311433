"""TLS over real sockets: which certificate, what is refused and at what cost, replacement under traffic, redirects."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from gateway.config import Limits
from gateway.contract import RevisionId, RouteRule, Split
from gateway.net import tls as module
from gateway.net.tlscontext import CertificateFiles, UnusableCertificate, server_context

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.authority import Authority
    from tests.sockets.gateway import Gateway

HOST = "hello.default.localhost"
GET = b"GET /a?b HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi"
REVISION = RevisionId("default", "hello-00001")


def trusting(authority: Authority, **settings: Any) -> ssl.SSLContext:
    """A client that believes the authority."""
    context = ssl.create_default_context(cadata=authority.pem)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


async def connect(
    gateway: Gateway, context: ssl.SSLContext, name: str = HOST
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(5):
        return await asyncio.open_connection("127.0.0.1", gateway.tls_port, ssl=context, server_hostname=name)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes = GET) -> bytes:
    writer.write(message)
    async with asyncio.timeout(5):
        return await reader.readuntil(b"\r\n\r\nhi")


async def once(gateway: Gateway, context: ssl.SSLContext) -> bytes:
    """The answer to one request on a connection of its own."""
    reader, writer = await connect(gateway, context)
    answer = await ask(reader, writer)
    writer.close()
    return answer


def shown(writer: asyncio.StreamWriter) -> set[str]:
    """The names in the certificate that the client saw."""
    return {name for _, name in writer.get_extra_info("peercert")["subjectAltName"]}


async def raw(gateway: Gateway, message: bytes) -> bytes:
    """All that comes back on a socket of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.tls_port)
    writer.write(message)
    async with asyncio.timeout(5):
        answer: bytes = b""
        with suppress(ConnectionError):
            answer = await reader.read()
    writer.close()
    return answer


async def run(*command: str, stdin: bytes = b"") -> str:
    """What a program printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate(stdin)
    return output.decode(errors="replace")


@pytest.fixture
async def secure(gateway: Gateway, authority: Authority) -> Gateway:
    """A gateway that serves HOST over TLS, from an endpoint that answers `hi`."""
    await gateway.start_tls()
    gateway.route(await gateway.endpoint(answering))
    gateway.certify(hello=((HOST,), authority.issue(HOST)))
    return gateway


# --- requests ---------------------------------------------------------------------------------------------------------


async def test_a_request_over_tls_says_so(gateway: Gateway, authority: Authority) -> None:
    """The endpoint learns that the client spoke https; the answer comes back as over plain HTTP, request by request."""
    heads: list[bytes] = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)

    await gateway.start_tls()
    gateway.route(await gateway.endpoint(endpoint))
    gateway.certify(hello=((HOST,), authority.issue(HOST)))
    reader, writer = await connect(gateway, trusting(authority))
    for _ in range(3):
        assert (await ask(reader, writer)).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    lines = heads[0].split(b"\r\n")
    assert b"x-forwarded-proto: https" in lines
    assert b"forwarded: for=127.0.0.1;proto=https;host=hello.default.localhost" in lines
    assert gateway.traffic.tls_handshakes == 1
    await gateway.left()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_http2_is_preferred(secure: Gateway, authority: Authority, tmp_path: Path) -> None:
    """By ALPN; a client that offers HTTP/1.1 only gets that."""
    (tmp_path / "ca.pem").write_text(authority.pem)
    seen = []
    for option in ("--http2", "--http1.1"):
        output = await run(
            *("curl", "-sS", option, "--cacert", str(tmp_path / "ca.pem"), "-w", " %{http_version}"),
            *("--resolve", f"{HOST}:{secure.tls_port}:127.0.0.1", f"https://{HOST}:{secure.tls_port}/"),
        )
        seen.append(output)
    assert seen == ["hi 2", "hi 1.1"]


async def test_large_content_passes_both_ways(gateway: Gateway, authority: Authority) -> None:
    """Many records each way, through both sides' back-pressure, unchanged."""
    size = 3 * 1024 * 1024 + 7
    content = bytes(range(251)) * (size // 251) + b"x" * (size % 251)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    await gateway.start_tls()
    gateway.route(await gateway.endpoint(echo))
    gateway.certify(hello=((HOST,), authority.issue(HOST)))
    reader, writer = await connect(gateway, trusting(authority))
    writer.write(b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b" % (HOST.encode(), size, content))
    async with asyncio.timeout(20):
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(size) == content
    writer.close()


async def test_a_client_that_does_not_read_stops_the_endpoint(gateway: Gateway, authority: Authority) -> None:
    """Back-pressure passes the encryption: what piles up is bounded by buffers, whatever the endpoint would send."""
    stalled, sent = asyncio.Event(), 0

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        while sent < 2**30:
            writer.write(bytes(65536))
            sent += 65536
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                stalled.set()
                return

    await gateway.start_tls()
    gateway.route(await gateway.endpoint(endpoint))
    gateway.certify(hello=((HOST,), authority.issue(HOST)))
    _, writer = await connect(gateway, trusting(authority))
    writer.transport.pause_reading()
    writer.write(GET)
    async with asyncio.timeout(10):
        await stalled.wait()
    assert sent < 64 * 2**20, "several megabytes are in the kernel's buffers"
    (connection,) = gateway.listener.connections
    assert connection._transport.get_write_buffer_size() < 2**20
    writer.close()


async def test_the_clients_goodbye_is_that_it_left(gateway: Gateway, authority: Authority) -> None:
    """Its place is free at once, though it keeps the socket until it has the gateway's goodbye, as asyncio's do."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()

    await gateway.start_tls()
    gateway.route(await gateway.endpoint(endpoint), container_concurrency=1)
    gateway.certify(hello=((HOST,), authority.issue(HOST)))
    _, writer = await connect(gateway, trusting(authority))
    writer.write(GET)
    async with asyncio.timeout(5):
        await asked.wait()
        writer.close()
        await left.wait()
        await writer.wait_closed()
    await gateway.left()


async def test_a_response_cut_short_is_reset(gateway: Gateway, authority: Authority) -> None:
    """As without TLS; and no goodbye is said, which would call it complete."""
    seen = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await seen.wait()

    await gateway.start_tls()
    gateway.route(await gateway.endpoint(endpoint))
    gateway.certify(hello=((HOST,), authority.issue(HOST)))
    reader, writer = await connect(gateway, trusting(authority))
    writer.write(GET.replace(b"1.1", b"1.0"))
    async with asyncio.timeout(5):
        await reader.readuntil(b"half")
        seen.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()


async def test_the_gateways_goodbye_is_said(secure: Gateway, authority: Authority) -> None:
    """`Connection: close` ends with close_notify, so that the client knows the answer for whole."""
    plain = socket.create_connection(("127.0.0.1", secure.tls_port))

    def exchange() -> bytes:
        context = trusting(authority)
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        with context.wrap_socket(plain, server_hostname=HOST, suppress_ragged_eofs=False) as client:
            client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = b""
            while piece := client.recv(4096):
                answer += piece
            return answer

    assert (await asyncio.to_thread(exchange)).endswith(b"hi")


async def test_a_tunnel_is_half_closed_by_either_goodbye(gateway: Gateway, authority: Authority) -> None:
    """After an upgrade the client's close_notify reaches the endpoint as its end of file, and the endpoint goes on."""
    ended = asyncio.Event()

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        assert await reader.read() == b"ping"
        ended.set()
        writer.write(b"pong")

    await gateway.start_tls()
    gateway.route(await gateway.endpoint(endpoint))
    gateway.certify(hello=((HOST,), authority.issue(HOST)))

    def exchange() -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting(authority).wrap_bio(incoming, outgoing, server_hostname=HOST)
        with socket.create_connection(("127.0.0.1", gateway.tls_port), timeout=5) as plain:

            def step(call: Any, *arguments: Any) -> Any:
                while True:
                    try:
                        result = call(*arguments)
                    except ssl.SSLWantReadError:
                        plain.sendall(outgoing.read())
                        incoming.write(plain.recv(65536))
                    else:
                        plain.sendall(outgoing.read())
                        return result

            step(client.do_handshake)
            step(client.write, GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"))
            assert step(client.read, 4096).startswith(b"HTTP/1.1 101")
            step(client.write, b"ping")
            with suppress(ssl.SSLWantReadError):
                client.unwrap()
            plain.sendall(outgoing.read())
            return step(client.read, 4096)

    assert await asyncio.to_thread(exchange) == b"pong"
    assert ended.is_set()


# --- which certificate ------------------------------------------------------------------------------------------------


async def test_the_server_name_chooses(gateway: Gateway, authority: Authority, tmp_path: Path) -> None:
    """An exact host wins over a wildcard, which stands for one label; any other name gets the default certificate."""
    default = write_pair(tmp_path, authority.issue("default.test", "deep.b.example.com", "c.test"))
    await gateway.start_tls(CertificateFiles(*default))
    gateway.certify(
        exact=(("a.example.com",), authority.issue("a.example.com", "exact.test")),
        wild=(("*.example.com",), authority.issue("*.example.com", "wild.test")),
    )
    context = trusting(authority)
    context.check_hostname = False
    seen = {}
    for name in ("a.example.com", "b.example.com", "A.Example.COM", "deep.b.example.com", "c.test"):
        _, writer = await connect(gateway, context, name)
        seen[name] = shown(writer) & {"exact.test", "wild.test", "default.test"}
        writer.close()
    assert seen == {
        "a.example.com": {"exact.test"},
        "A.Example.COM": {"exact.test"},
        "b.example.com": {"wild.test"},
        "deep.b.example.com": {"default.test"},
        "c.test": {"default.test"},
    }


@pytest.mark.parametrize("name", ["nobody.test", None])
async def test_an_unknown_name_is_refused_before_anything_is_made(
    secure: Gateway, authority: Authority, name: str | None
) -> None:
    """Without a default certificate the client gets the alert unrecognized_name; a client without a name as well."""
    context = trusting(authority)
    context.check_hostname = name is not None
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        await connect(secure, context, name or "")
    assert secure.traffic.tls_failures == {"name": 1}
    await secure.left()


async def test_a_certificate_is_replaced_under_traffic(secure: Gateway, authority: Authority) -> None:
    """No request fails, live connections go on, and each handshake after the replacement sees the new certificate."""
    context = trusting(authority)
    old = await connect(secure, context)
    stop = asyncio.Event()
    count = 0

    async def client() -> None:
        nonlocal count
        while not stop.is_set():
            reader, writer = await connect(secure, context)
            await ask(reader, writer)
            count += 1
            writer.close()

    clients = [asyncio.ensure_future(client()) for _ in range(3)]
    for number in range(5):
        secure.certify(hello=((HOST,), authority.issue(HOST, f"{number}.test")))
        reader, writer = await connect(secure, context)
        assert f"{number}.test" in shown(writer)
        await ask(reader, writer)
        writer.close()
    stop.set()
    await asyncio.gather(*clients)
    assert count
    await ask(*old)
    old[1].close()
    assert not secure.traffic.tls_failures


async def test_a_dropped_certificate_is_gone(secure: Gateway, authority: Authority) -> None:
    """The next handshake does not get it."""
    secure.certify(hello=None)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        await connect(secure, trusting(authority))


async def test_a_certificate_openssl_refuses_breaks_no_other(
    secure: Gateway, authority: Authority, caplog: Any
) -> None:
    """Its name is served no more; one line says so, however often it is asked for."""
    chain, key = authority.issue("other.test")[0], authority.issue("other.test")[1]
    secure.certify(broken=(("other.test",), (chain, key)))
    for _ in range(3):
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await connect(secure, trusting(authority), "other.test")
    assert [record.message for record in caplog.records] == [
        "the certificate of Secret default/broken is not used: the key is not the certificate's"
    ]
    await once(secure, trusting(authority))
    assert not secure.certificates.covers(b"other.test"), "nobody is to be redirected there"
    assert secure.certificates.covers(b"Hello.default.localhost:8080")


async def test_the_contexts_used_last_are_kept(
    gateway: Gateway, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand certificates cost contexts only while they are used: at most MAX_CONTEXTS are held."""
    monkeypatch.setattr(module, "MAX_CONTEXTS", 2)
    await gateway.start_tls()
    names = [f"{number}.test" for number in range(4)]
    gateway.certify(**{f"c{name[0]}": ((name,), authority.issue(name)) for name in names})
    context = trusting(authority)
    for name in (*names, names[0]):
        _, writer = await connect(gateway, context, name)
        assert shown(writer) == {name}
        writer.close()
    assert len(gateway.certificates._contexts) == 2


# --- the default certificate ------------------------------------------------------------------------------------------


def write_pair(folder: Path, pair: tuple[str, str]) -> tuple[Path, Path]:
    paths = folder / "tls.crt", folder / "tls.key"
    for path, text in zip(paths, pair, strict=True):
        path.write_text(text)
    return paths


async def test_the_files_are_read_again_when_they_change(
    gateway: Gateway, authority: Authority, tmp_path: Path, caplog: Any
) -> None:
    """The next handshake shows the new certificate; while chain and key don't match the old one stays."""
    paths = write_pair(tmp_path, authority.issue("one.test"))
    await gateway.start_tls(CertificateFiles(*paths))
    context = trusting(authority)
    context.check_hostname = False

    async def names() -> set[str]:
        _, writer = await connect(gateway, context, "any.test")
        writer.close()
        return shown(writer)

    assert await names() == {"one.test"}
    chain, key = authority.issue("two.test")
    paths[0].write_text(chain)
    assert await names() == {"one.test"}
    assert "the former one stays: the key is not the certificate's" in caplog.text
    paths[1].write_text(key)
    assert await names() == {"two.test"}
    paths[0].unlink()
    assert await names() == {"two.test"}


@pytest.mark.parametrize("spoil", ["mismatch", "no PEM", "encrypted"])
def test_files_that_cannot_be_used_say_why(authority: Authority, tmp_path: Path, spoil: str) -> None:
    """One clause for the sentence the user gets; nothing asks for a password on the terminal."""
    chain, key = authority.issue("one.test")
    if spoil == "mismatch":
        key, reason = authority.issue("one.test")[1], "the key is not the certificate's"
    elif spoil == "no PEM":
        chain, reason = "nonsense", "no certificate chain with its key in PEM"
    else:
        key, reason = authority.encrypted(key), "the key is encrypted"
    with pytest.raises(UnusableCertificate, match=reason):
        CertificateFiles(*write_pair(tmp_path, (chain, key)))


# --- what is refused --------------------------------------------------------------------------------------------------


def old_client(authority: Authority, version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    context = trusting(authority)
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize(
    ("version", "ciphers", "reason"),
    [
        ("TLSv1", "ALL", "version"),
        ("TLSv1_1", "ALL", "version"),
        ("TLSv1_2", "AES128-SHA", "cipher"),
        ("TLSv1_2", "ECDHE-ECDSA-AES128-SHA", "cipher"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_and_ciphers_cost_a_count(
    secure: Gateway, authority: Authority, version: str, ciphers: str, reason: str, caplog: Any
) -> None:
    """TLS 1.0 and 1.1, and suites without forward secrecy or authenticated encryption; nothing is logged or kept."""
    context = old_client(authority, ssl.TLSVersion[version], ciphers)
    for _ in range(3):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(secure, context)
    assert secure.traffic.tls_failures == {reason: 3}
    assert secure.traffic.tls_handshaking == 0
    assert not caplog.records
    await once(secure, trusting(authority))


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"])
async def test_tls_1_2_with_modern_ciphers(secure: Gateway, authority: Authority, cipher: str) -> None:
    """Clients of ten years are served."""
    reader, writer = await connect(secure, old_client(authority, ssl.TLSVersion.TLSv1_2, cipher))
    await ask(reader, writer)
    assert writer.get_extra_info("cipher")[0] == cipher
    writer.close()


def test_no_compression_and_no_renegotiation() -> None:
    """CRIME, and renegotiation as a way to have the server work."""
    options = server_context().options
    assert options & ssl.OP_NO_COMPRESSION
    assert options & ssl.OP_NO_RENEGOTIATION


async def test_plain_http_is_told_so(secure: Gateway) -> None:
    """A 400 that says what is wrong, as nginx does."""
    answer = await raw(secure, GET)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"speaks HTTPS" in answer
    assert secure.traffic.tls_failures == {"plain": 1}


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x06\x01\x00\x00\x02xy",
        (b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * 20),
        b"\x16\x03\x01\x00\x05\x01\x00\xff\xff\x00",
    ],
)
async def test_noise_ends_the_connection(secure: Gateway, noise: bytes, caplog: Any) -> None:
    """Nothing is logged, nothing is left."""
    await raw(secure, noise)
    assert sum(secure.traffic.tls_failures.values()) == 1
    assert secure.traffic.tls_handshaking == 0
    assert not caplog.records


async def test_a_handshake_that_stalls_is_cut_off(
    secure: Gateway, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """In whatever state: nothing sent, half a ClientHello, or a whole one and then silence."""
    monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT", 0.05)
    outgoing = ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    await asyncio.gather(*(raw(secure, message) for message in (b"", hello[:100], hello)))
    assert secure.traffic.tls_failures == {"timeout": 3}


async def test_handshakes_count_against_the_limit(secure: Gateway, authority: Authority) -> None:
    """Connections that do not even begin to negotiate take places; the next is turned away, whatever it would say."""
    limit = secure.listener.limits.max_connections
    silent = [await asyncio.open_connection("127.0.0.1", secure.tls_port) for _ in range(limit)]
    async with asyncio.timeout(5):
        while secure.traffic.tls_handshaking < limit:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    with pytest.raises(ConnectionError):
        await connect(secure, trusting(authority))
    assert secure.traffic.limit_refusals == {"connections": 1}
    for _, writer in silent:
        writer.close()
    async with asyncio.timeout(5):
        while secure.traffic.tls_handshaking:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await once(secure, trusting(authority))


@pytest.mark.parametrize("gateway_limits", [Limits(max_connections_per_client=2)])
async def test_handshakes_count_against_the_clients_limit(secure: Gateway, authority: Authority) -> None:
    """Those in hand and those that are done, each once."""
    first = await connect(secure, trusting(authority))
    silent = await asyncio.open_connection("127.0.0.1", secure.tls_port)
    async with asyncio.timeout(5):
        while not secure.tls.handshaking:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    with pytest.raises(ConnectionError):
        await connect(secure, trusting(authority))
    assert secure.traffic.limit_refusals == {"connections-per-client": 1}
    silent[1].close()
    first[1].close()
    await secure.left()
    async with asyncio.timeout(5):
        while secure.tls.handshaking:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    for _ in range(3):
        await once(secure, trusting(authority))
        await secure.left()


async def test_a_client_hello_in_pieces(secure: Gateway, authority: Authority) -> None:
    """Byte by byte over the network, and split over records: it is one message."""
    context = trusting(authority)

    def handshake(cut: Any) -> str | None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
        with socket.create_connection(("127.0.0.1", secure.tls_port), timeout=5) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            for piece in cut(outgoing.read()):
                plain.sendall(piece)
            while True:
                incoming.write(plain.recv(65536))
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                return client.version()

    def by_bytes(hello: bytes) -> list[bytes]:
        return [hello[at : at + 1] for at in range(len(hello))]

    def by_records(hello: bytes) -> list[bytes]:
        head, message = hello[:3], hello[5:]
        parts = (message[:3], message[3:100], message[100:])
        return [b"".join(head + len(part).to_bytes(2, "big") + part for part in parts)]

    for cut in (by_bytes, by_records):
        assert await asyncio.to_thread(handshake, cut) == "TLSv1.3"


async def test_a_drain_ends_handshakes_that_do_not_begin(secure: Gateway, authority: Authority) -> None:
    """A connection on which nothing is said is closed; one that speaks in time gets its one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.tls_port)
    speaking = socket.create_connection(("127.0.0.1", secure.tls_port))
    async with asyncio.timeout(5):
        while len(secure.tls.handshaking) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    secure.listener.drain(0.2)
    secure.tls.drain(0.2)
    late = await asyncio.open_connection(sock=speaking, ssl=trusting(authority), server_hostname=HOST)
    assert b"connection: close" in await ask(*late)
    late[1].close()
    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    await secure.left()


# --- resumption -------------------------------------------------------------------------------------------------------

openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@openssl
async def test_openssl_resumes_on_each_reconnect(secure: Gateway) -> None:
    """`s_client -reconnect`: one full handshake and five that reuse its TLS 1.2 session."""
    output = await run(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{secure.tls_port}", "-servername", HOST),
        *("-reconnect", "-tls1_2", "-no_ign_eof"),
    )
    assert len(re.findall(r"^Reused, TLSv1.2", output, re.MULTILINE)) == 5
    assert secure.traffic.tls_resumed == 5


@openssl
async def test_a_session_outlives_the_certificate(secure: Gateway, authority: Authority, tmp_path: Path) -> None:
    """A TLS 1.3 ticket taken under one certificate is good after its replacement: tickets are the gateway's."""
    connection = ("openssl", "s_client", "-connect", f"127.0.0.1:{secure.tls_port}", "-servername", HOST, "-quiet")
    request = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    session = str(tmp_path / "session")
    first = await run(*connection, "-ign_eof", "-sess_out", session, stdin=request)
    assert "200 OK" in first
    secure.certify(hello=((HOST,), authority.issue(HOST)))
    second = await run(*connection, "-ign_eof", "-sess_in", session, stdin=request)
    assert "200 OK" in second
    assert (secure.traffic.tls_handshakes, secure.traffic.tls_resumed) == (2, 1)


@openssl
async def test_a_key_update_is_answered(secure: Gateway) -> None:
    """TLS 1.3 lets either side change its keys at any time and ask for the same (RFC 8446 section 4.6.3)."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{secure.tls_port}", "-servername", HOST),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(10):
            for command in (b"K\n", b"k\n"):
                process.stdin.write(command)
                await process.stdout.readuntil(b"KEYUPDATE")
            process.stdin.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            output = await process.stdout.read()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert b"HTTP/1.1 200 OK" in output


# --- redirects --------------------------------------------------------------------------------------------------------


def redirecting(port: int = 443) -> RouteRule:
    return RouteRule(HOST, (Split(REVISION, 100),), redirect_port=port)


async def plain(gateway: Gateway, target: str, host: str = HOST, method: str = "GET") -> bytes:
    reader, writer = await gateway.connect()
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(5):
        answer: bytes = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("port", "host", "location"),
    [
        (443, HOST, b"https://hello.default.localhost/a?b=c"),
        (443, f"{HOST}:8080", b"https://hello.default.localhost/a?b=c"),
        (8443, HOST.upper(), b"https://hello.default.localhost:8443/a?b=c"),
    ],
)
async def test_plain_http_is_redirected(secure: Gateway, port: int, host: str, location: bytes) -> None:
    """301 with path and query kept and https's port; the endpoint is not asked."""
    secure.route(1, rule=redirecting(port))
    for method in ("GET", "POST"):
        answer = await plain(secure, "/a?b=c", host, method)
        assert answer.startswith(b"HTTP/1.1 301 Moved Permanently\r\n")
        assert b"\r\nlocation: %b\r\n" % location in answer


async def test_what_is_not_redirected(secure: Gateway, authority: Authority) -> None:
    """A certificate authority's challenge, `OPTIONS *`, a host without a certificate, and what came over TLS."""
    port = await secure.endpoint(answering)
    secure.route(port, rule=redirecting())
    assert (await plain(secure, "/.well-known/acme-challenge/token")).startswith(b"HTTP/1.1 200")
    assert (await plain(secure, "*", method="OPTIONS")).startswith(b"HTTP/1.1 200")
    assert (await plain(secure, "/.well-known/other")).startswith(b"HTTP/1.1 301")
    assert (await once(secure, trusting(authority))).startswith(b"HTTP/1.1 200")
    secure.certify(hello=None)
    assert (await plain(secure, "/")).startswith(b"HTTP/1.1 200"), "the certificate is not there"


@pytest.mark.parametrize("trusted_proxies", [(ip_network("127.0.0.1/32"),)])
async def test_what_came_over_tls_to_a_trusted_proxy_is_not_redirected(secure: Gateway) -> None:
    """Or the two would send the client round for ever."""
    secure.route(await secure.endpoint(answering), rule=redirecting())
    answers = {}
    for proto in (b"https", b"http"):
        client = await secure.client(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-Proto: %b\r\n\r\n" % proto))
        answers[proto] = (await client.head()).split(b" ")[1]
        client.close()
    assert answers == {b"https": b"200", b"http": b"301"}


@curl
async def test_curl_follows_the_redirect(secure: Gateway, authority: Authority, tmp_path: Path) -> None:
    """From http to https, with the certificate verified."""
    secure.route(await secure.endpoint(answering), rule=redirecting(secure.tls_port))
    (tmp_path / "ca.pem").write_text(authority.pem)
    output = await run(
        *("curl", "-sSL", "--cacert", str(tmp_path / "ca.pem"), "-w", " %{url_effective} %{num_redirects}"),
        *("--resolve", f"{HOST}:{secure.port}:127.0.0.1", "--resolve", f"{HOST}:{secure.tls_port}:127.0.0.1"),
        f"http://{HOST}:{secure.port}/x?y",
    )
    assert output == f"hi https://{HOST}:{secure.tls_port}/x?y 1"
