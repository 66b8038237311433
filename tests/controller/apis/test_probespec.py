"""Which probes are refused, in which words."""

from __future__ import annotations

from typing import Any

import pytest

from controller.apis.probespec import validate_probes

R, L = "c.readinessProbe", "c.livenessProbe"
PERIOD = {"tcpSocket": {}, "periodSeconds": 1, "successThreshold": 1, "failureThreshold": 3, "timeoutSeconds": 1}
TCP = {"tcpSocket": {}, "successThreshold": 1}


def _firsts(*, sidecar: bool = False, **container: Any) -> list[str]:
    errors = validate_probes(container, "c", sidecar=sidecar)
    return [str(error).partition("\n")[0] for error in errors]


@pytest.mark.parametrize(
    "probe",
    [
        TCP,
        PERIOD,
        {"httpGet": {"path": "/", "port": 80, "scheme": "HTTPS"}, "successThreshold": 1},
        {"exec": {"command": ["true"]}, "successThreshold": 1},
        {"grpc": {"port": 1, "service": ""}, "successThreshold": 1, "initialDelaySeconds": 3},
    ],
)
def test_right(probe: dict[str, Any]) -> None:
    """Every way to probe is right in all three probes of a container."""
    assert _firsts(readinessProbe=probe, livenessProbe=probe, startupProbe=probe) == []


@pytest.mark.parametrize(
    ("probe", "problem"),
    [
        (
            {"successThreshold": 1},
            f"expected exactly one, got neither: {R}.httpGet, {R}.tcpSocket, {R}.exec, {R}.grpc",
        ),
        ({**TCP, "httpGet": {}}, f"expected exactly one, got both: {R}.httpGet, {R}.tcpSocket"),
        ({"exec": {}, "successThreshold": 1}, f"missing field(s): {R}.exec.command"),
        ({"httpGet": {"scheme": "FTP"}, "successThreshold": 1}, f"invalid value: FTP: {R}.httpGet.scheme"),
        ({**TCP, "udp": {}}, f"must not set the field(s): {R}.udp"),
        ({**TCP, "tcpSocket": {"port": "other"}}, f"Probe port must match container port: {R}.tcpSocket.port"),
        ({**TCP, "tcpSocket": {"port": 65536}}, f"expected 0 <= 65536 <= 65535: {R}.tcpSocket.port"),
        ({**TCP, "periodSeconds": -1, "failureThreshold": 1, "timeoutSeconds": 1}, None),
        ({**TCP, "initialDelaySeconds": -1}, f"expected 0 <= -1 <= 2147483647: {R}.initialDelaySeconds"),
        ({**TCP, "successThreshold": 0}, f"expected 1 <= 0 <= 2147483647: {R}.successThreshold"),
        (
            {**TCP, "failureThreshold": 2},
            f"failureThreshold is disallowed when periodSeconds is zero: {R}.failureThreshold",
        ),
        ({**TCP, "timeoutSeconds": 2}, f"timeoutSeconds is disallowed when periodSeconds is zero: {R}.timeoutSeconds"),
        ({**PERIOD, "timeoutSeconds": 0}, f"expected 1 <= 0 <= 2147483647: {R}.timeoutSeconds"),
        ({**PERIOD, "failureThreshold": 0}, f"expected 1 <= 0 <= 2147483647: {R}.failureThreshold"),
    ],
)
def test_readiness(probe: dict[str, Any], problem: str | None) -> None:
    """One handler, at the container's own port, with times and thresholds inside their bounds."""
    problem = problem or f"expected 0 <= -1 <= 2147483647: {R}.periodSeconds"
    assert _firsts(readinessProbe=probe) == [problem]


def test_other_probes_have_plain_numbers() -> None:
    """Without a period they get Kubernetes' own; only negative numbers are wrong."""
    assert _firsts(livenessProbe={"tcpSocket": {}, "failureThreshold": 3}) == []
    assert _firsts(livenessProbe={"tcpSocket": {}, "timeoutSeconds": -1}) == [
        f"expected 0 <= -1 <= 2147483647: {L}.timeoutSeconds"
    ]


def test_named_ports() -> None:
    """A name has to be the container's port's."""
    probe = {**TCP, "tcpSocket": {"port": "h2c"}}
    assert _firsts(readinessProbe=probe, ports=[{"name": "h2c"}]) == []
    assert _firsts(readinessProbe=probe, ports=[{"name": "http1"}]) == [
        f"Probe port must match container port: {R}.tcpSocket.port"
    ]


def test_sidecars_say_their_port() -> None:
    """A container that does not serve has no port to fall back on."""
    assert _firsts(sidecar=True, readinessProbe=TCP) == [f"Probe port must be specified: {R}.tcpSocket.port"]
    assert _firsts(sidecar=True, readinessProbe={**TCP, "tcpSocket": {"port": 1}}) == []
