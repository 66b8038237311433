"""Request bodies in Kubernetes' protobuf, as JSON objects (pure).

Since 1.32 kubectl's `create namespace|configmap|secret|serviceaccount|service|deployment` (not `apply`, nor
`create -f`) sends `application/vnd.kubernetes.protobuf` and doesn't fall back to JSON when it is refused. The body is
the magic `k8s\\0` and a `runtime.Unknown` around the object. Below are the messages those commands send, with the field
numbers of k8s.io/api's generated.proto. Anything else in a body is an error and never dropped in silence: whoever gets
it can send JSON.

Answers are always JSON, which such clients accept.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from controller.apis.meta import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controller.apis.meta import JsonObject

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"

_MAGIC: Final = b"k8s\x00"
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_NESTING: Final = 16
"""Deeper than any message below; a body that nests deeper is not one of them."""

# Number: (JSON field, type). `int` and `bool` are left out when 0, because Go writes every field that is no pointer;
# `int!` is a pointer, for which 0 is a value. `[]T` repeats, `{}T` is a map from strings.
_MESSAGES: Final[Mapping[str, Mapping[int, tuple[str, str]]]] = {
    "ObjectMeta": {
        1: ("name", "string"),
        2: ("generateName", "string"),
        3: ("namespace", "string"),
        5: ("uid", "string"),
        6: ("resourceVersion", "string"),
        7: ("generation", "int"),
        8: ("creationTimestamp", "Time"),
        11: ("labels", "{}string"),
        12: ("annotations", "{}string"),
        13: ("ownerReferences", "[]OwnerReference"),
        14: ("finalizers", "[]string"),
    },
    "OwnerReference": {
        1: ("kind", "string"),
        3: ("name", "string"),
        4: ("uid", "string"),
        5: ("apiVersion", "string"),
        6: ("controller", "bool"),
        7: ("blockOwnerDeletion", "bool"),
    },
    "v1 Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "NamespaceSpec"), 3: ("status", "Empty")},
    "NamespaceSpec": {1: ("finalizers", "[]string")},
    "v1 ConfigMap": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "{}string"),
        3: ("binaryData", "{}bytes"),
        4: ("immutable", "bool"),
    },
    "v1 Secret": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "{}bytes"),
        3: ("type", "string"),
        4: ("stringData", "{}string"),
        5: ("immutable", "bool"),
    },
    "v1 ServiceAccount": {1: ("metadata", "ObjectMeta")},
    "v1 Service": {1: ("metadata", "ObjectMeta"), 2: ("spec", "ServiceSpec"), 3: ("status", "ServiceStatus")},
    "ServiceSpec": {
        1: ("ports", "[]ServicePort"),
        2: ("selector", "{}string"),
        3: ("clusterIP", "string"),
        4: ("type", "string"),
        10: ("externalName", "string"),
    },
    "ServicePort": {
        1: ("name", "string"),
        2: ("protocol", "string"),
        3: ("port", "int"),
        4: ("targetPort", "IntOrString"),
        5: ("nodePort", "int"),
        6: ("appProtocol", "string"),
    },
    "ServiceStatus": {1: ("loadBalancer", "Empty")},
    "apps/v1 Deployment": {1: ("metadata", "ObjectMeta"), 2: ("spec", "DeploymentSpec"), 3: ("status", "Empty")},
    "DeploymentSpec": {
        1: ("replicas", "int!"),
        2: ("selector", "LabelSelector"),
        3: ("template", "PodTemplateSpec"),
        4: ("strategy", "Empty"),
    },
    "LabelSelector": {1: ("matchLabels", "{}string")},
    "PodTemplateSpec": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "PodSpec": {2: ("containers", "[]Container"), 3: ("restartPolicy", "string")},
    "Container": {
        1: ("name", "string"),
        2: ("image", "string"),
        3: ("command", "[]string"),
        4: ("args", "[]string"),
        6: ("ports", "[]ContainerPort"),
        8: ("resources", "Empty"),
    },
    "ContainerPort": {1: ("name", "string"), 3: ("containerPort", "int"), 4: ("protocol", "string")},
    "Empty": {},
}


class ProtobufError(ValueError):
    """A body that is not one of the messages above; the text says why."""


def decode(body: bytes) -> JsonObject:
    """The object in a protobuf request body, with apiVersion and kind. Raises ProtobufError."""
    if not body.startswith(_MAGIC):
        raise ProtobufError("the body is not a Kubernetes protobuf object")
    envelope = dict(_fields(body[len(_MAGIC) :]))
    identity = dict(_fields(_bytes(envelope.get(1, b""))))
    api_version, kind = _text(identity.get(1, b"")), _text(identity.get(2, b""))
    message = f"{api_version} {kind}"
    if message not in _MESSAGES:
        raise ProtobufError(f"{api_version} {kind} is not taken as protobuf; send it as JSON")
    return {"apiVersion": api_version, "kind": kind, **_message(message, _bytes(envelope.get(2, b"")), _NESTING)}


def _message(name: str, data: bytes, depth: int) -> JsonObject:
    if depth == 0:
        raise ProtobufError("the body is nested too deeply")
    found: JsonObject = {}
    for number, raw in _fields(data):
        known = _MESSAGES[name].get(number)
        if known is None:
            _check_is_zero(name, number, raw, depth)
            continue
        field, type_ = known
        if type_.startswith("[]"):
            found.setdefault(field, []).append(_value(type_[2:], raw, depth))
        elif type_.startswith("{}"):
            key, value = _map_entry(type_[2:], raw, depth)
            found.setdefault(field, {})[key] = value
        else:
            value = _value(type_, raw, depth)
            if value not in ("", None, 0) or (value == 0 and type_ == "int!"):
                found[field] = value
    return found


def _value(type_: str, raw: int | bytes, depth: int) -> Any:
    match type_:
        case "string":
            return _text(raw)
        case "bytes":
            return base64.b64encode(_bytes(raw)).decode()
        case "int" | "int!":
            return _int(raw)
        case "bool":
            return bool(_int(raw))
        case "Time":
            seconds = _int(dict(_fields(_bytes(raw))).get(1, 0))
            return format_time(datetime.fromtimestamp(seconds, UTC)) if 0 < seconds < 2**35 else None
        case "IntOrString":
            parts = dict(_fields(_bytes(raw)))
            return _text(parts.get(3, b"")) if parts.get(1) else _int(parts.get(2, 0))
        case _:
            return _message(type_, _bytes(raw), depth - 1)


def _map_entry(type_: str, raw: int | bytes, depth: int) -> tuple[str, Any]:
    parts = dict(_fields(_bytes(raw)))
    return _text(parts.get(1, b"")), _value(type_, parts.get(2, b""), depth)


def _check_is_zero(name: str, number: int, raw: int | bytes, depth: int) -> None:
    """Go writes fields that are no pointers also when they hold nothing; only those may be unknown here."""
    if isinstance(raw, bytes) and raw:
        try:
            _message("Empty", raw, depth - 1)
        except ProtobufError:
            raise ProtobufError(f"field {number} of {name} is not taken as protobuf; send the object as JSON") from None
    elif raw:
        raise ProtobufError(f"field {number} of {name} is not taken as protobuf; send the object as JSON")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values of a message, in the order they were written."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _LENGTH:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ProtobufError(f"wire type {wire} is not known")
        if at + size > len(data):
            raise ProtobufError("the body ends inside a field")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ProtobufError("the body ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ProtobufError("a number is longer than 64 bits")


def _int(raw: int | bytes) -> int:
    if not isinstance(raw, int):
        raise ProtobufError("a number was expected")
    raw &= (1 << 64) - 1
    return raw - (1 << 64) if raw >> 63 else raw


def _bytes(raw: int | bytes) -> bytes:
    if not isinstance(raw, bytes):
        raise ProtobufError("a message or text was expected")
    return raw


def _text(raw: int | bytes) -> str:
    try:
        return _bytes(raw).decode()
    except UnicodeDecodeError:
        raise ProtobufError("text that is not UTF-8") from None
