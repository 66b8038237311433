"""The errors of the REST surface as values: Kubernetes `Status` objects in Kubernetes' wording.

kubectl and every client library decide by `code` and `reason` and show `message` to the user, so all three follow
k8s.io/apimachinery/pkg/api/errors. Whatever the server refuses is raised as an `ApiError` and becomes a response in
one place (`apiserver`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject


class ApiError(Exception):
    """A refusal: HTTP status `code`, machine-readable `reason`, `message` for people, `details` for programs."""

    def __init__(self, code: int, reason: str, message: str, details: JsonObject | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> JsonObject:
        """The Status object (`v1`, `status: Failure`)."""
        body: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


def success(kind: Kind, name: str, uid: str) -> JsonObject:
    """What a completed DELETE answers."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": _details(kind, name) | {"uid": uid},
    }


def qualified(kind: Kind) -> str:
    """`services.serving.knative.dev`, or `pods` for the core group."""
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{qualified(kind)} "{name}" not found', _details(kind, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def no_such_subresource(kind: Kind, subresource: str) -> ApiError:
    """What reaches into a cluster's containers has no use here, and kubectl shows the reason as it is sent."""
    if subresource in ("exec", "attach", "portforward"):
        why = "a pod's containers are processes of this machine; reach them with this machine's own tools"
        return ApiError(501, "NotImplemented", f"{qualified(kind)}/{subresource} is not served: {why}")
    return no_such_path()


def already_exists(kind: Kind, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{qualified(kind)} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(kind)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(kind, name))


def modified(kind: Kind, name: str) -> ApiError:
    """Somebody wrote between the caller's read and this write."""
    return conflict(
        kind, name, "the object has been modified; please apply your changes to the latest version and try again"
    )


def apply_conflict(causes: Sequence[JsonObject]) -> ApiError:
    """Server-side apply met fields that other managers own. `causes` have `field` and `message`
    (`conflict with "kubectl" using v1`)."""
    lines = "".join(f"\n- {cause['field']}" for cause in causes)
    owners = sorted({str(cause["message"]) for cause in causes})
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {owners[0]}: {causes[0]['field']}"
    elif len(owners) == 1:
        plural = owners[0].replace("conflict with", "conflicts with", 1)
        message = f"Apply failed with {len(causes)} conflicts: {plural}:{lines}"
    else:
        blocks = []
        for owner in owners:
            fields = "".join(f"\n- {cause['field']}" for cause in causes if cause["message"] == owner)
            blocks.append(owner.replace("conflict with", "conflicts with", 1) + ":" + fields)
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(blocks)
    return ApiError(409, "Conflict", message, {"causes": list(causes)})


def invalid(kind: Kind, name: str, problems: Sequence[str]) -> ApiError:
    """422; each problem reads `spec.replicas: Invalid value: -1: must be greater than or equal to 0`."""
    subject = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    text = problems[0] if len(problems) == 1 else "[" + ", ".join(problems) + "]"
    details: JsonObject = {"name": name, "kind": kind.kind}
    if kind.group:
        details["group"] = kind.group
    details["causes"] = [_cause(problem) for problem in problems]
    return ApiError(422, "Invalid", f'{subject} "{name}" is invalid: {text}', details)


def _cause(problem: str) -> JsonObject:
    field, colon, message = problem.partition(": ")
    if not colon:
        return {"message": problem}
    reason = "FieldValueRequired" if message.startswith("Required value") else "FieldValueInvalid"
    return {"reason": reason, "message": message, "field": field}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(kind: Kind, name: str, why: str) -> ApiError:
    return ApiError(403, "Forbidden", f'{qualified(kind)} "{name}" is forbidden: {why}', _details(kind, name))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def not_acceptable() -> ApiError:
    return ApiError(406, "NotAcceptable", "only the following media types are accepted: application/json")


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    message = "the body of the request was in an unknown format - accepted media types include: "
    return ApiError(415, "UnsupportedMediaType", message + ", ".join(accepted))


def too_large(limit: int) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def expired(message: str) -> ApiError:
    """410: the history the caller asks for is compacted away. It has to list again."""
    return ApiError(410, "Expired", message)


def too_new(asked: int, current: int) -> ApiError:
    """504 with a retry hint: the caller has seen a revision that this server has not."""
    return ApiError(
        504,
        "Timeout",
        f"Too large resource version: {asked}, current: {current}",
        {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


def internal(why: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {why}")


def _details(kind: Kind, name: str) -> JsonObject:
    details: JsonObject = {"name": name, "kind": kind.plural}
    if kind.group:
        details["group"] = kind.group
    return details
