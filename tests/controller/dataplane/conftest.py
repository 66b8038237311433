import asyncio

import pytest


@pytest.fixture
def until():
    """`await until(condition)`: polls, and fails after ten seconds."""

    async def wait(condition):
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - the condition is the state of the world, no event of ours
                await asyncio.sleep(0.002)

    return wait
