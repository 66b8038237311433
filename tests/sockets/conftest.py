"""A gateway for each test, on the loop that gateways run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import uvloop

from gateway.config import Limits
from tests.sockets.gateway import Gateway

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable
    from ipaddress import IPv4Network
    from pathlib import Path


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the gateway runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def gateway_limits() -> Limits:
    """What `gateway` is made with; a test may parametrise it."""
    return Limits(max_connections=100)


@pytest.fixture
def trusted_proxies() -> tuple[IPv4Network, ...]:
    """Likewise."""
    return ()


@pytest.fixture
async def gateway(
    tmp_path: Path, gateway_limits: Limits, trusted_proxies: tuple[IPv4Network, ...]
) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path / "access.log", gateway_limits, trusted_proxies)
    await gateway.start()
    yield gateway
    await gateway.close()
