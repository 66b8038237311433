"""Composition root of one machine: what `zerogate up` starts, in which order, and how it stops.

Two kinds of process. This one runs the API server, the controllers with the autoscaler, the feed and the node agent on
one event loop; everything among them goes over the API server's REST, as in a cluster. The gateway runs in a process
of its own, so that no reconcile delays a request.

Start: store (which locks the data directory), API server, ConfigMaps, agent, control plane, gateway, then the user's
manifests. Stop is the reverse: the gateway drains first, while the replicas it talks to still run.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import secrets
import signal
import socket
import sqlite3
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
import yaml

from controller.admin import admin_app, listening
from controller.apis import kinds
from controller.assembly import ControlPlane
from controller.config.store import Config
from controller.dataplane.compile import external_hosts
from controller.embedded import workloads
from controller.embedded.admission import Admission
from controller.embedded.agent import Agent
from controller.embedded.apiserver import ApiServer
from controller.embedded.credentials import Credentials, GatewayCertificate, load_or_create
from controller.embedded.datadir import DataDir, Unusable, prepare, private_opener
from controller.embedded.gateway_process import GatewayOptions, GatewayProcess
from controller.embedded.podlogs import PodLogs
from controller.embedded.ports import PortAllocator
from controller.embedded.runtimes.process import ProcessRuntime
from controller.embedded.seed import seed
from controller.embedded.store import Store, StoreInUse, StoreUnusable
from controller.embedded.welcome import Refused, Tls, Welcome, tell
from controller.kube.client import KubeClient
from controller.kube.errors import KubeError
from controller.lull import Lull
from controller.paths import deploy_dir
from gateway.contract import FEED_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controller.apis.meta import JsonObject
    from controller.manifests import Manifest

_FILES = 65_536
_HOST = "127.0.0.1"
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""On a machine without IPv6: then nobody asks for us at [::1] either."""


class StartError(Exception):
    """Why the platform can't start, and what to do, in one sentence."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `zerogate up` was asked for. `port` and the three after it are taken; `images` maps names to commands;
    `gateway_arguments` are further ones for the gateway's command line. Services answer over TLS on `tls_port` (None:
    nowhere), with the certificate and key in `tls_files` or else with one of our own CA."""

    manifests: tuple[Manifest, ...]
    data_dir: Path
    port: int
    workers: int
    domain: str
    images: Mapping[str, tuple[str, ...]]
    gateway_arguments: tuple[str, ...] = ()
    tls_port: int | None = None
    tls_files: tuple[Path, Path] | None = None


def run(options: UpOptions) -> int:
    """Run until SIGINT or SIGTERM. The exit status: 0, or 2 if it could not start."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    allow_files()
    try:
        uvloop.run(_up(options))
    except StartError as error:
        print(f"zerogate up: {error}", file=sys.stderr)
        return 2
    return 0


def allow_files() -> None:
    """Let this process open as many files as many pods need: two pipes and a log each, and a connection of the API
    server for each watch. Systems begin with 1024 or, as macOS, with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a system may have a limit below the one it names
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _up(options: UpOptions) -> None:
    stop = _stop_event()
    _check_ports(options.port, options.tls_port)
    reason: Exception | None = None
    async with contextlib.AsyncExitStack() as stack:
        with _starting(options.data_dir):
            plane, gateway, welcome = await _build(options, stack)
        try:
            await _work(stop, plane, gateway, welcome)
        except* (Refused, ChildProcessError) as errors:
            reason = errors.exceptions[0]
    if reason is not None:
        raise StartError(str(reason))


@contextlib.contextmanager
def _starting(root: Path) -> Iterator[None]:
    """What the machine refuses while everything is set up (a full disk, no loopback) is why we can't start."""
    try:
        yield
    except OSError as error:
        raise StartError(f"{error.filename or root} can't be used: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise StartError(f"{root} can't be written: {error}; free some space, or choose another --data-dir") from error
    except KubeError as error:
        raise StartError(f"the API server on {root} can't be used: {error}") from error


async def _build(options: UpOptions, stack: contextlib.AsyncExitStack) -> tuple[ControlPlane, GatewayProcess, Welcome]:
    """Everything, connected, up to where it is to run; `stack` takes it down. Raises StartError, and what `_starting`
    makes one of."""
    data, store = _open_data(options.data_dir)
    stack.callback(store.close)
    credentials = _credentials(data)
    logs = PodLogs(data.logs)
    settings = _Settings()
    ports = PortAllocator(offset=secrets.randbelow(10_000))
    server = ApiServer(store, credentials, _objects(deploy_dir() / "crds"), Admission(settings, ports), logs)
    url = await _start_server(server, data.api_port)
    stack.push_async_callback(server.stop)
    credentials.write_kubeconfig(url)

    kube = await stack.enter_async_context(KubeClient.from_token(url, credentials.token, credentials.ca))
    defaults = _objects(deploy_dir() / "config")
    await seed(
        kube,
        defaults,
        external_domain=options.domain,
        external_port=options.port,
        external_https_port=options.tls_port or 0,
    )
    runtime = ProcessRuntime(data.root, _working_dir())
    lull = Lull()
    agent = Agent(kube, runtime, logs, ports, options.images, lull)
    await agent.start()
    stack.push_async_callback(agent.stop)

    token, token_file = _feed_token(data.feed_token)
    extra = (workloads.DEPLOYMENTS, workloads.SERVICES)
    plane = ControlPlane(kube, token, extra=extra, lull=lull, node=agent)
    settings.plane = plane
    plane.runner.on_change(kinds.POD, agent.on_change)
    agent.on_start(plane.pod_started)
    feed_port = await stack.enter_async_context(listening(plane.feed.app, _HOST, 0))
    admin = admin_app(plane.registry, plane.ready.is_set, plane.account)
    await stack.enter_async_context(listening(admin, _HOST, options.port + 3))
    _remember_port(data.admin_port, options.port + 3)
    own = _own_certificate(options, credentials, plane)
    gateway = GatewayProcess(
        GatewayOptions(
            port=options.port,
            workers=options.workers,
            feed_url=f"ws://{_HOST}:{feed_port}{FEED_PATH}",
            token_file=token_file,
            access_log=data.access_log,
            more=(*options.gateway_arguments, *_tls_arguments(options, own)),
        )
    )
    tls = None if options.tls_port is None else Tls(options.tls_port, credentials.ca if own else None)
    welcome = Welcome(kube, plane, options.manifests, data.kubeconfig, options.port, tls)
    return plane, gateway, welcome


async def _work(stop: asyncio.Event, plane: ControlPlane, gateway: GatewayProcess, welcome: Welcome) -> None:
    """Until `stop`; the gateway drains while the control plane still runs, which has its endpoints to tell."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(plane.run(), name="control plane"),
            group.create_task(gateway.run(), name="gateway"),
            group.create_task(welcome.run(), name="welcome"),
        ]
        try:
            await stop.wait()
        finally:
            await gateway.stop()
        for task in tasks:
            task.cancel()


class _Settings:
    """The configuration of the moment, for admission: the control plane's once there is one, the defaults before."""

    def __init__(self) -> None:
        self.plane: ControlPlane | None = None

    def __call__(self) -> Config:
        return Config() if self.plane is None else self.plane.runner.config


def _stop_event() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; the second one ends this process at once, and its children with it."""
    stop = asyncio.Event()

    def ask() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()
        tell("\nStopping: requests in hand are finished first. Ctrl-C again stops at once.")

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ask)
    return stop


def _own_certificate(options: UpOptions, credentials: Credentials, plane: ControlPlane) -> GatewayCertificate | None:
    """The gateway's certificate if it is for us to issue, kept up to date with the hosts there are."""
    if options.tls_port is None or options.tls_files is not None:
        return None
    try:
        certificate = GatewayCertificate(credentials, datetime.now(UTC))
    except OSError as error:
        raise StartError(f"{error.filename} can't be used: {error.strerror}") from error
    except ValueError as error:
        raise StartError(str(error)) from error

    def on_ingress(_old: JsonObject | None, new: JsonObject | None) -> None:
        certificate.cover(external_hosts(new or {}), datetime.now(UTC))

    plane.runner.on_change(kinds.INGRESS, on_ingress)
    return certificate


def _tls_arguments(options: UpOptions, own: GatewayCertificate | None) -> list[str]:
    if options.tls_port is None:
        return []
    chain, key = (own.chain, own.key) if own else options.tls_files or (None, None)
    return [f"--tls-listen={_HOST}:{options.tls_port}", f"--tls-certificate={chain}", f"--tls-key={key}"]


def _check_ports(first: int, tls_port: int | None) -> None:
    """Raises StartError for a port in use; asked before anything is started, so that nothing is left behind."""
    uses = ("services", "cluster-local names", "the gateway's metrics", "the controller's metrics")
    wanted = [(port, use, "--port") for port, use in enumerate(uses, start=first)]
    if tls_port is not None:
        taken = next((use for port, use, _ in wanted if port == tls_port), None)
        if taken is not None:
            raise StartError(f"port {tls_port} is for {taken} already; choose another with --tls-port")
        wanted.append((tls_port, "services over TLS", "--tls-port"))
    for port, use, option in wanted:
        for family, host in ((socket.AF_INET, _HOST), (socket.AF_INET6, "::1")):
            if (code := _bind_error(family, host, port)) in (0, *_NO_ADDRESS):
                continue
            raise StartError(
                f"port {port} (for {use}) can't be used: {os.strerror(code)}; choose another with {option}"
            )


def _bind_error(family: socket.AddressFamily, host: str, port: int) -> int:
    """The errno with which a port can't be listened on; 0 if it can."""
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _working_dir() -> Path:
    """Where relative commands and working directories of containers begin."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise StartError("the current folder has been removed; start zerogate in another one") from error


def _open_data(root: Path) -> tuple[DataDir, Store]:
    try:
        return prepare(root), Store(root)
    except StoreInUse as error:
        raise StartError(
            f"{root} is in use by another zerogate: stop that one, or choose another directory with --data-dir"
        ) from error
    except (Unusable, StoreUnusable) as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"{root} can't be used: {error.strerror}; choose another directory with --data-dir") from error


def _credentials(data: DataDir) -> Credentials:
    try:
        return load_or_create(data.credentials, datetime.now(UTC), kubeconfig=data.kubeconfig)
    except OSError as error:
        raise StartError(f"{error.filename or data.credentials} can't be used: {error.strerror}") from error
    except ValueError as error:
        raise StartError(str(error)) from error


def _objects(folder: Path) -> list[JsonObject]:
    """The objects in the YAML files of one of our own folders."""
    return [yaml.safe_load(file.read_bytes()) for file in sorted(folder.glob("*.yaml"))]


async def _start_server(server: ApiServer, port_file: Path) -> str:
    """Listens on the port of the last time where that is free, so that kubeconfigs stay valid; its URL."""
    try:
        url = await server.start(_HOST, _last_port(port_file))
    except OSError:
        url = await server.start(_HOST)
    _remember_port(port_file, int(url.rpartition(":")[2]))
    return url


def _last_port(port_file: Path) -> int:
    """0 where there is none: any port."""
    text = port_file.read_text("ascii", errors="replace") if port_file.exists() else ""
    return int(text) if text.isdecimal() and int(text) < 65536 else 0


def _remember_port(port_file: Path, port: int) -> None:
    with open(port_file, "w", opener=private_opener) as file:
        file.write(str(port))


def _feed_token(path: Path) -> tuple[str, Path]:
    """A token for this life's gateways, and the file (0600) they read it from."""
    token = secrets.token_hex(32)
    path.unlink(missing_ok=True)
    with open(path, "x", opener=private_opener) as file:
        file.write(token)
    return token, path
