"""Composition root of cluster mode: `python -m controller`, `zerogate controller`.

One process leads, by a Lease in the control plane's namespace; the others stand by with nothing but their admin port.
The leader runs the control plane and listens for gateways. When it can't renew the Lease it ends, and whoever runs the
process (the Deployment) starts it anew: a process that led once never stands by with half a state.

What the feed carries, private keys among it, and the token that opens it are for the gateways alone. So it listens with
TLS, or on a loopback address, or not at all, unless somebody says that the network encrypts (`feed_insecure`). The
certificate's files are looked at for each connection: a Secret that is rotated needs no restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from controller.admin import admin_app, listening
from controller.apis.meta import Key
from controller.assembly import ControlPlane
from controller.config import store
from controller.kube.client import KubeClient
from controller.kube.errors import KubeError
from controller.kube.lease import LeadershipLost, lead
from gateway.contract import GATHERING, is_loopback
from gateway.net.tlscontext import CertificateFiles, UnusableCertificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from aiohttp import web

log = logging.getLogger(__name__)

LEASE_NAME = "zerogate-controller"


class StartError(Exception):
    """Why the controller can't start, and what to do, in one sentence."""


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """What `zerogate controller` was asked for. Without `in_cluster` the kubeconfig is read (None: $KUBECONFIG, then
    ~/.kube/config). Addresses are (host, port). `feed_files` are the feed's certificate chain and its key, in PEM; only
    a loopback address does without, or any with `feed_insecure`."""

    feed_token_file: Path
    kubeconfig: str | None = None
    in_cluster: bool = False
    namespace: str = store.NAMESPACE
    feed_listen: tuple[str, int] = ("127.0.0.1", 9080)
    admin_listen: tuple[str, int] = ("127.0.0.1", 9091)
    feed_files: tuple[Path, Path] | None = None
    feed_insecure: bool = False


def run(options: ControllerOptions) -> int:
    """Run until SIGINT or SIGTERM; the exit status: 0 after a signal, 1 after losing the lead, 2 if it can't start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        uvloop.run(_run(options))
    except StartError as error:
        print(f"zerogate controller: {error}", file=sys.stderr)
        return 2
    except LeadershipLost as error:
        log.error("ending: %s", error)  # noqa: TRY400 - it says all there is; a traceback would hide it
        return 1
    return 0


async def _run(options: ControllerOptions) -> None:
    token = _token(options.feed_token_file)
    tls = _feed_tls(options)
    async with contextlib.AsyncExitStack() as stack:
        kube = await stack.enter_async_context(await _kube(options))
        plane = ControlPlane(kube, token, namespace=options.namespace, gathering=GATHERING)
        app = admin_app(plane.registry, plane.ready.is_set, plane.account)
        await stack.enter_async_context(_listening(app, options.admin_listen, "--admin-listen"))

        async def work() -> None:
            async with _listening(plane.feed.app, options.feed_listen, "--feed-listen", tls):
                await plane.run()

        key = Key(options.namespace, LEASE_NAME)
        await _until_signal(lead(kube, key, f"{socket.gethostname()}_{os.getpid()}", work))


async def _until_signal(work: Awaitable[None]) -> None:
    """Awaits `work`; SIGINT and SIGTERM cancel it in an orderly way."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"can't read the gateways' token from {path}: {error}") from error
    if not token:
        raise StartError(f"the token file {path} is empty; put a long random text into it, the same for the gateways")
    return token


def _feed_tls(options: ControllerOptions) -> ssl.SSLContext | None:
    """What the feed listens with, None for plain text where that is safe."""
    host = options.feed_listen[0]
    if options.feed_files is None:
        if options.feed_insecure or is_loopback(host):
            return None
        raise StartError(
            f"the feed carries secrets and would be readable on {host}: give it a certificate with "
            "--feed-certificate FILE --feed-key FILE, or a loopback address with --feed-listen, "
            "or say with --feed-insecure that the network encrypts"
        )
    certificate, key = options.feed_files
    try:
        return CertificateFiles(certificate, key, protocols=["http/1.1"]).front()  # aiohttp speaks no other
    except UnusableCertificate as error:
        raise StartError(f"the feed's certificate {certificate} with {key} can't be used: {error}") from error
    except OSError as error:
        raise StartError(f"can't read the feed's certificate from {error.filename}: {error.strerror}") from error


async def _kube(options: ControllerOptions) -> KubeClient:
    try:
        if options.in_cluster:
            return KubeClient.in_cluster()
        return await KubeClient.from_kubeconfig(options.kubeconfig)
    except KubeError as error:
        raise StartError(str(error)) from error


@contextlib.asynccontextmanager
async def _listening(
    app: web.Application, address: tuple[str, int], option: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    try:
        async with listening(app, *address, tls) as port:
            yield port
    except OSError as error:
        raise StartError(
            f"can't listen on {address[0]}:{address[1]} ({error.strerror}); choose with {option}"
        ) from error


if __name__ == "__main__":
    from controller.cli import main

    main(["controller", *sys.argv[1:]])
