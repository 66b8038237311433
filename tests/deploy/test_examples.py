"""The examples: admitted as they are, and real programs."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from controller.apis.defaults import apply_defaults
from controller.apis.validation import validate
from controller.config.store import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EXAMPLES = sorted((Path(__file__).parents[2] / "deploy" / "examples").glob("*.yaml"))
GET = b"GET / HTTP/1.1\r\nHost: hello.default.localhost\r\n\r\n"
START_LIMIT = 20.0
"""Seconds an interpreter may take to start on a machine that is busy with other tests."""


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def services(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(request.param.read_text()))


def test_admitted(services: list[dict[str, Any]]) -> None:
    """Each example passes admission on a platform with default settings."""
    for service in services:
        assert validate(apply_defaults(service, None, Config(), "me"), None, Config()) == []


def _container(services: list[dict[str, Any]]) -> dict[str, Any]:
    container: dict[str, Any] = services[0]["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.fixture
async def port(services: list[dict[str, Any]], tmp_path: Path) -> AsyncIterator[int]:
    """The example's program as a local process, started anywhere."""
    container = _container(services)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    process = await asyncio.create_subprocess_exec(
        *container["command"], *container["args"], cwd=tmp_path, env={**os.environ, **variables, "PORT": str(port)}
    )
    yield port
    process.terminate()
    assert await process.wait() == 0, "SIGTERM ends it in good order"


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection once the program listens."""
    async with asyncio.timeout(START_LIMIT):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)


async def _response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Status line and content."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    return head.split(b"\r\n")[0], await reader.readexactly(int(length.split()[1]))


async def test_serves(services: list[dict[str, Any]], port: int) -> None:
    """It answers on $PORT, keeps its connection, takes content, and says what its environment tells it."""
    reader, writer = await _connect(port)
    writer.write(GET + b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc" + GET)
    answers = [await _response(reader) for _ in range(3)]
    assert [status for status, _ in answers] == [b"HTTP/1.1 200 OK"] * 3
    assert len({content for _, content in answers}) == 1
    variables = {variable["name"]: variable["value"] for variable in _container(services)["env"]}
    if "TARGET" in variables:
        assert answers[0][1] == f"Hello {variables['TARGET']}!\n".encode()
    writer.close()
    await writer.wait_closed()


async def test_refuses_content_of_unknown_length(port: int) -> None:
    """So small a server reads no chunks: it says so and closes."""
    reader, writer = await _connect(port)
    writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    status, _ = await _response(reader)
    assert status == b"HTTP/1.1 411 Length Required"
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
