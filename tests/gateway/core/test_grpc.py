"""Local replies to gRPC callers."""

from __future__ import annotations

import pytest

from gateway.core.grpc import is_grpc, local_reply


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"Application/gRPC;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
        (None, False),
    ],
)
def test_grpc_is_told_by_its_content_type(content_type: bytes | None, expected: bool) -> None:
    """gRPC-Web is another protocol, whose callers read HTTP statuses."""
    assert is_grpc(content_type) is expected


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, b"12"), (503, b"14"), (504, b"4"), (431, b"8"), (400, b"13"), (502, b"14"), (500, b"13"), (418, b"2")],
)
def test_a_status_has_its_grpc_code(status: int, code: bytes) -> None:
    """HTTP's status is always 200; the outcome is in grpc-status."""
    fields = {name: value for name, value, _ in local_reply(status, "why")}
    assert (fields[b":status"], fields[b"grpc-status"], fields[b"grpc-message"]) == (b"200", code, b"why")


def test_the_message_is_percent_encoded() -> None:
    """All but printable ASCII, and the percent sign."""
    fields = {name: value for name, value, _ in local_reply(503, "50 % of é\r\n")}
    assert fields[b"grpc-message"] == b"50 %25 of %C3%A9%0D%0A"
