"""What a gateway is started with, parsed and validated once.

`python -m gateway` and `zerogate gateway` make a `GatewayConfig`; the supervising parent hands it to its workers as
JSON. A value that can't work raises ConfigError with one sentence for the person who typed it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

__all__ = ["Address", "ConfigError", "GatewayConfig", "parse_address", "parse_config", "serialise_config"]


class ConfigError(ValueError):
    """A setting that can't work; the text says which, and what would."""


class Address(NamedTuple):
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """`listen` is for external hosts, `cluster_local_listen` for cluster-local ones, `admin_listen` for /healthz,
    /readyz and /metrics. `access_log` is a file, "-" for standard output, "" for none. `max_connections` is per worker.
    `drain_grace`: seconds that requests in flight get to finish at a stop."""

    feed_url: str
    feed_token_file: Path
    listen: Address
    cluster_local_listen: Address
    admin_listen: Address
    workers: int = 1
    access_log: str = ""
    snapshot_file: Path | None = None
    max_connections: int = 20_000
    drain_grace: float = 30.0

    def __post_init__(self) -> None:
        if not self.feed_url.startswith(("ws://", "wss://", "http://", "https://")):
            raise ConfigError(f"The feed URL {self.feed_url!r} should be like ws://127.0.0.1:9080/v1/feed.")
        if self.workers < 1:
            raise ConfigError(f"{self.workers} workers can't serve anything; the least is 1.")
        if self.max_connections < 1:
            raise ConfigError(f"A limit of {self.max_connections} connections serves nobody; the least is 1.")
        if self.drain_grace < 0:
            raise ConfigError("The drain's grace period can't be negative.")


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `:PORT` for every IPv4 address. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise ConfigError(f"{text!r} is no address to listen on; it should be like 127.0.0.1:8080 or [::1]:8080.")
    return Address(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))


def serialise_config(config: GatewayConfig) -> bytes:
    """JSON that `parse_config` reads back to an equal config: how a worker process gets it."""
    return orjson.dumps(asdict(config), default=str)  # addresses and paths as a person would write them


def parse_config(text: bytes) -> GatewayConfig:
    """What `serialise_config` wrote."""
    body: dict[str, Any] = orjson.loads(text)
    for name in ("listen", "cluster_local_listen", "admin_listen"):
        body[name] = parse_address(body[name])
    body["feed_token_file"] = Path(body["feed_token_file"])
    body["snapshot_file"] = None if body["snapshot_file"] is None else Path(body["snapshot_file"])
    return GatewayConfig(**body)
