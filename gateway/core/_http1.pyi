from collections.abc import Callable, Mapping

from gateway.core.heads import HeadLimits, RequestHead, ResponseHead

_Request = tuple[
    type[RequestHead],
    Mapping[bytes, Callable[[RequestHead, bytes, bytes], None] | None],
    Callable[[RequestHead], None],
    Callable[[bytes, int, HeadLimits], RequestHead | None],
]
_Response = tuple[
    type[ResponseHead],
    Mapping[bytes, Callable[[ResponseHead, bytes, bytes], None] | None],
    Callable[[ResponseHead], None],
    Callable[[bytes, int, HeadLimits], ResponseHead | None],
]

def setup(request: _Request, response: _Response, limits: HeadLimits, escaped: Callable[[bytes], bytes], /) -> None: ...
def parse_request(data: bytes, start: int = 0, limits: HeadLimits = ..., /) -> RequestHead | None: ...
def parse_response(data: bytes, start: int = 0, limits: HeadLimits = ..., /) -> ResponseHead | None: ...
def unchunk(data: bytes, position: int, remaining: int, /) -> tuple[bytes, int, int]: ...
def serialise_request(
    head: RequestHead, host: bytes, fields: bytes, about: bytes, added: bytes, request_id: bytes, /
) -> bytes: ...
def serialise_response(head: ResponseHead, framing: bytes, data: bytes = b"", start: int = 0, /) -> bytes: ...
def access_line(
    when: float,
    duration: float,
    head: RequestHead,
    status: int,
    sent: int,
    revision: bytes,
    endpoint: bytes,
    flag: str,
    request_id: bytes,
    client: bytes,
    protocol: bytes,
    /,
) -> bytes: ...
