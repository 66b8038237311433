"""What a Kubernetes API server refuses, as exceptions that say what to do next.

The server answers a failure with a `Status` object; its `reason` decides the class, because one HTTP status covers
several situations (409 is AlreadyExists on a create and Conflict on an update, and they are repaired differently).
A broken or missing connection is `Unavailable` as well: to the caller it is the same as a server that answers 503.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

_BODY_SHOWN = 300
"""Characters of a non-JSON answer that go into the message: enough to recognise a proxy's error page."""


class KubeError(Exception):
    """The API server refused a request. `status` is HTTP's, `reason` the Status object's, `retry_after` in seconds."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class BadRequest(KubeError):
    """400: the request itself is wrong; admission denials come this way too."""


class Unauthorized(KubeError):
    """401: no credential, or one the server does not accept (any more)."""


class Forbidden(KubeError):
    """403: known, but not allowed; also a quota that is used up, or a namespace that is going away."""


class NotFound(KubeError):
    """404: no such object, or no such kind."""


class Conflict(KubeError):
    """409: the object has changed since it was read, or another field manager owns a field: read again and retry."""


class AlreadyExists(Conflict):
    """409 on a create: the name is taken."""


class Gone(KubeError):
    """410: the resourceVersion or continue token is too old: list again, never retry with the same one."""


class Invalid(KubeError):
    """422: the object breaks a rule; the message names the fields."""


class Unavailable(KubeError):
    """429, 5xx, or no connection at all: try again later. A write may or may not have happened."""


_BY_REASON: dict[str, type[KubeError]] = {
    "AlreadyExists": AlreadyExists,
    "Conflict": Conflict,
    "Expired": Gone,
    "Gone": Gone,
    "NotFound": NotFound,
    "Invalid": Invalid,
    "BadRequest": BadRequest,
    "Unauthorized": Unauthorized,
    "Forbidden": Forbidden,
}
_BY_STATUS: dict[int, type[KubeError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: Unavailable,
}


def error_from(status: int, body: bytes) -> KubeError:
    """The exception for an answer of HTTP `status` (300 or more); `body` is a Status object or any text."""
    parsed = _json_object(body)
    if parsed is not None and parsed.get("kind") == "Status":
        return error_from_status(parsed, status)
    text = body.decode("utf-8", "replace").strip()[:_BODY_SHOWN]
    return _class_of(status, "")(status, "", text or f"the API server answered {status} without a reason")


def error_from_status(body: JsonObject, status: int = 0) -> KubeError:
    """The exception for a Status object, e.g. the one inside a watch's ERROR event; `status` where it has no code."""
    code = body.get("code")
    code = code if isinstance(code, int) else status
    reason = str(body.get("reason") or "")
    details = body.get("details")
    retry_after = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    return _class_of(code, reason)(
        code,
        reason,
        str(body.get("message") or reason or f"the API server answered {code}"),
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
    )


def _class_of(status: int, reason: str) -> type[KubeError]:
    by_status = Unavailable if status >= 500 else KubeError
    return _BY_REASON.get(reason) or _BY_STATUS.get(status) or by_status


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
