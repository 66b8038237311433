"""Which probes a revision may have.

The gateway executes a readiness probe itself. A probe without `periodSeconds` is executed as often as is useful, so
numbers that only make sense with a period are refused without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis.fielderror import FieldError, disallowed, exactly_one, invalid, join, missing, out_of_bounds
from controller.apis.shape import is_set, members, number, struct, structs, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.apis.meta import JsonObject

INT32_MAX = 2**31 - 1
HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")
_NUMBERS = {
    "initialDelaySeconds",
    "periodSeconds",
    "timeoutSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
}
_WITH_PERIOD = ("failureThreshold", "timeoutSeconds")
_SCHEMES = ("", "HTTP", "HTTPS")


def validate_probes(container: JsonObject, path: str, *, sidecar: bool) -> Iterator[FieldError]:
    """What is wrong with a container's probes. A sidecar's have to say their port: it has none of its own."""
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if is_set(container, name):
            probe, at = struct(container, name), join(path, name)
            yield from _handler(probe, at)
            yield from _port(container, probe, at, sidecar=sidecar)
            if name == "readinessProbe":
                yield from _readiness_numbers(probe, at)
            else:
                yield from _plain_numbers(probe, at)


def _handler(probe: JsonObject, path: str) -> Iterator[FieldError]:
    yield from (disallowed(join(path, name)) for name in members(probe) if name not in _NUMBERS.union(HANDLERS))
    found = [name for name in HANDLERS if is_set(probe, name)]
    if error := exactly_one(path, *found, among=HANDLERS):
        yield error
    if is_set(probe, "exec") and not struct(probe, "exec").get("command"):
        yield missing(join(path, "exec.command"))
    if text(struct(probe, "httpGet"), "scheme") not in _SCHEMES:
        yield invalid(join(path, "httpGet.scheme"), struct(probe, "httpGet")["scheme"], "must be HTTP or HTTPS")


def _port(container: JsonObject, probe: JsonObject, path: str, *, sidecar: bool) -> Iterator[FieldError]:
    """A named port has to be the container's; a number is anybody's."""
    names = [text(port, "name") for port in structs(container, "ports")]
    for handler in ("httpGet", "tcpSocket", "grpc"):
        if not is_set(probe, handler):
            continue
        port, at = struct(probe, handler).get("port"), f"{path}.{handler}.port"
        if sidecar and port in (None, 0, ""):
            yield FieldError(at, "Probe port must be specified")
        elif isinstance(port, str) and port and not port.isdecimal() and port not in names:
            yield FieldError(at, "Probe port must match container port")
        elif isinstance(port, int) and not 0 <= port <= 65535:
            yield out_of_bounds(at, port, 0, 65535)


def _readiness_numbers(probe: JsonObject, path: str) -> Iterator[FieldError]:
    for name, low in (("periodSeconds", 0), ("initialDelaySeconds", 0), ("successThreshold", 1)):
        if not low <= number(probe, name) <= INT32_MAX:
            yield out_of_bounds(join(path, name), number(probe, name), low, INT32_MAX)
    for name in _WITH_PERIOD:
        value = number(probe, name)
        if number(probe, "periodSeconds") == 0:
            if value != 0:
                yield FieldError(join(path, name), f"{name} is disallowed when periodSeconds is zero")
        elif not 1 <= value <= INT32_MAX:
            yield out_of_bounds(join(path, name), value, 1, INT32_MAX)


def _plain_numbers(probe: JsonObject, path: str) -> Iterator[FieldError]:
    for name in _NUMBERS:
        if not 0 <= number(probe, name) <= INT32_MAX:
            yield out_of_bounds(join(path, name), number(probe, name), 0, INT32_MAX)
