"""Manifests: what is right is read, and what is wrong is named with its place."""

from pathlib import Path

import pytest

from controller.manifests import ManifestError, parse_manifests, read_manifests

HELLO = b"apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: hello}\n"


def test_documents_and_lists() -> None:
    """Several documents, empty ones and Lists are read in order; a time stays text."""
    text = HELLO + b"---\n---\nkind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n"
    assert [m.obj["metadata"]["name"] for m in parse_manifests(text, "x")] == ["hello", "a"]
    dated = b"apiVersion: v1\nkind: A\nmetadata: {name: a, annotations: {t: 2026-01-01T00:00:00Z}}\n"
    assert next(parse_manifests(dated, "x")).obj["metadata"]["annotations"]["t"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1\n", "x, line 2, column 1: not YAML: expected ',' or ']'"),
        (b"a: b: c\n", "x, line 1, column 5: not YAML: mapping values are not allowed here"),
        (b"\xff\xfe\x00", "x: not YAML"),
        (b"\x00", "x: not YAML"),
        (b"just text\n", "expected an object with apiVersion, kind and metadata, found the text 'just text'"),
        (b"- 1\n", "found a list"),
        (b"kind: Service\nmetadata: {name: a}\n", "x: apiVersion is missing"),
        (b"apiVersion: v1\nmetadata: {name: a}\n", "x: kind is missing"),
        (b"apiVersion: v1\nkind: Pod\n", "x: Pod has no metadata.name"),
        (HELLO + b"kind: Route\n", "x, line 4, column 1: not YAML: key 'kind' is there twice"),
        (HELLO + b"1: a\n", "key 1 is not a string"),
        (HELLO + b"---\napiVersion: v1\n", "x, document 2: kind is missing"),
        (b"", "x: holds no object"),
        (b"# nothing\n---\n", "x: holds no object"),
        (HELLO + b"spec: {a: [1, 99999999999999999999999]}\n", "spec.a[1] is 99999999999999999999999"),
        (HELLO + b"spec: {a: .nan}\n", "spec.a is nan"),
        (HELLO + b"spec: {a: !!binary aGk=}\n", "spec.a is b'hi'"),
        (b"apiVersion: v1\nkind: Pod\nmetadata: {name: 12}\n", "metadata.name is 12"),
        (b"apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}\n", "metadata.name is 'a/b'"),
        (b"a: &a [*a]\n", "nested too deeply, or an alias within itself"),
        (b"[" * 5000, "nested too deeply"),
        (
            b"a: &a [1,2,3,4,5,6,7,8,9]\n"
            + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 105)),
            "its aliases make more than 500000 values",
        ),
    ],
)
def test_what_is_wrong_is_named(text: bytes, message: str) -> None:
    """Each mistake names the file, the place and the reason."""
    with pytest.raises(ManifestError) as caught:
        list(parse_manifests(text, "x"))
    assert message in str(caught.value)


def test_aliases_are_welcome() -> None:
    """An alias stands for what it names, as in any YAML."""
    text = HELLO + b"spec: {a: &a {b: 1}, c: *a}\n"
    assert next(parse_manifests(text, "x")).obj["spec"] == {"a": {"b": 1}, "c": {"b": 1}}


def test_folders(tmp_path: Path) -> None:
    """A folder is its manifests, sorted by name; an empty one and a missing file are errors."""
    (tmp_path / "b.yaml").write_bytes(HELLO.replace(b"hello", b"b"))
    (tmp_path / "a.yml").write_bytes(HELLO.replace(b"hello", b"a"))
    (tmp_path / "notes.txt").write_text("not a manifest")
    assert [m.obj["metadata"]["name"] for m in read_manifests([str(tmp_path)])] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="holds no"):
        read_manifests([str(tmp_path / "empty")])
    with pytest.raises(ManifestError, match="No such file"):
        read_manifests([str(tmp_path / "missing.yaml")])
