import orjson
import pytest

from controller.kube import errors


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (410, "", errors.Gone),
        (404, "NotFound", errors.NotFound),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.Unavailable),
        (500, "InternalError", errors.Unavailable),
        (503, "ServiceUnavailable", errors.Unavailable),
        (400, "BadRequest", errors.BadRequest),
        (418, "Teapot", errors.KubeError),
    ],
)
def test_the_reason_decides_the_class_and_the_status_where_it_does_not(status, reason, expected):
    """409 is AlreadyExists or Conflict, 410 is Gone or Expired; an unknown reason falls back to the HTTP status."""
    body = orjson.dumps({"kind": "Status", "code": status, "reason": reason, "message": "m"})
    error = errors.error_from(status, body)
    assert type(error) is expected
    assert (error.status, error.reason, str(error)) == (status, reason, "m")


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"[1]", b"\xff"])
def test_an_answer_that_is_no_status_object_still_has_a_message(body):
    """Proxies in front of an API server answer text: it is shown, shortened."""
    error = errors.error_from(502, body * 1000)
    assert isinstance(error, errors.Unavailable)
    assert 0 < len(str(error)) <= 300


def test_retry_after_is_taken_from_the_details():
    """A 429 says how many seconds to wait."""
    body = {"kind": "Status", "code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 7}}
    assert errors.error_from_status(body).retry_after == 7.0
