"""Real endpoints for the activator: loopback servers on ports of the system's choice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import uvloop

from gateway.contract import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of the gateway's processes."""
    return {"uvloop": uvloop.new_event_loop}


class Upstream:
    """Answers every request with the next of `statuses` (the last one for ever), or not at all when there is none."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses
        self.heads: list[bytes] = []
        self.port = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port, f"pod-{self.port}")

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[Upstream]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if self.statuses:
                status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
                writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[..., Awaitable[Upstream]]]:
    """Starts upstreams: `await upstream(statuses=[...], port=0)`."""
    async with AsyncExitStack() as stack:

        async def start(statuses: list[int] | None = None, port: int = 0) -> Upstream:
            return await stack.enter_async_context(Upstream(statuses or []).listening(port))

        yield start


@pytest.fixture
def free_port(unused_tcp_port: int) -> int:
    """A port nobody listens on."""
    return unused_tcp_port
