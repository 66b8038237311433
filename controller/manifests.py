"""Manifests a person wrote: YAML or JSON files, folders of them, or standard input, read into API objects and applied.

Everything that can be found wrong without a server is found here, with the file, the document and the place in it:
text that is not YAML, a document that is not an object, a missing apiVersion, kind or name. What the fields mean is the
server's to judge.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import yaml

from controller.apis import kinds
from controller.apis.meta import key_of
from controller.kube.client import APPLY_PATCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from controller.apis.kinds import Kind
    from controller.apis.meta import JsonObject
    from controller.kube.client import Kube

FIELD_MANAGER = "zerogate"

_BY_TYPE = {(kind.api_version, kind.kind): kind for kind in (*kinds.KNATIVE_KINDS, *kinds.BUILT_IN_KINDS)}
_SUFFIXES = (".yaml", ".yml", ".json")
_NODES = 500_000
"""Values of one document with its aliases written out; a text within the limit below has fewer without any."""
_LIMIT = 16 * 1024 * 1024
"""Bytes of one file; a Kubernetes object is limited to about 1.5 MB by etcd, so this is many objects."""


class ManifestError(Exception):
    """What is wrong with a manifest, where, and what would be right, in one sentence."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object and where it stands, e.g. `hello.yaml, document 2`."""

    obj: JsonObject
    source: str


def read_manifests(paths: Iterable[str]) -> list[Manifest]:
    """The objects of files, folders (their .yaml, .yml and .json files, sorted) or "-" (standard input), in order.

    Raises ManifestError.
    """
    return [manifest for path in paths for manifest in _read(path)]


def _read(path: str) -> Iterator[Manifest]:
    if path == "-":
        yield from parse_manifests(_limited(sys.stdin.buffer, "standard input"), "standard input")
        return
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix in _SUFFIXES and file.is_file())
        if not files:
            raise ManifestError(f"{path}: the folder holds no {', '.join(_SUFFIXES)} file")
    else:
        files = [place]
    for file in files:
        yield from parse_manifests(_bytes_of(file), str(file))


def _bytes_of(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return _limited(stream, str(file))
    except OSError as error:
        raise ManifestError(f"{file}: can't be read: {error.strerror}") from error


def _limited(stream: BinaryIO, source: str) -> bytes:
    data = stream.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise ManifestError(f"{source}: larger than {_LIMIT // 2**20} MiB")
    return data


def parse_manifests(data: bytes, source: str) -> Iterator[Manifest]:
    """The objects of one text; empty documents are passed over and a List is its items. Raises ManifestError."""
    documents = _documents(data, source)
    if all(document is None for document in documents):
        raise ManifestError(f"{source}: holds no object")
    for number, document in enumerate(documents, start=1):
        place = source if len(documents) == 1 else f"{source}, document {number}"
        if document is not None:
            _check_values(document, place, "")
            yield from _objects(document, place)


def _documents(data: bytes, source: str) -> list[object]:
    try:
        loader = _Loader(data)
        documents = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None and _size(node, {}) > _NODES:
                raise ManifestError(f"{source}: its aliases make more than {_NODES} values of it")
            documents.append(loader.construct_document(node))
        return documents
    except RecursionError as error:
        raise ManifestError(f"{source}: nested too deeply, or an alias within itself") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ManifestError(f"{source}{where}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{source}: not YAML: {' '.join(str(error).split())}") from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for when its aliases are written out. An alias within itself recurses for ever."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        children = (
            node.value if isinstance(node, yaml.SequenceNode) else [child for pair in node.value for child in pair]
        )
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _check_values(value: object, source: str, path: str) -> None:
    """Raises ManifestError for a value that YAML has and JSON, which the API server speaks, has not."""
    match value:
        case dict():
            for key, item in value.items():
                _check_values(item, source, f"{path}.{key}" if path else str(key))
        case list():
            for index, item in enumerate(value):
                _check_values(item, source, f"{path}[{index}]")
        case str() | bool() | None:
            pass
        case int() if -(2**63) <= value < 2**64:
            pass
        case float() if math.isfinite(value):
            pass
        case _:
            raise ManifestError(f"{source}: {path} is {value!r}, which JSON can't say; put text into quotes")


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: no dates (a timestamp stays text) and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a string", key_node.start_mark)
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _objects(document: object, place: str) -> Iterator[Manifest]:
    if not isinstance(document, dict):
        raise ManifestError(f"{place}: expected an object with apiVersion, kind and metadata, found {_what(document)}")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str) or not document[field]:
            raise ManifestError(f"{place}: {field} is missing, e.g. apiVersion: serving.knative.dev/v1, kind: Service")
    if document["kind"] == "List":
        for item in document.get("items") or ():
            yield from _objects(item, place)
        return
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        raise ManifestError(f"{place}: {document['kind']} has no metadata.name")
    for field in ("name", "generateName", "namespace"):
        value = metadata.get(field, "")
        # Kubernetes' rule for what stands in a path.
        if not isinstance(value, str) or value in (".", "..") or "/" in value or "%" in value:
            raise ManifestError(f"{place}: metadata.{field} is {value!r}, must be a name without / and %")
    yield Manifest(document, place)


def _what(value: object) -> str:
    match value:
        case list():
            return "a list"
        case str():
            return "text" if len(value) > 40 else f"the text {value!r}"
        case _:
            return f"{value!r}"


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a manifest's object. Raises ManifestError for one that zerogate does not know."""
    api_version, kind = manifest.obj["apiVersion"], manifest.obj["kind"]
    try:
        return _BY_TYPE[api_version, kind]
    except KeyError:
        versions = [known for known, name in _BY_TYPE if name == kind]
        right = f"kind {kind} is {' or '.join(versions)}" if versions else f"there is no kind {kind} here"
        wrong = f"apiVersion {api_version}, kind {kind} is not served"
        raise ManifestError(f"{manifest.source}: {wrong}: {right}") from None


def check_namespace(manifest: Manifest, namespace: str | None) -> None:
    """Raises ManifestError if the manifest is for another namespace than the one asked for."""
    own = manifest.obj["metadata"].get("namespace")
    if namespace is not None and own is not None and own != namespace and kind_of(manifest).namespaced:
        raise ManifestError(f"{manifest.source}: is for namespace {own}, not {namespace}: leave one of the two out")


async def apply_manifest(kube: Kube, manifest: Manifest, namespace: str, *, force: bool = False) -> JsonObject:
    """Applies one manifest on the server's side, in `namespace` where it names none; `force` takes over fields that
    somebody else set. An unknown field is an error. Returns the object. Raises KubeError, ManifestError."""
    kind, obj = kind_of(manifest), manifest.obj
    meta = dict(obj["metadata"])
    if kind.namespaced:
        meta.setdefault("namespace", namespace)
    obj = {**obj, "metadata": meta}
    if "name" not in meta:
        return await kube.create(kind, obj, strict=True)
    return await kube.patch(
        kind, key_of(obj), obj, content_type=APPLY_PATCH, field_manager=FIELD_MANAGER, force=force, strict=True
    )
