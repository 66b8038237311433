"""The Swagger 2.0 document as protobuf, because kubectl takes `/openapi/v2` in no other form.

kubectl (1.20 always; 1.32 when it finds no v3) asks for `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`
alone and does not look at what came back: JSON fails with "cannot parse invalid wire-format data". The messages are
those of gnostic's openapi.v2; the tables below give each field's number there (OpenAPIv2.proto). Only fields that
`openapi.document_v2` writes are listed: an encoder of a page instead of a protobuf runtime and generated code.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

_Encoder = Callable[[int, Any], bytes]
"""(field number, value) → the field with its tag."""
_Fields = Mapping[str, tuple[int, _Encoder]]
"""JSON member → its field number and encoder."""

_VARINT, _FIXED64, _LENGTH = 0, 1, 2


def encode(document: JsonObject) -> bytes:
    """The gnostic `openapi.v2.Document` of a Swagger 2.0 document. Raises KeyError for a member without a number."""
    return _members(_DOCUMENT, 16, document)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative int64s are ten bytes of two's complement
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _block(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(data)) + data


def _string(number: int, value: str) -> bytes:
    return _block(number, value.encode())


def _bool(number: int, value: bool) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(int(value))


def _int64(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | _FIXED64) + struct.pack("<d", value)


def _any(number: int, value: Any) -> bytes:
    """An `Any` holds YAML (field 2); JSON is YAML."""
    return _block(number, _block(2, orjson.dumps(value)))


def _repeated(encoder: _Encoder) -> _Encoder:
    return lambda number, values: b"".join(encoder(number, each) for each in values)


def _named(number: int, values: Mapping[str, Any], encoder: _Encoder) -> bytes:
    """A map as (name = 1, value = 2) messages."""
    return b"".join(_block(number, _string(1, name) + encoder(2, each)) for name, each in values.items())


def _map(encoder: _Encoder, entries: int = 1) -> _Encoder:
    """A message that is nothing but a map in its field `entries`."""
    return lambda number, values: _block(number, _named(entries, values, encoder))


def _members(fields: _Fields, extensions: int, value: JsonObject) -> bytes:
    parts = []
    for name, each in value.items():
        if name.startswith("x-"):
            parts.append(_named(extensions, {name: each}, _any))
        else:
            number, encoder = fields[name]
            parts.append(encoder(number, each))
    return b"".join(parts)


def _message(fields: _Fields, extensions: int) -> _Encoder:
    return lambda number, value: _block(number, _members(fields, extensions, value))


def _schema(number: int, value: JsonObject) -> bytes:
    return _block(number, _members(_SCHEMA, 31, value))


def _type(number: int, value: str) -> bytes:
    return _block(number, _string(1, value))


def _items(number: int, value: JsonObject) -> bytes:
    return _block(number, _schema(1, value))


def _additional(number: int, value: JsonObject | bool) -> bytes:
    return _block(number, _bool(2, value) if isinstance(value, bool) else _schema(1, value))


_SCHEMA: Final[_Fields] = {
    "$ref": (1, _string),
    "format": (2, _string),
    "title": (3, _string),
    "description": (4, _string),
    "default": (5, _any),
    "multipleOf": (6, _double),
    "maximum": (7, _double),
    "exclusiveMaximum": (8, _bool),
    "minimum": (9, _double),
    "exclusiveMinimum": (10, _bool),
    "maxLength": (11, _int64),
    "minLength": (12, _int64),
    "pattern": (13, _string),
    "maxItems": (14, _int64),
    "minItems": (15, _int64),
    "uniqueItems": (16, _bool),
    "maxProperties": (17, _int64),
    "minProperties": (18, _int64),
    "required": (19, _repeated(_string)),
    "enum": (20, _repeated(_any)),
    "additionalProperties": (21, _additional),
    "type": (22, _type),
    "items": (23, _items),
    "properties": (25, _map(_schema)),
    "example": (30, _any),
}

_BODY: Final[_Fields] = {
    "description": (1, _string),
    "name": (2, _string),
    "in": (3, _string),
    "required": (4, _bool),
    "schema": (5, _schema),
}
_QUERY: Final[_Fields] = {
    "required": (1, _bool),
    "in": (2, _string),
    "description": (3, _string),
    "name": (4, _string),
    "type": (6, _string),
}
_PATH: Final[_Fields] = {**_QUERY, "type": (5, _string)}


def _parameter(number: int, value: JsonObject) -> bytes:
    """ParametersItem{parameter = 1}, Parameter{body = 1 | non_body = 2}, NonBodyParameter{query = 3 | path = 4}."""
    if value["in"] == "body":
        found = _block(1, _members(_BODY, 6, value))
    elif value["in"] == "query":
        found = _block(2, _block(3, _members(_QUERY, 23, value)))
    else:
        found = _block(2, _block(4, _members(_PATH, 22, value)))
    return _block(number, _block(1, found))


def _response_schema(number: int, value: JsonObject) -> bytes:
    return _block(number, _schema(1, value))


_RESPONSE: Final[_Fields] = {"description": (1, _string), "schema": (2, _response_schema)}


def _response(number: int, value: JsonObject) -> bytes:
    return _block(number, _block(1, _members(_RESPONSE, 5, value)))


_OPERATION: Final[_Fields] = {
    "tags": (1, _repeated(_string)),
    "description": (3, _string),
    "operationId": (5, _string),
    "produces": (6, _repeated(_string)),
    "consumes": (7, _repeated(_string)),
    "parameters": (8, _repeated(_parameter)),
    "responses": (9, _map(_response)),
}
_operation = _message(_OPERATION, 13)
_PATH_ITEM: Final[_Fields] = {
    "get": (2, _operation),
    "put": (3, _operation),
    "post": (4, _operation),
    "delete": (5, _operation),
    "patch": (8, _operation),
}
_INFO: Final[_Fields] = {"title": (1, _string), "version": (2, _string), "description": (3, _string)}
_DOCUMENT: Final[_Fields] = {
    "swagger": (1, _string),
    "info": (2, _message(_INFO, 7)),
    "paths": (8, _map(_message(_PATH_ITEM, 10), entries=2)),
    "definitions": (9, _map(_schema)),
}
