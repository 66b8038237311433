"""What a gateway is started with, parsed and validated once.

`python -m gateway` and `zerogate gateway` make a `GatewayConfig`; the supervising parent hands it to its workers as
JSON. A value that can't work raises ConfigError with one sentence for the person who typed it.

What a client may cost is in `Limits`; its options are in `gateway.options`. Where the defaults come from: a head's size
is what nginx, HAProxy and Envoy read, more or less; the keep-alive time is nginx's, the body rate Kestrel's, over about
the time that HAProxy waits for a silent client. Limits that would surprise somebody's application are off: body size,
connections per client, requests per connection.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from ipaddress import ip_address, ip_network
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from gateway.contract import is_loopback

if TYPE_CHECKING:
    from gateway.core.proxies import Network

__all__ = [
    "Address",
    "ConfigError",
    "GatewayConfig",
    "Limits",
    "parse_address",
    "parse_config",
    "parse_network",
    "serialise_config",
]


class ConfigError(ValueError):
    """A setting that can't work; the text says which, and what would."""


class Address(NamedTuple):
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may cost, at one worker. Sizes in bytes, times in seconds; 0 is no limit where it says so.

    - `max_request_line` (414), `max_field_section` and `max_fields` (431): of a request's head.
    - `head_timeout` (408): from a head's first byte to its last.
    - `keep_alive_timeout`: a connection without a request is closed then, without a word.
    - `max_body` (413; 0: any): content of one request.
    - `min_body_rate` (408; 0: any): bytes of content per second, averaged over each window of `body_rate_window`.
    - `max_connections` (503): of one worker. `max_connections_per_client` (429; 0: any): of those, from one address.
    - `max_requests_per_connection` (0: any): the last response says `Connection: close`.
    - `queue_limit`, `worker_queue_limit` (503): requests that wait for one revision, and for all of them.
      `queue_bytes`, `worker_queue_bytes` (503): their heads and contents, likewise.
      `queue_timeout` (504): how long they wait; None is each revision's own time-out.
    """

    max_request_line: int = 8 * 1024
    max_field_section: int = 32 * 1024
    max_fields: int = 100
    head_timeout: float = 10.0
    keep_alive_timeout: float = 75.0
    max_body: int = 0
    min_body_rate: int = 240
    body_rate_window: float = 30.0
    max_connections: int = 20_000
    max_connections_per_client: int = 0
    max_requests_per_connection: int = 0
    queue_limit: int = 10_000
    worker_queue_limit: int = 20_000
    queue_bytes: int = 32 * 1024 * 1024
    worker_queue_bytes: int = 64 * 1024 * 1024
    queue_timeout: float | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < inf:  # NaN fails too
                raise ConfigError(f"{value} is no value for {name.replace('_', '-')}; the least is {least}.")
        if self.max_field_section > _LARGEST_HEAD or self.max_request_line > _LARGEST_HEAD:
            raise ConfigError(f"A request's head of more than {_LARGEST_HEAD} bytes is not read; lower its limits.")


_LARGEST_HEAD = 1024 * 1024
"""Heads are kept whole until they are complete; a megabyte is far beyond what the servers behind would read."""

_LEAST = {
    "max_request_line": 64,
    "max_field_section": 64,
    "max_fields": 1,
    "head_timeout": 0.001,
    "keep_alive_timeout": 0.001,
    "max_body": 0,
    "min_body_rate": 0,
    "body_rate_window": 0.001,
    "max_connections": 1,
    "max_connections_per_client": 0,
    "max_requests_per_connection": 0,
    "queue_limit": 1,
    "worker_queue_limit": 1,
    "queue_bytes": 1,
    "worker_queue_bytes": 1,
    "queue_timeout": 0.001,
}


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """`listen` is for external hosts, `cluster_local_listen` for cluster-local ones, `admin_listen` for /healthz,
    /readyz and /metrics. `access_log` is a file, "-" for standard output, "" for none.
    `drain_grace`: seconds that requests in flight get to finish at a stop. `trusted_proxies`: peers that are believed
    about where requests come from. `tls_listen` is for external hosts over TLS, None for no TLS; `tls_certificate` and
    `tls_key` are PEM files for hosts without a certificate from the controller. `feed_ca` is a PEM file with the
    authorities that a feed over TLS is believed by, None for the system's. Plain text goes to a loopback address only,
    because of the token and of what the feed carries, or with `feed_insecure` anywhere. `peer_host` is the address of
    this machine at which the workers of other gateways reach this one's."""

    feed_url: str
    feed_token_file: Path
    listen: Address
    cluster_local_listen: Address
    admin_listen: Address
    workers: int = 1
    access_log: str = ""
    snapshot_file: Path | None = None
    drain_grace: float = 30.0
    limits: Limits = field(default_factory=Limits)
    trusted_proxies: tuple[Network, ...] = ()
    tls_listen: Address | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    feed_ca: Path | None = None
    feed_insecure: bool = False
    peer_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if not self.feed_url.startswith(("ws://", "wss://", "http://", "https://")):
            raise ConfigError(f"The feed URL {self.feed_url!r} should be like ws://127.0.0.1:9080/v1/feed.")
        if self.feed_url.startswith(("ws://", "http://")):
            self._check_plain_feed()
        _check_host(self.peer_host)
        if self.workers < 1:
            raise ConfigError(f"{self.workers} workers can't serve anything; the least is 1.")
        if self.drain_grace < 0:
            raise ConfigError("The drain's grace period can't be negative.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("A TLS certificate and its key come together: --tls-certificate FILE --tls-key FILE.")
        if self.tls_certificate is not None and self.tls_listen is None:
            raise ConfigError("A TLS certificate needs an address to serve it on, like --tls-listen 127.0.0.1:8443.")

    def _check_plain_feed(self) -> None:
        if self.feed_ca is not None:
            raise ConfigError(f"A CA for the feed needs a feed over TLS: wss:// in place of {self.feed_url!r}.")
        try:
            host = urlsplit(self.feed_url).hostname or ""
        except ValueError as error:
            raise ConfigError(f"The feed URL {self.feed_url!r} is none: {error}.") from None
        if not self.feed_insecure and not is_loopback(host):
            raise ConfigError(
                f"The feed carries secrets and would be readable on the way from {self.feed_url!r}: use wss://, "
                "or say with --feed-insecure that the network encrypts."
            )


def _check_host(host: str) -> None:
    try:
        is_any = ip_address(host).is_unspecified
    except ValueError:
        is_any = True
    if is_any:
        raise ConfigError(f"{host!r} is no address at which others reach this gateway; it should be like 10.0.0.7.")


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `:PORT` for every IPv4 address. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise ConfigError(f"{text!r} is no address to listen on; it should be like 127.0.0.1:8080 or [::1]:8080.")
    return Address(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))


def parse_network(text: str) -> Network:
    """An address, or a network in CIDR notation. Raises ConfigError."""
    try:
        return ip_network(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is no network; it should be like 10.0.0.0/8, 2001:db8::/32 or 127.0.0.1."
        ) from None


def serialise_config(config: GatewayConfig) -> bytes:
    """JSON that `parse_config` reads back to an equal config: how a worker process gets it."""
    return orjson.dumps(asdict(config), default=str)  # addresses, networks and paths as a person would write them


def parse_config(text: bytes) -> GatewayConfig:
    """What `serialise_config` wrote."""
    body: dict[str, Any] = orjson.loads(text)
    for name in ("listen", "cluster_local_listen", "admin_listen"):
        body[name] = parse_address(body[name])
    body["feed_token_file"] = Path(body["feed_token_file"])
    body["tls_listen"] = body["tls_listen"] and parse_address(body["tls_listen"])
    for name in ("snapshot_file", "tls_certificate", "tls_key", "feed_ca"):
        body[name] = body[name] and Path(body[name])
    body["trusted_proxies"] = tuple(map(parse_network, body["trusted_proxies"]))
    body["limits"] = Limits(**body["limits"])
    return GatewayConfig(**body)
