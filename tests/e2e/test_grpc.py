"""A gRPC service on `zerogate up`, called with grpcio's own client."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from tests.e2e.harness import wait_for
from tests.e2e.test_life import QUICK, pods, quick_scale_to_zero

if TYPE_CHECKING:
    from tests.e2e.harness import Platform

APP = Path(__file__).with_name("grpc_app.py")


def service(platform: Platform, name: str, container: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, str(APP), str(platform.folder)]
    return platform.service(name, annotations=QUICK, container={"command": command, **container})


def channel(platform: Platform, name: str) -> grpc.Channel:
    options = (("grpc.default_authority", platform.host(name)), ("grpc.enable_retries", 0))
    return grpc.insecure_channel(f"127.0.0.1:{platform.port}", options=options)


def test_a_grpc_service_from_yaml_to_zero_and_back(platform: Platform) -> None:
    """A port named h2c and a grpc readiness probe: Ready, unary and streaming calls, zero, a cold call. A port without
    a name does as well under autodetect-http2."""
    quick_scale_to_zero(platform)
    named = {"ports": [{"name": "h2c", "containerPort": 8080}], "readinessProbe": {"grpc": {}}}
    platform.apply(service(platform, "hello", named))
    platform.wait_ready("hello")
    with channel(platform, "hello") as calls:
        echo = calls.unary_unary("/Test/echo")
        assert echo(b"warm", timeout=10) == b"one: warm"
        stream = calls.unary_stream("/Test/follow")(b"", timeout=30)
        assert [next(stream) for _ in range(3)] == [b"0", b"1", b"2"]
        assert platform.in_flight() == 1
        stream.cancel()
        wait_for("the cancelled call to end", lambda: platform.in_flight() == 0)
        wait_for("scale to zero", lambda: not pods(platform), 40)
        assert echo(b"cold", timeout=20) == b"one: cold"

    features = json.dumps({"data": {"autodetect-http2": "Enabled"}})
    platform.kubectl(
        "patch", "configmap", "config-features", "-n", "knative-serving", "--type", "merge", "-p", features
    )
    platform.apply(service(platform, "found", {}))
    platform.wait_ready("found")
    with channel(platform, "found") as calls:
        assert calls.unary_unary("/Test/echo")(b"x", timeout=10) == b"one: x"
