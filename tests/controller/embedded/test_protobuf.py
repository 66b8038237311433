"""Request bodies in protobuf; that real kubectls' bodies mean what they should is in test_kubectl."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.embedded.protobuf import ProtobufError, decode


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def _body(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + _field(1, _field(1, api_version.encode()) + _field(2, kind.encode())) + _field(2, raw)


CONFIG_MAP = _body("v1", "ConfigMap", _field(1, _field(1, b"m")) + _field(2, _field(1, b"a") + _field(2, b"b")))


def test_a_body_becomes_the_object_json_would_be() -> None:
    """apiVersion and kind from the envelope, the rest by field number."""
    assert decode(CONFIG_MAP) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "m"},
        "data": {"a": "b"},
    }


def test_what_go_writes_for_nothing_is_nothing() -> None:
    """Zero values of fields that are no pointers are left out, known or not; a pointer's 0 is a value."""
    metadata = _field(1, _field(1, b"d") + _field(4, b"") + _field(7, 0) + _field(8, b""))
    spec = _field(2, _field(1, 0) + _field(5, 0))
    decoded = decode(_body("apps/v1", "Deployment", metadata + spec))
    assert (decoded["metadata"], decoded["spec"]) == ({"name": "d"}, {"replicas": 0})


def test_nothing_is_dropped_in_silence() -> None:
    """A field or a kind that isn't known here is refused with the way out."""
    with pytest.raises(
        ProtobufError, match="field 9 of v1 ConfigMap is not taken as protobuf; send the object as JSON"
    ):
        decode(_body("v1", "ConfigMap", _field(9, b"\x08\x01")))
    with pytest.raises(ProtobufError, match="batch/v1 Job is not taken as protobuf; send it as JSON"):
        decode(_body("batch/v1", "Job", b""))


@given(st.data())
def test_damaged_bodies_are_refused_or_decoded_never_worse(data: st.DataObject) -> None:
    """Cut and changed bytes give ProtobufError or an object, no other exception."""
    cut = data.draw(st.integers(0, len(CONFIG_MAP)))
    damaged = bytearray(CONFIG_MAP[:cut])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtobufError):
        assert isinstance(decode(bytes(damaged)), dict)
