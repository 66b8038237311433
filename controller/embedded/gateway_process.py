"""The gateway as a child process of `zerogate up`: started, started again when it dies, drained at the end."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_BACK_OFF_FIRST, _BACK_OFF_MAX = 0.05, 5.0
_STEADY = 10.0
"""Seconds of life after which a death counts as the first again."""
_DRAIN_LIMIT = 40.0
"""Seconds for the gateway's own drain (30) and some more."""

_CANNOT_START = 2
"""The gateway's exit status for a configuration that can't work; starting it again would not help."""


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """`port` is the external listener's; cluster-local names and metrics are on the next two. `more` are further
    arguments of its command line."""

    port: int
    workers: int
    feed_url: str
    token_file: Path
    access_log: Path
    more: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        return [
            f"--listen=127.0.0.1:{self.port}",
            f"--cluster-local-listen=127.0.0.1:{self.port + 1}",
            f"--admin-listen=127.0.0.1:{self.port + 2}",
            f"--feed={self.feed_url}",
            f"--feed-token-file={self.token_file}",
            f"--workers={self.workers}",
            f"--access-log={self.access_log}",
            "--exit-with-parent",
            *self.more,
        ]


class GatewayProcess:
    """`run` keeps a gateway going until `stop`. Its standard input is a pipe held open by this process: the gateway
    ends when that closes, so none outlives `zerogate up` even at `kill -9`."""

    def __init__(self, options: GatewayOptions) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def run(self) -> None:
        """Until `stop`. Raises ChildProcessError if the gateway says that its configuration can't work."""
        loop = asyncio.get_running_loop()
        back_off = _BACK_OFF_FIRST
        while not self._stopping:
            began = loop.time()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", *self._options.arguments()),
                stdin=asyncio.subprocess.PIPE,  # never written to: its end tells the gateway that we are gone
                start_new_session=True,  # a Ctrl-C in the terminal is for us: we say when it drains
                stdout=asyncio.subprocess.DEVNULL,  # its own start-up line; warnings go to stderr
            )
            status = await self._process.wait()
            if self._stopping:
                return
            if status == _CANNOT_START:
                raise ChildProcessError("the gateway could not start; its own message is above")
            _log.warning("the gateway ended with status %d and is started again", status)
            back_off = _BACK_OFF_FIRST if loop.time() - began > _STEADY else min(2 * back_off, _BACK_OFF_MAX)
            await asyncio.sleep(back_off)

    async def stop(self) -> None:
        """Let the requests in hand finish, then end the gateway."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_DRAIN_LIMIT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
