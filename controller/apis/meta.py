"""Kubernetes object metadata: reading it, naming children, owner references.

API objects are plain JSON (`JsonObject`, what orjson gives); this is the JSON edge where `Any` is allowed. The typed
views of each kind are in the modules named after the kinds.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, NamedTuple

JsonObject = dict[str, Any]

NAME_LIMIT = 63
_MD5_HEX = 32


class Key(NamedTuple):
    """An object's place within its kind; `namespace` is "" for a cluster-scoped one."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(obj: JsonObject) -> Key:
    """Namespace ("" if it has none) and name. KeyError for an object without a name."""
    meta = obj["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])


def name_of(obj: JsonObject) -> str:
    name: str = obj["metadata"]["name"]
    return name


def namespace_of(obj: JsonObject) -> str:
    namespace: str = obj["metadata"].get("namespace", "")
    return namespace


def uid_of(obj: JsonObject) -> str:
    uid: str = obj["metadata"].get("uid", "")
    return uid


def labels_of(obj: JsonObject) -> dict[str, str]:
    """The labels, {} if there are none; the object's own, so never changed."""
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: JsonObject) -> dict[str, str]:
    """The annotations, {} if there are none; the object's own, so never changed."""
    return obj["metadata"].get("annotations") or {}


def generation_of(obj: JsonObject) -> int:
    """The generation of the spec, 0 for an object that no server has seen."""
    return int(obj["metadata"].get("generation", 0))


def is_deleting(obj: JsonObject) -> bool:
    """Whether deletion has been asked for; finalizers or a grace period may still hold the object."""
    return "deletionTimestamp" in obj["metadata"]


def controller_ref(owner: JsonObject) -> JsonObject:
    """The owner reference that makes `owner` the controller of a child (its deletion takes the child along)."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_controlled_by(obj: JsonObject, owner: JsonObject) -> bool:
    """Whether `owner`, this incarnation of it, is the controller among the object's owners."""
    refs = obj["metadata"].get("ownerReferences") or ()
    return any(ref.get("controller") and ref["uid"] == uid_of(owner) for ref in refs)


def child_name(parent: str, suffix: str) -> str:
    """`parent + suffix`, shortened by an MD5 of the parent where that is over 63 characters (Knative's ChildName)."""
    if len(parent) + len(suffix) <= NAME_LIMIT:
        return parent + suffix
    if len(suffix) < NAME_LIMIT - _MD5_HEX:
        digest = hashlib.md5(parent.encode(), usedforsecurity=False).hexdigest()
        return parent[: NAME_LIMIT - _MD5_HEX - len(suffix)] + digest + suffix
    head = parent[: NAME_LIMIT - _MD5_HEX]
    digest = hashlib.md5((parent + suffix).encode(), usedforsecurity=False).hexdigest()
    padded = head + digest + suffix[: NAME_LIMIT - len(head) - len(digest)]
    return padded.rstrip("".join(c for c in set(padded) if not c.isalnum()))


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes metav1.Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The aware datetime of an RFC 3339 text. Raises ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
