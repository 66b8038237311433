"""The gateway as a command: N worker processes under a parent that supervises them and answers on the admin port.

Theory of operation
-------------------
Configuration that can't work, a port in use among it, is one clear line and exit status 2, before anything starts. Then
`gateway.supervisor` runs the workers until a signal ends it; it also says how workers, or the whole gateway, are
replaced without losing a request. The parent carries no requests.

With `exit_with_parent` the end of standard input ends the gateway at once: whoever holds the other end has died, and
on one machine the replicas died with it, so there is nothing to drain for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import uvloop

from gateway.config import ConfigError, GatewayConfig, Limits, parse_address, parse_network
from gateway.listeners import ADMIN, Listeners, bind
from gateway.net.accesslog import open_log
from gateway.net.peers import family_of
from gateway.net.tlscontext import CertificateFiles, UnusableCertificate, client_context
from gateway.options import GroupedCommand, limit_options
from gateway.supervisor import Handover, Supervisor

__all__ = ["main", "run", "with_files"]

_OTHER_FILES = 128  # listeners, the feed, the log, probes

_log = logging.getLogger(__name__)


def run(config: GatewayConfig, *, exit_with_parent: bool = False, only_check: bool = False) -> int:
    """Run a gateway until a signal stops it. Returns the exit status: 0 after a drain, 2 if it could not start. With
    `only_check` say which of them, as far as it can be known without listening."""
    logging.basicConfig(level=logging.INFO, format="gateway: %(message)s", stream=sys.stderr)
    try:
        _check(config)
        if only_check:
            return 0
        handover = Handover.received()
        listeners = bind(config, handover.listeners)
    except ConfigError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gateway: {error.filename} can't be used: {error.strerror}", file=sys.stderr)
        return 2
    print(
        f"gateway: listening on {listeners.bound('external')}, "
        f"cluster-local on {listeners.bound('cluster_local')}, admin on {listeners.bound(ADMIN)}"
        + (f", TLS on {listeners.bound('tls')}" if config.tls_listen else ""),
        flush=True,
    )
    left = uvloop.run(_supervise(with_files(config), handover, listeners, exit_with_parent=exit_with_parent))
    if left is not None:
        left.execute()
    return 0


def _check(config: GatewayConfig) -> None:
    """Raises ConfigError, OSError for files that can't be used."""
    with config.feed_token_file.open():
        pass
    if config.feed_ca is not None:
        try:
            client_context(config.feed_ca)
        except UnusableCertificate as error:
            raise ConfigError(f"The feed's CA can't be used: {error}.") from error
    try:
        socket.create_server((config.peer_host, 0), family=family_of(config.peer_host)).close()
    except OSError as error:
        raise ConfigError(f"--peer-host {config.peer_host} is no address of this machine: {error.strerror}.") from error
    if config.access_log not in ("", "-"):
        os.close(open_log(config.access_log))
    if config.tls_certificate is not None and config.tls_key is not None:
        try:
            CertificateFiles(config.tls_certificate, config.tls_key)
        except UnusableCertificate as error:
            raise ConfigError(f"{config.tls_certificate} with {config.tls_key}: {error}.") from error


def with_files(config: GatewayConfig) -> GatewayConfig:
    """Let this process and its workers open as many files as one worker's connections may need: one to the client and
    one to an endpoint, each. Where the system allows fewer, a quarter of them is left for endpoints: the config that
    is returned has a limit on connections that can be kept."""
    connections = config.limits.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 2 * connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < files:
        files = hard
        connections = min(connections, max(1, (hard - _OTHER_FILES) * 3 // 4))
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if connections == config.limits.max_connections:
        return config
    if config.limits.max_connections != Limits().max_connections:  # else nobody asked for that many
        _log.warning("with %d open files allowed, a worker takes %d connections at most", hard, connections)
    return replace(config, limits=replace(config.limits, max_connections=connections))


async def _supervise(
    config: GatewayConfig, handover: Handover, listeners: Listeners, *, exit_with_parent: bool
) -> Handover | None:
    if exit_with_parent:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _end_with_parent)
    return await Supervisor(config, listeners, handover).run()


def _end_with_parent() -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        os._exit(1)  # the workers see their own standard input end, and go at once too


# --- the command ------------------------------------------------------------------------------------------------------


@click.command(cls=GroupedCommand, context_settings={"show_default": True})
@click.option("--listen", default="127.0.0.1:8080", help="HOST:PORT for external hosts.")
@click.option("--cluster-local-listen", default="127.0.0.1:8081", help="HOST:PORT for cluster-local hosts.")
@click.option("--tls-listen", metavar="HOST:PORT", help="HOST:PORT for external hosts over TLS.  [default: no TLS]")
@click.option(
    "--tls-certificate",
    type=click.Path(path_type=Path),
    help="PEM file with the certificate chain for hosts without one of their own. Read again when it changes.",
)
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file with its private key.")
@click.option("--admin-listen", default="127.0.0.1:9090", help="HOST:PORT for /healthz, /readyz and /metrics.")
@click.option(
    "--feed",
    "feed_url",
    required=True,
    help="The controller's feed, like wss://HOST:9080/v1/feed, or ws:// on this machine.",
)
@click.option("--feed-token-file", required=True, type=click.Path(path_type=Path), help="File with the feed's token.")
@click.option(
    "--feed-ca",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file with the CA that signed the certificate of a wss:// feed, read for each connection.  "
    "[default: the system's CAs]",
)
@click.option(
    "--feed-insecure",
    is_flag=True,
    help="Take a ws:// feed from any host: for networks that encrypt by themselves, like a service mesh. "
    "Without it, from this machine only, since the feed carries private keys.",
)
@click.option(
    "--peer-host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="Address of this machine at which the workers of other gateways reach this one's, to share the places of "
    "revisions with a containerConcurrency: a pod's own in a cluster. Ports are of the system's choice.",
)
@click.option("--workers", default=1, help="Worker processes, one for each core to be used.")
@click.option("--access-log", default="", help="File for the access log, or - for standard output.", metavar="PATH")
@click.option(
    "--snapshot-file", type=click.Path(path_type=Path), help="Keeps the last state, for a start without controller."
)
@click.option("--drain-grace", default=30.0, help="Seconds that requests in flight get to finish at a stop.")
@click.option("--exit-with-parent", is_flag=True, help="End at once when standard input ends.")
@click.option(
    "--check", is_flag=True, help="Only say whether a gateway could start so: exit status 0, or 2 and why not."
)
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
    tls_listen: str | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    admin_listen: str,
    feed_url: str,
    feed_token_file: Path,
    feed_ca: Path | None,
    feed_insecure: bool,
    peer_host: str,
    workers: int,
    access_log: str,
    snapshot_file: Path | None,
    drain_grace: float,
    exit_with_parent: bool,
    check: bool,
    trusted_proxies: tuple[str, ...],
    **limits: Any,
) -> None:
    """Carry HTTP requests to the services that the controller's feed names.

    \b
    Signals, none of which loses a request:
      TERM, INT  stop: let nothing new in, finish what is in hand (--drain-grace)
      HUP        replace the workers: they read their files anew
      USR2       replace the whole gateway under its process id: a new version,
                 or a restart; if it could not start, all stays as it is
      USR1       open the access log anew
    With systemd: ExecReload=kill -USR2 $MAINPID
    """
    try:
        config = GatewayConfig(
            feed_url=feed_url,
            feed_token_file=feed_token_file,
            feed_ca=feed_ca,
            feed_insecure=feed_insecure,
            listen=parse_address(listen),
            cluster_local_listen=parse_address(cluster_local_listen),
            admin_listen=parse_address(admin_listen),
            peer_host=peer_host,
            workers=workers,
            access_log=access_log,
            snapshot_file=snapshot_file,
            drain_grace=drain_grace,
            tls_listen=None if tls_listen is None else parse_address(tls_listen),
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            limits=Limits(**limits),
            trusted_proxies=tuple(map(parse_network, trusted_proxies)),
        )
    except ConfigError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(config, exit_with_parent=exit_with_parent, only_check=check))


if __name__ == "__main__":
    main(prog_name="python -m gateway")
