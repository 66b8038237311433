"""`zerogate up` and `zerogate controller`: each parses its arguments and calls one composition root."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from controller.__main__ import ControllerOptions
from controller.__main__ import run as run_controller
from controller.cli.mistake import Mistake
from controller.config.store import NAMESPACE
from controller.embedded.__main__ import UpOptions
from controller.embedded.__main__ import run as run_up
from controller.manifests import ManifestError, kind_of, read_manifests
from controller.paths import default_data_dir
from gateway.config import Address, ConfigError, parse_address, parse_network
from gateway.options import limit_arguments

__all__ = ["controller", "up"]

_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


Images = dict[str, tuple[str, ...]]


def _images(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Images:
    images = {}
    for value in values:
        name, equals, command = value.partition("=")
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: the command is not shell words: {error}") from error
        if not name or not equals or not words:
            raise click.BadParameter(f'{value!r} is not NAME=COMMAND, e.g. --image hello="python3 app.py"')
        images[name] = words
    return images


def _domain(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not _DOMAIN.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not a domain name in lower case, e.g. localhost or example.com")
    return value


def _trusted_proxies(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(f"--trusted-proxy={parse_network(value)}" for value in values)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def _gateway_limits(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(limit_arguments(values))
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    metavar="FILE",
    help="Apply this YAML or JSON file, or all files of this folder, once everything runs. Repeatable.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_data_dir,
    show_default="the user's state directory",
    help="Where objects, credentials and logs are kept.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65532),
    default=8080,
    show_default=True,
    help="Where services answer. The next three ports are for cluster-local names, the gateway's metrics and the "
    "controller's metrics.",
)
@click.option(
    "--tls-port",
    type=click.IntRange(1, 65535),
    help="Where services answer over TLS as well.  [default: nowhere]",
)
@click.option(
    "--tls-certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="PEM file with the certificate chain for that, read again when it changes; without it one is issued by a "
    "certificate authority in the data directory.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="PEM file with its private key.",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Gateway processes that share the port."
)
@click.option(
    "--domain",
    default="localhost",
    show_default=True,
    callback=_domain,
    help="Services are called NAME.NAMESPACE.DOMAIN.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="NAME=COMMAND",
    callback=_images,
    help="What to run for a container that has an image but no command. Repeatable.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="NETWORK",
    callback=_trusted_proxies,
    help="Who is believed about X-Forwarded-* and Forwarded: 127.0.0.1 for a proxy on this machine. Repeatable.",
)
@click.option(
    "--gateway-limit",
    "gateway_limits",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_gateway_limits,
    help="A limit of the gateway, like max-body=10485760; `zerogate gateway --help` names them all. Repeatable.",
)
def up(
    filenames: tuple[str, ...],
    data_dir: Path,
    port: int,
    tls_port: int | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    workers: int,
    domain: str,
    images: Images,
    trusted_proxies: tuple[str, ...],
    gateway_limits: tuple[str, ...],
) -> None:
    """Run the whole platform on this machine, until Ctrl-C.

    Starts an API server for kubectl, the controllers, a node agent that runs containers as local processes, and the
    gateway. Nothing listens beyond this machine. What you apply is kept in the data directory.

    \b
      zerogate up -f deploy/examples/hello.yaml
      zerogate up --image app="python3 app.py" -f app.yaml
    """
    try:
        manifests = read_manifests(filenames)
        for manifest in manifests:
            kind_of(manifest)
    except ManifestError as error:
        raise Mistake(str(error)) from error
    options = UpOptions(
        manifests=tuple(manifests),
        data_dir=data_dir.absolute(),
        port=port,
        workers=workers,
        domain=domain,
        images=images,
        gateway_arguments=(*trusted_proxies, *gateway_limits),
        tls_port=tls_port,
        tls_files=_tls_files(tls_port, tls_certificate, tls_key),
    )
    raise click.exceptions.Exit(run_up(options))


def _tls_files(port: int | None, certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Mistake("a TLS certificate and its key come together: --tls-certificate FILE --tls-key FILE")
    if port is None:
        raise Mistake("a TLS certificate needs a port to serve it on: --tls-port 8443")
    return certificate.absolute(), key.absolute()


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> Address:
    try:
        return parse_address(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command(context_settings={"show_default": True})
@click.option("--kubeconfig", metavar="PATH", help="How to reach the cluster.  [default: $KUBECONFIG, ~/.kube/config]")
@click.option("--in-cluster", is_flag=True, help="Use the pod's service account instead of a kubeconfig.")
@click.option("--namespace", default=NAMESPACE, help="Where the config-* ConfigMaps and the Lease are.")
@click.option("--feed-listen", default="127.0.0.1:9080", callback=_address, help="HOST:PORT for gateways.")
@click.option(
    "--feed-token-file",
    required=True,
    type=click.Path(path_type=Path),
    help="File with the secret that gateways must show.",
)
@click.option(
    "--feed-certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM file with the feed's certificate chain: gateways connect with wss://. Read again when it changes. "
    "Only a loopback address can do without, since the feed carries private keys.",
)
@click.option("--feed-key", type=click.Path(path_type=Path), metavar="FILE", help="PEM file with its private key.")
@click.option(
    "--feed-insecure",
    is_flag=True,
    help="Listen without a certificate on any address: for networks that encrypt by themselves, like a service mesh.",
)
@click.option(
    "--admin-listen", default="127.0.0.1:9091", callback=_address, help="HOST:PORT for /healthz, /readyz and /metrics."
)
def controller(
    kubeconfig: str | None,
    in_cluster: bool,
    namespace: str,
    feed_listen: Address,
    feed_token_file: Path,
    feed_certificate: Path | None,
    feed_key: Path | None,
    feed_insecure: bool,
    admin_listen: Address,
) -> None:
    """Run the control plane against a Kubernetes cluster.

    Reconciles Knative's resources, scales revisions, and tells the gateways where requests go. Several may run: one
    leads, the others stand by.
    """
    options = ControllerOptions(
        feed_token_file=feed_token_file,
        kubeconfig=kubeconfig,
        in_cluster=in_cluster,
        namespace=namespace,
        feed_listen=feed_listen,
        admin_listen=admin_listen,
        feed_files=_feed_files(feed_certificate, feed_key, insecure=feed_insecure),
        feed_insecure=feed_insecure,
    )
    raise click.exceptions.Exit(run_controller(options))


def _feed_files(certificate: Path | None, key: Path | None, *, insecure: bool) -> tuple[Path, Path] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Mistake("the feed's certificate and its key come together: --feed-certificate FILE --feed-key FILE")
    if insecure:
        raise Mistake("a feed with a certificate is not insecure: leave out --feed-insecure, or the certificate")
    return certificate, key
