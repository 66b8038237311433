"""The gateway: N worker processes under a parent that supervises them and answers on the admin port.

Theory of operation
-------------------
The parent binds every listening socket, before anything else starts, so that a port in use is one clear line and exit
status 2. With several workers each gets a socket of its own (SO_REUSEPORT, the kernel spreads the connections); the
parent keeps them open, so the connections that wait on a dead worker's socket are served by its successor. A worker
that dies is started again, after 0.1 s doubling to 5 s while it keeps dying young.

SIGTERM and SIGINT: /readyz fails, the sockets close, the workers drain, exit status 0. The parent carries no requests.
With `exit_with_parent` the end of standard input ends the gateway at once: whoever holds the other end has died, and
on one machine the replicas died with it, so there is nothing to drain for.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import uvloop
from aiohttp import web

from gateway.config import Address, ConfigError, GatewayConfig, Limits, parse_address, parse_network
from gateway.net.accesslog import open_log
from gateway.net.admin import Admin
from gateway.options import GroupedCommand, limit_options
from gateway.worker import Assignment, serialise_assignment

__all__ = ["main", "run"]

_BACKOFF_FIRST, _BACKOFF_LIMIT = 0.1, 5.0
_LIVED_LONG = 10.0
_OTHER_FILES = 128  # listeners, the feed, the log, probes
_KILL_AFTER = 5.0  # beyond the drain's grace period

_log = logging.getLogger(__name__)


def run(config: GatewayConfig, *, exit_with_parent: bool = False) -> int:
    """Run a gateway until a signal stops it. Returns the exit status: 0 after a drain, 2 if it could not start."""
    logging.basicConfig(level=logging.INFO, format="gateway: %(message)s", stream=sys.stderr)
    try:
        sockets = _bind_all(config)
        with config.feed_token_file.open():
            pass
        if config.access_log not in ("", "-"):
            os.close(open_log(config.access_log))
    except ConfigError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gateway: {error.filename} can't be used: {error.strerror}", file=sys.stderr)
        return 2
    uvloop.run(_supervise(_with_files(config), sockets, exit_with_parent=exit_with_parent))
    return 0


def _with_files(config: GatewayConfig) -> GatewayConfig:
    """Let this process and its workers open as many files as the connections of one worker may need: one to the client
    and one to an endpoint, each. Returns the config with as many connections as the system lets us have."""
    connections = config.limits.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        connections = min(connections, max(1, (hard - _OTHER_FILES) // 2))
    files = 2 * connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(files, hard) if hard != resource.RLIM_INFINITY else files, hard)
        )
    if connections == config.limits.max_connections:
        return config
    if config.limits.max_connections != Limits().max_connections:
        _log.warning("with %d open files allowed, a worker takes %d connections at most", hard, connections)
    return replace(config, limits=replace(config.limits, max_connections=connections))


# --- sockets ----------------------------------------------------------------------------------------------------------


class _Sockets:
    """What the parent has bound: for each worker its external and its cluster-local sockets; one admin socket."""

    def __init__(self, config: GatewayConfig) -> None:
        self.external = _bind(config.listen, config.workers)
        self.cluster_local = _bind(config.cluster_local_listen, config.workers)
        ((self.admin, *_),) = _bind(config.admin_listen, 1)

    def close_listeners(self) -> None:
        for bound in (*self.external, *self.cluster_local):
            for sock in bound:
                sock.close()


def _bind_all(config: GatewayConfig) -> _Sockets:
    sockets = _Sockets(config)
    print(
        f"gateway: listening on {_name(sockets.external[0][0])}, "
        f"cluster-local on {_name(sockets.cluster_local[0][0])}, admin on {_name(sockets.admin)}",
        flush=True,
    )
    return sockets


def _name(sock: socket.socket) -> Address:
    return Address(*sock.getsockname()[:2])


def _bind(address: Address, workers: int) -> list[list[socket.socket]]:
    """Sockets for each worker. 127.0.0.1 brings [::1] along: *.localhost resolves to either. Raises ConfigError."""
    # SO_REUSEPORT would let a second gateway share the port unnoticed; the first socket of each address is therefore
    # bound without it, as a test, where there are to be several.
    if workers > 1:
        probe = _bound(address, shared=False)
        address = Address(address.host, _name(probe).port)
        probe.close()
    first = _bound(address, shared=workers > 1)
    address = Address(address.host, _name(first).port)
    result = [[first], *([_bound(address, shared=True)] for _ in range(workers - 1))]
    if address.host == "127.0.0.1" and socket.has_ipv6:
        for bound in result:
            try:
                bound.append(_bound(Address("::1", address.port), shared=workers > 1))
            except ConfigError:
                if _has_ipv6_loopback():
                    raise
    return result


def _bound(address: Address, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        sock.listen(1024)
        sock.setblocking(False)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{address} is in use by another program; choose another port or stop that one."
            ) from error
        raise ConfigError(f"It can't listen on {address}: {error.strerror or error}.") from error
    return sock


def _has_ipv6_loopback() -> bool:
    try:
        _bound(Address("::1", 0), shared=False).close()
    except ConfigError:
        return False
    return True


# --- supervision ------------------------------------------------------------------------------------------------------


async def _supervise(config: GatewayConfig, sockets: _Sockets, *, exit_with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    if exit_with_parent:
        loop.add_reader(sys.stdin.fileno(), _end_with_parent)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    seats = [
        _Seat(config, index, sockets.external[index], sockets.cluster_local[index]) for index in range(config.workers)
    ]
    admin = Admin(lambda: [seat.channel for seat in seats])
    runner = web.AppRunner(admin.application(), access_log=None)
    await runner.setup()
    await web.SockSite(runner, sockets.admin).start()
    for number in (signal.SIGUSR1, signal.SIGHUP):
        loop.add_signal_handler(number, _forward, seats, number)
    async with asyncio.TaskGroup() as group:
        keepers = [group.create_task(seat.keep(), name=f"worker {seat.index}") for seat in seats]
        await stop.wait()
        admin.draining = True
        sockets.close_listeners()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*(seat.stop(config.drain_grace + _KILL_AFTER) for seat in seats))
    await runner.cleanup()


def _end_with_parent() -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        os._exit(1)  # the workers see their own standard input end, and go at once too


def _forward(seats: list[_Seat], number: int) -> None:
    for seat in seats:
        seat.signal(number)


class _Seat:
    """One worker's place: keeps a process in it. `channel` is where the process is asked for its status."""

    def __init__(
        self, config: GatewayConfig, index: int, external: list[socket.socket], cluster_local: list[socket.socket]
    ) -> None:
        self.index = index
        self.channel: socket.socket | None = None
        self._config = config
        self._external = [sock.fileno() for sock in external]
        self._cluster_local = [sock.fileno() for sock in cluster_local]
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Start the worker, and again whenever it dies, until cancelled."""
        loop = asyncio.get_running_loop()
        delay = _BACKOFF_FIRST
        while True:
            started = loop.time()
            status = await self._run()
            delay = _BACKOFF_FIRST if loop.time() - started > _LIVED_LONG else min(delay * 2, _BACKOFF_LIMIT)
            _log.error("worker %d ended with status %d; starting it again", self.index, status)
            await asyncio.sleep(delay)

    async def _run(self) -> int:
        self._close_channel()
        self.channel, theirs = socket.socketpair()
        self.channel.setblocking(False)
        with theirs:
            assignment = Assignment(self._config, self.index, self._external, self._cluster_local, theirs.fileno())
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.worker",
                stdin=asyncio.subprocess.PIPE,  # stays open: its end tells the worker that this process is gone
                pass_fds=(*assignment.external, *assignment.cluster_local, assignment.status_channel),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        assert process.stdin is not None
        process.stdin.write(serialise_assignment(assignment))
        return await process.wait()

    def _close_channel(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def signal(self, number: int) -> None:
        """Send the worker a signal, if it lives."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, patience: float) -> None:
        """Have the worker drain, and kill it if it takes longer than `patience`."""
        self.signal(signal.SIGTERM)
        if self._process is not None:
            try:
                async with asyncio.timeout(patience):
                    await self._process.wait()
            except TimeoutError:
                self.signal(signal.SIGKILL)
                await self._process.wait()
        self._close_channel()


# --- the command ------------------------------------------------------------------------------------------------------


@click.command(cls=GroupedCommand, context_settings={"show_default": True})
@click.option("--listen", default="127.0.0.1:8080", help="HOST:PORT for external hosts.")
@click.option("--cluster-local-listen", default="127.0.0.1:8081", help="HOST:PORT for cluster-local hosts.")
@click.option("--admin-listen", default="127.0.0.1:9090", help="HOST:PORT for /healthz, /readyz and /metrics.")
@click.option("--feed", "feed_url", required=True, help="The controller's feed, like ws://127.0.0.1:9080/v1/feed.")
@click.option("--feed-token-file", required=True, type=click.Path(path_type=Path), help="File with the feed's token.")
@click.option("--workers", default=1, help="Worker processes, one for each core to be used.")
@click.option("--access-log", default="", help="File for the access log, or - for standard output.", metavar="PATH")
@click.option(
    "--snapshot-file", type=click.Path(path_type=Path), help="Keeps the last state, for a start without controller."
)
@click.option("--drain-grace", default=30.0, help="Seconds that requests in flight get to finish at a stop.")
@click.option("--exit-with-parent", is_flag=True, help="End at once when standard input ends.")
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="NETWORK",
    help="A peer that is believed about X-Forwarded-* and Forwarded, like 10.0.0.0/8. Repeatable.",
)
@limit_options
def main(
    *,
    listen: str,
    cluster_local_listen: str,
    admin_listen: str,
    feed_url: str,
    feed_token_file: Path,
    workers: int,
    access_log: str,
    snapshot_file: Path | None,
    drain_grace: float,
    exit_with_parent: bool,
    trusted_proxies: tuple[str, ...],
    **limits: Any,
) -> None:
    """Carry HTTP requests to the services that the controller's feed names."""
    try:
        config = GatewayConfig(
            feed_url=feed_url,
            feed_token_file=feed_token_file,
            listen=parse_address(listen),
            cluster_local_listen=parse_address(cluster_local_listen),
            admin_listen=parse_address(admin_listen),
            workers=workers,
            access_log=access_log,
            snapshot_file=snapshot_file,
            drain_grace=drain_grace,
            limits=Limits(**limits),
            trusted_proxies=tuple(map(parse_network, trusted_proxies)),
        )
    except ConfigError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(config, exit_with_parent=exit_with_parent))


if __name__ == "__main__":
    main(prog_name="python -m gateway")
