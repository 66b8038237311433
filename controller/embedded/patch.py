"""The three kinds of patch a client may send (server-side apply is `managedfields`).

- JSON Patch (RFC 6902), by the jsonpatch library.
- JSON merge patch (RFC 7386).
- Strategic merge patch, kubectl's own for built-in kinds: like a merge patch, but lists whose items have a merge key
  are merged item by item. It follows k8s.io/apimachinery/pkg/util/strategicpatch: the merge keys are in the kind's
  schema, and the directives are `$patch: replace|delete|merge` in a map or a list item, `$retainKeys`,
  `$deleteFromPrimitiveList/FIELD` and `$setElementOrder/FIELD`.

Nothing given is changed; what a merge leaves untouched is shared between the input and the result, which makes a status
patch cost what it changes. Whoever wants to change a result in place has to own the input.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import jsonpatch
import orjson

from controller.embedded.schema import Node, StructuralSchema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"

MAX_OPERATIONS: Final = 10_000
"""Of one JSON Patch; Kubernetes' own limit."""
MAX_COPIED: Final = 3 * 1024 * 1024
"""Bytes that the copy operations of one JSON Patch may add up to; Kubernetes' own limit."""

_DIRECTIVE: Final = "$patch"
_RETAIN_KEYS: Final = "$retainKeys"
_DELETE_FROM: Final = "$deleteFromPrimitiveList/"
_ORDER: Final = "$setElementOrder/"
_UNKNOWN: Final = Node()
"""Stands for parts of an object whose schema is not known: lists there are replaced as a whole."""


class PatchError(ValueError):
    """A patch that can't be applied; the text says why."""


def apply_patch(
    content_type: str, current: JsonObject, body: JsonObject | Sequence[JsonObject], kind: Kind
) -> JsonObject:
    """`current` with the patch `body` applied. `content_type` is one of the three media types. Raises PatchError."""
    try:
        patched = _apply(content_type, current, body, kind)
    except RecursionError as error:
        raise PatchError("the patch is nested too deeply") from error
    if not isinstance(patched, dict):
        raise PatchError("the patch would make something else than an object")
    return patched


def _apply(content_type: str, current: JsonObject, body: Any, kind: Kind) -> Any:
    if content_type == JSON_PATCH:
        return _json_patch(current, body)
    if content_type not in (MERGE_PATCH, STRATEGIC_MERGE_PATCH):
        raise PatchError(f"{content_type} is no kind of patch; use {JSON_PATCH} or {MERGE_PATCH}")
    if not isinstance(body, dict):
        raise PatchError("a merge patch must be an object")
    if content_type == MERGE_PATCH:
        return merge(current, body)
    schema = StructuralSchema.built_in(kind)
    return _merge_map(current, body, _UNKNOWN if schema is None else schema.root, "")


# --- JSON Patch -----------------------------------------------------------------------------------------------------


def _json_patch(current: JsonObject, body: Any) -> Any:
    if not isinstance(body, list):
        raise PatchError("a JSON patch must be a list of operations")
    if len(body) > MAX_OPERATIONS:
        raise PatchError(f"a JSON patch may have {MAX_OPERATIONS} operations; this one has {len(body)}")
    for index, operation in enumerate(body):
        _check_operation(index, operation)
    # One by one: whoever wrote the patch wants to know which operation failed.
    patched: Any = copy.deepcopy(current)
    copied = 0
    for index, operation in enumerate(body):
        try:
            if operation["op"] == "copy":
                # Copies of copies double: thirty short operations would fill the memory.
                copied += len(orjson.dumps(jsonpatch.JsonPointer(operation["from"]).resolve(patched)))
                if copied > MAX_COPIED:
                    raise PatchError(f"the JSON patch copies more than {MAX_COPIED} bytes")
            patched = jsonpatch.JsonPatch([operation]).apply(patched, in_place=True)
        except jsonpatch.JsonPatchTestFailed as error:
            raise PatchError(
                f"operation {index} of the JSON patch does not apply: {operation['path']} is not what it tests for"
            ) from error
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise PatchError(f"operation {index} of the JSON patch does not apply: {error}") from error
    return patched


def _check_operation(index: int, operation: Any) -> None:
    if not isinstance(operation, dict):
        raise PatchError(f"operation {index} of the JSON patch must be an object")
    for member in ("op", "path"):
        if not isinstance(operation.get(member), str):
            raise PatchError(f"operation {index} of the JSON patch needs a text as {member!r}")
    if operation["op"] in ("move", "copy") and not isinstance(operation.get("from"), str):
        raise PatchError(f"operation {index} of the JSON patch needs a text as 'from'")


# --- JSON merge patch -----------------------------------------------------------------------------------------------


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: members of `patch` replace those of `target`, null removes one, maps are merged."""
    if type(patch) is not dict:
        return patch
    merged = dict(target) if type(target) is dict else {}
    for name, each in patch.items():
        if each is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), each)
    return merged


# --- strategic merge patch ------------------------------------------------------------------------------------------


def _merge_map(original: JsonObject, patch: JsonObject, node: Node, where: str) -> JsonObject:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {name: each for name, each in patch.items() if name != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise PatchError(f"{where or '.'}: $patch must be merge, replace or delete, not {directive!r}")
    merged = _retained(original, patch, where)
    for name, each in patch.items():
        field = _list_directive(name)
        if field is not None:
            if field not in patch:  # otherwise done along with the list itself
                _set(merged, field, None, patch, node, where)
        elif name not in (_DIRECTIVE, _RETAIN_KEYS):
            _set(merged, name, each, patch, node, where)
    return merged


def _retained(original: JsonObject, patch: JsonObject, where: str) -> JsonObject:
    if _RETAIN_KEYS not in patch:
        return dict(original)
    keys = patch[_RETAIN_KEYS]
    if not isinstance(keys, list):
        raise PatchError(f"{where or '.'}: $retainKeys must be a list of names")
    for name, each in patch.items():
        if each is not None and not name.startswith("$") and name not in keys:
            raise PatchError(f"{where or '.'}: the patch sets {name}, which $retainKeys does not name")
    return {name: each for name, each in original.items() if name in keys}


def _list_directive(name: str) -> str | None:
    """The field that a member of a patch is a list directive for."""
    for prefix in (_DELETE_FROM, _ORDER):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return None


def _set(merged: JsonObject, name: str, each: Any, patch: JsonObject, node: Node, where: str) -> None:
    """Merge one member. `each` is None for a null (which removes it) and for a list with nothing but directives."""
    child = node.child(name) or _UNKNOWN
    old, path = merged.get(name), f"{where}.{name}"
    order, deleted = patch.get(_ORDER + name), patch.get(_DELETE_FROM + name)
    if each is None and (name in patch or (order is None and deleted is None)):
        merged.pop(name, None)
    elif isinstance(each, dict):
        merged[name] = _merge_map(old if isinstance(old, dict) else {}, each, child, path)
    elif (each is None or isinstance(each, list)) and "merge" in child.patch_strategy:
        merged[name] = _merge_list(old if isinstance(old, list) else [], each or [], child, path, order, deleted)
    elif each is not None:
        merged[name] = each


def _merge_list(original: list[Any], patch: list[Any], node: Node, where: str, order: Any, deleted: Any) -> list[Any]:
    """Merge a list with the strategy `merge`; `order` and `deleted` are the values of its directives, or None."""
    for directive, value in (("$setElementOrder", order), ("$deleteFromPrimitiveList", deleted)):
        if value is not None and not isinstance(value, list):
            raise PatchError(f"{where}: {directive} must be a list")
    if node.merge_key:
        merged, patched = _merge_items(original, patch, node, where)
        key = node.merge_key
    else:
        kept = [each for each in original if each not in (deleted or ())]
        merged, patched = [*kept, *(each for each in patch if each not in kept)], patch
        key = ""
    if order is None:
        return merged
    return _ordered(merged, original, [_identity(each, key, where) for each in order], patched, key, where)


def _merge_items(original: list[Any], patch: list[Any], node: Node, where: str) -> tuple[list[Any], list[Any]]:
    """The merged list, and those items of the patch that put something into it."""
    directives = [each for each in patch if isinstance(each, dict) and _DIRECTIVE in each]
    patched = [each for each in patch if each not in directives]
    if any(each[_DIRECTIVE] == "replace" for each in directives):
        return patched, patched
    merged = list(original)
    for each in directives:
        if each[_DIRECTIVE] != "delete":
            raise PatchError(f"{where}: $patch in a list item must be replace or delete, not {each[_DIRECTIVE]!r}")
        gone = _identity(each, node.merge_key, where)
        merged = [old for old in merged if _identity(old, node.merge_key, where) != gone]
    items = node.items or _UNKNOWN
    places = {_hashable(_identity(old, node.merge_key, where)): index for index, old in enumerate(merged)}
    for each in patched:
        identity = _hashable(_identity(each, node.merge_key, where))
        place = places.get(identity)
        if place is None:
            places[identity] = len(merged)
            merged.append(_merge_map({}, each, items, where))
        else:
            merged[place] = _merge_map(merged[place], each, items, where)
    return merged, patched


def _identity(item: Any, key: str, where: str) -> Any:
    if not key:
        return item
    if not isinstance(item, dict) or key not in item:
        raise PatchError(f"{where}: an item of this list does not contain its merge key {key!r}")
    return item[key]


def _hashable(identity: Any) -> Any:
    return identity if isinstance(identity, (str, int, float, bool, type(None))) else repr(identity)


def _ordered(
    merged: list[Any], original: list[Any], order: list[Any], patched: list[Any], key: str, where: str
) -> list[Any]:
    """Put the items the client named in its order; those it does not know stay where the server had them, relative to
    the ones it does know."""

    def identity(item: Any) -> Any:
        return _hashable(_identity(item, key, where))

    wanted = {_hashable(each): index for index, each in enumerate(order)}
    server = {identity(each): index for index, each in enumerate(original)}
    if any(identity(each) not in wanted for each in patched):
        raise PatchError(f"{where}: $setElementOrder does not name all items of the patch")
    named = sorted((each for each in merged if identity(each) in wanted), key=lambda each: wanted[identity(each)])
    unnamed = [each for each in merged if identity(each) not in wanted]
    return interleaved(named, unnamed, lambda each: server.get(identity(each)))


def interleaved(named: Iterable[Any], unnamed: Iterable[Any], place: Callable[[Any], float | None]) -> list[Any]:
    """Both sequences in one, each in its own order; an unnamed item goes before the named ones that it preceded when
    `place` (None for a new item) was their index."""
    left, right = deque(unnamed), deque(named)
    result: list[Any] = []
    while left and right:
        before, after = place(left[0]), place(right[0])
        first = before is not None and after is not None and before < after
        result.append(left.popleft() if first else right.popleft())
    return [*result, *right, *left]
