"""apply, get and delete against a real API server, as a person types them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from controller.apis import kinds
from controller.cli.mistake import Mistake
from controller.cli.objects import kind_named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    Zerogate = Callable[..., Result]

SERVICE = """
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: %s}
spec:
  template:
    spec:
      containers: [{image: app}]
"""
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, labels: {colour: %s}}\ndata: {k: v}\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ksvc", kinds.SERVICE),
        ("service", kinds.SERVICE),
        ("svc", kinds.CORE_SERVICE),
        ("Pods", kinds.POD),
        ("po", kinds.POD),
        ("configurations", kinds.CONFIGURATION),
        ("config", kinds.CONFIGURATION),
        ("cm", kinds.CONFIG_MAP),
        ("king", kinds.INGRESS),
        ("endpointslices", kinds.ENDPOINT_SLICE),
    ],
)
def test_kind_names(name: str, kind: kinds.Kind) -> None:
    """Kinds, plurals and short names in any case; `service` is Knative's, the core one is `svc`."""
    assert kind_named(name) == kind


def test_an_unknown_kind_lists_what_there_is() -> None:
    """A person who guessed wrong sees the right names."""
    with pytest.raises(Mistake, match="'nonsense' is not a kind of object here; there are: cfg, cm, config") as caught:
        kind_named("nonsense")
    assert "ksvc" in caught.value.message


def test_round_trip(zerogate: Zerogate, tmp_path: Path) -> None:
    """What is applied is there, in every form of output, until it is deleted."""
    file = tmp_path / "service.yaml"
    file.write_text(SERVICE % "round")
    reference = "service.serving.knative.dev/round"
    assert zerogate("apply", "-f", str(file)).stdout == f"{reference} applied\n"
    assert zerogate("get", "ksvc", "round", "-o", "name").stdout == f"{reference}\n"
    assert zerogate("get", "ksvc", "-o", "name").stdout == f"{reference}\n"
    as_json = json.loads(zerogate("get", "ksvc", "round", "-o", "json").stdout)
    as_yaml = yaml.safe_load(zerogate("get", "ksvc", "round", "-o", "yaml").stdout)
    assert as_json == as_yaml
    assert as_json["spec"]["template"]["spec"]["timeoutSeconds"] == 300, "admission has seen it"
    assert zerogate("delete", "ksvc", "round").stdout == f"{reference} deleted\n"
    again = zerogate("delete", "ksvc", "round")
    assert (again.exit_code, again.stderr) == (1, f"{reference} is not there\n")


def test_apply_changes_what_is_there(zerogate: Zerogate) -> None:
    """A second apply from standard input updates; a field that is no longer said is removed."""
    zerogate("apply", "-f", "-", stdin=MAP % ("twice", "red"))
    assert zerogate("apply", "-f", "-", stdin=(MAP % ("twice", "blue")).replace("k: v", "l: w")).exit_code == 0
    found = json.loads(zerogate("get", "cm", "twice", "-o", "json").stdout)
    assert (found["data"], found["metadata"]["labels"]) == ({"l": "w"}, {"colour": "blue"})


def test_tables(zerogate: Zerogate) -> None:
    """Columns are as wide as their widest cell; a selector picks rows, -A adds the namespace, wide more columns."""
    for name, colour in (("a", "green"), ("a-longer-name", "green"), ("other", "none")):
        zerogate("apply", "-f", "-", stdin=MAP % (name, colour))
    lines = zerogate("get", "cm", "-l", "colour=green").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["NAME", "DATA"], ["a", "1"], ["a-longer-name", "1"]]
    assert len({line.index(cell) for line, cell in zip(lines, ("DATA", "1", "1"), strict=True)}) == 1
    assert lines[0].startswith("NAME            DATA   AGE")
    everywhere = zerogate("get", "cm", "-A", "-l", "colour=green").stdout.splitlines()
    assert everywhere[0].split() == ["NAMESPACE", "NAME", "DATA", "AGE"]
    assert everywhere[1].split()[:2] == ["default", "a"]
    narrow, wide = (zerogate("get", "crd", *form).stdout.splitlines()[0] for form in ((), ("-o", "wide")))
    assert wide.startswith(narrow)


def test_nothing_found(zerogate: Zerogate) -> None:
    """An empty list is no error; standard output stays empty for whoever reads it."""
    result = zerogate("get", "deploy")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing found\n")


def test_namespaces(zerogate: Zerogate) -> None:
    """-n is where a file without a namespace goes, and no contradiction to one that has it."""
    namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: apart}\n"
    assert zerogate("apply", "-f", "-", stdin=namespace).stdout == "namespace/apart applied\n"
    zerogate("apply", "-n", "apart", "-f", "-", stdin=MAP % ("here", "x"))
    assert zerogate("get", "cm", "here", "-n", "apart", "-o", "name").stdout == "configmap/here\n"
    assert zerogate("get", "cm", "here").exit_code == 1
    written = MAP.replace("{name:", "{namespace: default, name:") % ("there", "x")
    refused = zerogate("apply", "-n", "apart", "-f", "-", stdin=written)
    assert refused.exit_code == 2
    assert "is for namespace default, not apart" in refused.stderr


def test_the_good_half_of_a_file_is_applied(zerogate: Zerogate) -> None:
    """What the server refuses is told with its document; the other objects go on, and the status is 1."""
    bad = SERVICE.replace("image: app", "image: 'no image'") % "bad"
    result = zerogate("apply", "-f", "-", stdin=bad + "---" + SERVICE % "good")
    assert result.exit_code == 1
    assert result.stdout == "service.serving.knative.dev/good applied\n"
    assert result.stderr.startswith("standard input, document 1: ")
    assert "failed to parse image reference" in result.stderr
    zerogate("delete", "-f", "-", stdin=SERVICE % "good")


def test_delete_by_file(zerogate: Zerogate, tmp_path: Path) -> None:
    """The file that made objects unmakes them."""
    (tmp_path / "a.yaml").write_text(MAP % ("one", "x"))
    (tmp_path / "b.yaml").write_text(MAP % ("two", "x"))
    zerogate("apply", "-f", str(tmp_path))
    assert zerogate("delete", "-f", str(tmp_path)).stdout == "configmap/one deleted\nconfigmap/two deleted\n"
    generated = tmp_path / "c.yaml"
    generated.write_text((MAP % ("x", "x")).replace("name: x", "generateName: x"))
    refused = zerogate("delete", "-f", str(generated))
    assert refused.exit_code == 2
    assert "only generateName: delete it by KIND NAME" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("get", "nonsense"), 2, "zerogate get: 'nonsense' is not a kind"),
        (("get", "ksvc", "nobody"), 1, '"nobody" not found'),
        (("logs", "nobody"), 1, "no pod of a Service 'nobody'"),
        (("apply", "-f", "/no/such/file.yaml"), 2, "zerogate apply: /no/such/file.yaml: "),
        (("delete", "ksvc"), 2, "either KIND NAME… or -f FILE"),
        (("delete", "ksvc", "a", "-f", "b"), 2, "either KIND NAME… or -f FILE"),
        (("get", "ksvc", "--kubeconfig", "/no/such/file"), 2, "/no/such/file is not there: start `zerogate up`"),
    ],
)
def test_mistakes(zerogate: Zerogate, arguments: tuple[str, ...], status: int, message: str) -> None:
    """One line each: 2 for what was typed, 1 for what the server said."""
    result = zerogate(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
