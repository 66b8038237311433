"""gateway.core.http1: which twin is used, and what frames a message's content."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gateway.core.http1 import (
    COMPILED,
    ChunkedReader,
    LengthReader,
    parse_request,
    parse_response,
    request_body,
    response_body,
)


@pytest.mark.parametrize("value", ["", "0", "1"])
def test_the_python_codec_can_be_forced(value: str) -> None:
    """ZEROGATE_PURE_PYTHON=1 has a process use the Python twins; else the compiled ones where they were built."""
    script = "from gateway.core.http1 import CODEC, parse_request; print(CODEC.name, type(parse_request).__name__)"
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "ZEROGATE_PURE_PYTHON": value},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    pure = COMPILED is None or value == "1"
    assert printed.split() == (["python", "function"] if pure else ["compiled", "builtin_function_or_method"])


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (b"", type(None)),
        (b"Content-Length: 0\r\n", type(None)),
        (b"Content-Length: 1\r\n", LengthReader),
        (b"Transfer-Encoding: chunked\r\n", ChunkedReader),
    ],
)
def test_request_framing(lines: bytes, kind: type) -> None:
    """RFC 9112 section 6.3: no framing field, no content; a length of 0 neither."""
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a.b\r\n%b\r\n" % lines)
    assert head is not None
    assert isinstance(request_body(head), kind)


@pytest.mark.parametrize(
    ("status", "method", "lines", "kind"),
    [
        (200, b"GET", b"Content-Length: 3\r\n", "LengthReader"),
        (200, b"GET", b"Content-Length: 0\r\n", "NoneType"),
        (200, b"HEAD", b"Content-Length: 3\r\n", "NoneType"),
        (204, b"GET", b"Content-Length: 3\r\n", "NoneType"),
        (304, b"GET", b"Content-Length: 3\r\n", "NoneType"),
        (200, b"GET", b"Transfer-Encoding: chunked\r\n", "ChunkedReader"),
        (200, b"GET", b"", "UntilCloseReader"),
    ],
)
def test_response_framing(status: int, method: bytes, lines: bytes, kind: str) -> None:
    """RFC 9112 section 6.3."""
    head = parse_response(b"HTTP/1.1 %d \r\n%b\r\n" % (status, lines))
    assert head is not None
    assert type(response_body(head, method)).__name__ == kind
