"""kubectl against a whole platform: what its user sees, for a current client and for Debian's 1.20.

The two clients differ where it matters to a server: 1.20 reads OpenAPI v2 as protobuf and validates by it, has its own
idea of what may be patched, and asks for more than one old API; a current one reads OpenAPI v3 and leaves validation of
fields to the server. Each test has a namespace of its own on the one platform of this module, and one service, `hello`,
is there for all to look at.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e.harness import APP, peer, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.api import Api
    from tests.e2e.harness import Platform

CLIENTS = {"current": ("ZEROGATE_KUBECTL", "kubectl"), "1.20": ("ZEROGATE_KUBECTL_120", "kubectl-1.20")}
CHATTER = "i=0; while true; do echo line $i; i=`expr $i + 1`; sleep 0.05; done"


class Kubectl:
    """One client in one namespace, with a home directory of its own for what it caches."""

    def __init__(self, program: str, platform: Platform, api: Api, namespace: str, folder: Path) -> None:
        self.program = program
        self.platform = platform
        self.api = api
        self.namespace = namespace
        self.folder = folder
        self.env = {
            **os.environ,
            "KUBECONFIG": str(platform.kubeconfig),
            "HOME": str(platform.folder),
            "TERM": "dumb",
        }

    def try_(self, *arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        namespaced = () if {"-n", "-A"} & set(arguments) else ("-n", self.namespace)
        return subprocess.run(
            (self.program, *namespaced, *arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            check=False,
            env={**self.env, **env},
        )

    def __call__(self, *arguments: str, stdin: str | None = None, **env: str) -> str:
        """What it prints; it must succeed."""
        result = self.try_(*arguments, stdin=stdin, **env)
        if result.returncode:
            pytest.fail(f"kubectl {' '.join(arguments)}: {result.returncode}\n{result.stdout}{result.stderr}")
        return result.stdout

    def refused(self, *arguments: str, stdin: str | None = None) -> str:
        """What it says about its failure; it must fail."""
        result = self.try_(*arguments, stdin=stdin)
        assert result.returncode, f"kubectl {' '.join(arguments)} should fail, and printed\n{result.stdout}"
        return result.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def names(self, *arguments: str) -> list[str]:
        return self("get", *arguments, "-o", "name").split()

    def apply(self, *objects: dict[str, Any], **options: str) -> str:
        return self("apply", "-f", "-", stdin=manifest(*objects), **options)

    @contextlib.contextmanager
    def following(self, *arguments: str) -> Iterator[list[str]]:
        """The lines of a command that goes on until the block ends."""
        process = subprocess.Popen(
            (self.program, "-n", self.namespace, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.env,
        )
        lines: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            yield lines
        finally:
            process.terminate()
            process.wait(10)
            reader.join(10)
            process.stdout.close()


def manifest(*objects: dict[str, Any]) -> str:
    return json.dumps(objects[0] if len(objects) == 1 else {"apiVersion": "v1", "kind": "List", "items": objects})


def config_map(name: str = "settings", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, **fields.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"colour": "blue"}, **fields}


def deployment(name: str = "web", replicas: int = 1, script: str = CHATTER) -> dict[str, Any]:
    container = {"name": "main", "image": "shell", "command": ["sh", "-c", script]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            },
        },
    }


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "shell", "command": ["sh", "-c", script]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


def service(name: str, **container: Any) -> dict[str, Any]:
    """A Knative Service in whatever namespace kubectl is told."""
    container = {"image": "app", "command": [sys.executable, "-S", str(APP)], **container}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


@pytest.fixture(params=CLIENTS)
def kubectl(request: pytest.FixtureRequest, running: Platform, api: Api, namespace: str, tmp_path: Path) -> Kubectl:
    return Kubectl(peer(*CLIENTS[request.param]), running, api, namespace, tmp_path)


# --- apply, replace, diff ---------------------------------------------------------------------------------------------


def test_apply_says_what_it_did(kubectl: Kubectl) -> None:
    """Created, then configured where a field changed, then unchanged; what the manifest no longer has is removed."""
    first = config_map(data={"colour": "blue", "size": "1"})
    assert kubectl.apply(first) == "configmap/settings created\n"
    assert kubectl.apply(config_map(data={"colour": "red"})) == "configmap/settings configured\n"
    assert kubectl.apply(config_map(data={"colour": "red"})) == "configmap/settings unchanged\n"
    assert kubectl.json("get", "cm", "settings")["data"] == {"colour": "red"}


def test_apply_of_a_service_again(kubectl: Kubectl) -> None:
    """What admission adds to a Service is no difference to its manifest: the same manifest changes nothing and makes
    no revision, a changed field makes the next generation."""
    assert kubectl.apply(service("mine")) == "service.serving.knative.dev/mine created\n"
    kubectl("wait", "--for=condition=Ready", "ksvc/mine", "--timeout=20s")
    before = kubectl.json("get", "ksvc", "mine")["metadata"]
    kubectl.apply(service("mine"))
    assert kubectl.json("get", "ksvc", "mine")["metadata"] == before
    changed = service("mine", env=[{"name": "TARGET", "value": "two"}])
    assert kubectl.apply(changed) == "service.serving.knative.dev/mine configured\n"
    assert kubectl.json("get", "ksvc", "mine")["metadata"]["generation"] == 2


def test_apply_of_a_deployment_merges_lists_by_name(kubectl: Kubectl) -> None:
    """A container is found by its name: applying one field leaves what somebody else set beside it."""
    kubectl.apply(deployment())
    kubectl("set", "env", "deploy/web", "BY=hand")
    changed = deployment()
    changed["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "BY", "value": "hand"}]
    changed["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "MORE", "value": "1"})
    assert kubectl.apply(changed) == "deployment.apps/web configured\n"
    (container,) = kubectl.json("get", "deploy", "web")["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in container["env"]] == ["BY", "MORE"]


def test_server_side_apply_shows_conflicts(kubectl: Kubectl) -> None:
    """Two managers that want different values: the second is told whose field it is, and may force it."""

    def apply(manager: str, colour: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = ("apply", "--server-side", f"--field-manager={manager}", *more, "-f", "-")
        return kubectl.try_(*command, stdin=manifest(config_map(data={"colour": colour})))

    assert apply("alice", "blue").stdout == "configmap/settings serverside-applied\n"
    assert apply("alice", "blue").returncode == 0
    refused = apply("bob", "red")
    assert refused.returncode == 1
    assert 'Apply failed with 1 conflict: conflict with "alice": .data.colour' in refused.stderr
    assert apply("bob", "red", "--force-conflicts").returncode == 0
    assert kubectl("get", "cm", "settings", "-o", "jsonpath={.data.colour}") == "red"
    assert 'conflict with "bob": .data.colour' in apply("alice", "blue").stderr


def test_server_side_apply_gives_up_what_it_no_longer_has(kubectl: Kubectl) -> None:
    """A field that its only manager leaves out of the next manifest goes; another manager's stays."""
    command = ("apply", "--server-side", "-f", "-")
    kubectl(*command, "--field-manager=alice", stdin=manifest(config_map(data={"a": "1", "b": "1"})))
    kubectl(*command, "--field-manager=bob", stdin=manifest(config_map(data={"c": "1"})))
    kubectl(*command, "--field-manager=alice", stdin=manifest(config_map(data={"a": "1"})))
    assert kubectl.json("get", "cm", "settings")["data"] == {"a": "1", "c": "1"}


def test_server_side_apply_of_a_service(kubectl: Kubectl) -> None:
    """Custom resources are applied server-side too, also after a client-side apply."""
    kubectl.apply(service("mine"))
    changed = service("mine", env=[{"name": "TARGET", "value": "two"}])
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest(changed))
    (container,) = kubectl.json("get", "ksvc", "mine")["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "TARGET", "value": "two"}]


def test_unknown_fields_are_refused(kubectl: Kubectl) -> None:
    """A misspelt field is named, by the client's own validation or by the server's."""
    wrong = service("mine")
    wrong["spec"]["template"]["spec"]["contaners"] = wrong["spec"]["template"]["spec"].pop("containers")
    assert "contaners" in kubectl.refused("apply", "-f", "-", stdin=manifest(wrong))
    wrong = deployment()
    wrong["spec"]["replica"] = 1
    assert "replica" in kubectl.refused("create", "-f", "-", stdin=manifest(wrong))


def test_replace(kubectl: Kubectl) -> None:
    """The whole object is replaced, from the version that was read and from no older one; --force makes a new one."""
    kubectl.apply(config_map())
    read = kubectl.json("get", "cm", "settings")
    read["data"] = {"shape": "round"}
    assert kubectl("replace", "-f", "-", stdin=manifest(read)) == "configmap/settings replaced\n"
    assert kubectl.json("get", "cm", "settings")["data"] == {"shape": "round"}
    stale = kubectl.refused("replace", "-f", "-", stdin=manifest(read))
    assert "the object has been modified; please apply your changes to the latest version and try again" in stale
    (kubectl.folder / "read.json").write_text(manifest(read))
    kubectl("replace", "--force", "-f", "read.json")
    assert kubectl.json("get", "cm", "settings")["metadata"]["uid"] != read["metadata"]["uid"]


def test_diff(kubectl: Kubectl) -> None:
    """Exit status 1 and the lines that would change; 0 and nothing when nothing would. The object stays as it is."""
    kubectl.apply(config_map())
    assert kubectl("diff", "-f", "-", stdin=manifest(config_map())) == ""
    result = kubectl.try_("diff", "-f", "-", stdin=manifest(config_map(data={"colour": "red"})))
    assert result.returncode == 1, result.stderr
    assert "\n-  colour: blue\n+  colour: red\n" in result.stdout
    assert kubectl.json("get", "cm", "settings")["data"] == {"colour": "blue"}
    kubectl.apply(service("mine"))
    kubectl("wait", "--for=condition=Ready", "ksvc/mine", "--timeout=20s")  # diff compares what holds still
    assert kubectl("diff", "-f", "-", stdin=manifest(service("mine"))) == "", "what admission added is no difference"


def test_dry_run_on_the_server(kubectl: Kubectl) -> None:
    """Everything happens but the write: defaults are shown, refusals are told, nothing is stored or deleted."""
    created = kubectl("create", "-f", "-", "--dry-run=server", "-o", "json", stdin=manifest(service("mine")))
    assert json.loads(created)["spec"]["template"]["spec"]["timeoutSeconds"] == 300
    assert kubectl.names("ksvc") == []
    wrong = service("mine")
    wrong["spec"]["traffic"] = [{"percent": 99, "latestRevision": True}]
    told = kubectl.refused("apply", "-f", "-", "--dry-run=server", stdin=manifest(wrong))
    assert "Traffic targets sum to 99, want 100: spec.traffic" in told

    kubectl.apply(config_map())
    assert kubectl("label", "cm", "settings", "a=b", "--dry-run=server", "-o", "jsonpath={.metadata.labels}")
    assert "(server dry run)" in kubectl("delete", "cm", "settings", "--dry-run=server")
    assert "labels" not in kubectl.json("get", "cm", "settings")["metadata"]


def test_create(kubectl: Kubectl) -> None:
    """ConfigMaps and Secrets from literals, names made from generateName, and no second object of a name."""
    kubectl("create", "configmap", "settings", "--from-literal=colour=blue")
    assert "already exists" in kubectl.refused("create", "configmap", "settings")
    kubectl("create", "secret", "generic", "password", "--from-literal=word=s3cret")
    secret = kubectl.json("get", "secret", "password")
    assert (secret["type"], secret["data"]) == ("Opaque", {"word": "czNjcmV0"})
    assert rows(kubectl("get", "secret", "password"))[1][:3] == ["password", "Opaque", "1"]

    nameless = manifest({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "made-"}})
    made = {kubectl("create", "-f", "-", "-o", "name", stdin=nameless) for _ in range(2)}
    assert len(made) == 2
    assert all(name.startswith("configmap/made-") for name in made)


# --- get --------------------------------------------------------------------------------------------------------------

COLUMNS = {
    "ksvc": "NAME URL LATESTCREATED LATESTREADY READY REASON",
    "rt": "NAME URL READY REASON",
    "cfg": "NAME LATESTCREATED LATESTREADY READY REASON",
    "rev": "NAME CONFIG NAME GENERATION READY REASON ACTUAL REPLICAS DESIRED REPLICAS",
    "kpa": "NAME DESIREDSCALE ACTUALSCALE READY REASON",
    "king": "NAME READY REASON",
    "po": "NAME READY STATUS RESTARTS AGE",
    "deploy": "NAME READY UP-TO-DATE AVAILABLE AGE",
    "svc": "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE",
    "cm": "NAME DATA AGE",
    "ns": "NAME STATUS AGE",
}


def test_short_names_and_columns(kubectl: Kubectl) -> None:
    """Each kind answers to its short name and shows the columns its users know, Knative's as Knative prints them."""
    for short, columns in COLUMNS.items():
        table = rows(kubectl("get", short, "-n", "knative-serving" if short == "cm" else "default"))
        assert " ".join(table[0]) == columns, short
    url = f"http://hello.default.localhost:{kubectl.platform.port}"
    assert rows(kubectl("get", "ksvc", "-n", "default"))[1] == ["hello", url, "hello-00001", "hello-00001", "True"]
    assert rows(kubectl("get", "rev", "-n", "default"))[1] == ["hello-00001", "hello", "1", "True", "1", "1"]
    assert rows(kubectl("get", "pods", "-n", "default"))[1][1:3] == ["1/1", "Running"]
    assert rows(kubectl("get", "deploy", "-n", "default"))[1][:4] == ["hello-00001-deployment", "1/1", "1", "1"]


def test_output_formats(kubectl: Kubectl) -> None:
    """The same object as JSON, YAML, a name, one field, own columns and a wide table."""
    get = ("get", "ksvc", "hello", "-n", "default", "-o")
    as_json = json.loads(kubectl(*get, "json"))
    assert yaml.safe_load(kubectl(*get, "yaml"))["spec"] == as_json["spec"]
    assert (as_json["apiVersion"], as_json["kind"]) == ("serving.knative.dev/v1", "Service")
    assert kubectl(*get, "name") == "service.serving.knative.dev/hello\n"
    assert kubectl(*get, 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == "True"
    custom = kubectl(*get, "custom-columns=NAME:.metadata.name,URL:.status.url")
    assert rows(custom) == [["NAME", "URL"], ["hello", as_json["status"]["url"]]]
    header, row = rows(kubectl("get", "pods", "-n", "default", "-o", "wide"))
    assert {"IP", "NODE"} < set(header)
    assert {"127.0.0.1", "local"} < set(row)
    assert "SELECTOR" in kubectl("get", "deploy", "-n", "default", "-o", "wide")


def test_selectors(kubectl: Kubectl) -> None:
    """Labels by equality, set and existence; fields of what the API serves; a field it doesn't serve is named."""
    for name, labels in (("one", {"tier": "front", "v": "1"}), ("two", {"tier": "back", "v": "2"}), ("three", {})):
        kubectl.apply(config_map(name, metadata={"labels": labels}))
    for selector, expected in {
        "tier=front": ["one"],
        "tier!=front": ["three", "two"],
        "tier in (front, back),v!=1": ["two"],
        "tier notin (front, back)": ["three"],
        "tier": ["one", "two"],
        "!tier": ["three"],
    }.items():
        assert kubectl.names("cm", "-l", selector) == [f"configmap/{name}" for name in expected], selector
    assert kubectl.names("cm", "--field-selector=metadata.name=two") == ["configmap/two"]
    assert kubectl.names("cm", "--field-selector=metadata.name!=two") == ["configmap/one", "configmap/three"]
    assert kubectl.names("pods", "-n", "default", "--field-selector=status.phase=Running")
    assert not kubectl.names("pods", "-n", "default", "--field-selector=status.phase=Failed")
    assert "spec.colour" in kubectl.refused("get", "cm", "--field-selector=spec.colour=red")


def test_all_namespaces_in_pages(kubectl: Kubectl) -> None:
    """`-A` shows the namespace; with --chunk-size each page is a request of its own and none is lost or repeated."""
    for name in ("one", "two"):
        kubectl.apply(config_map(name))
    result = kubectl.try_("get", "cm", "-A", "--chunk-size=1", "-v=6")
    table = rows(result.stdout)
    assert table[0] == ["NAMESPACE", "NAME", "DATA", "AGE"]
    whole = [row[:2] for row in rows(kubectl("get", "cm", "-A", "--chunk-size=0"))[1:]]
    assert [row[:2] for row in table[1:]] == whole
    assert {(kubectl.namespace, "one"), (kubectl.namespace, "two"), ("knative-serving", "config-network")} < set(
        map(tuple, whole)
    )
    assert result.stderr.count("limit=1") == len(whole)
    assert result.stderr.count("continue=") == len(whole) - 1


def test_categories(kubectl: Kubectl) -> None:
    """`get all` has what runs, `get knative` what Knative's users write and read."""
    everything = kubectl.names("all", "-n", "default")
    knative = kubectl.names("knative", "-n", "default")
    ours = [f"{kind}.serving.knative.dev/hello" for kind in ("service", "route", "configuration")]
    assert set(ours) < set(knative)
    assert set(knative) < set(everything)
    assert "deployment.apps/hello-00001-deployment" in everything
    assert any(name.startswith("pod/hello-00001-") for name in everything)


def test_nothing_there(kubectl: Kubectl) -> None:
    """What does not exist is said so by its name."""
    assert 'services.serving.knative.dev "nope" not found' in kubectl.refused("get", "ksvc", "nope")
    assert "doesn't have a resource type" in kubectl.refused("get", "gadgets")
    assert "No resources found" in kubectl.try_("get", "ksvc").stderr


def test_watch(kubectl: Kubectl) -> None:
    """`-w` shows what is there, then each change as it happens, with what happened."""
    kubectl.apply(config_map("here"))
    with kubectl.following("get", "cm", "-w", "--output-watch-events") as lines:
        wait_for("what is there", lambda: any("here" in line for line in lines))
        kubectl("create", "configmap", "new")
        kubectl("label", "cm", "new", "a=b")
        kubectl("delete", "cm", "new")
        wait_for("the deletion", lambda: any("DELETED" in line for line in lines))
    assert [row[:2] for row in rows("".join(lines))] == [
        ["EVENT", "NAME"],
        ["ADDED", "here"],
        ["ADDED", "new"],
        ["MODIFIED", "new"],
        ["DELETED", "new"],
    ]


def test_watch_a_service_become_ready(kubectl: Kubectl) -> None:
    """The rows of a Service's table move with its conditions, until READY is True."""
    with kubectl.following("get", "ksvc", "-w") as lines:
        kubectl.apply(service("mine"))
        wait_for("a row with READY True", lambda: any("mine-00001" in line and "True" in line for line in lines))
    states = [line.split()[-2:] for line in lines if "Unknown" in line]
    assert states, "progress is visible before the end"


# --- describe, explain, events ----------------------------------------------------------------------------------------


def test_describe(kubectl: Kubectl) -> None:
    """Fields by their names, and the events of the object; a pod's say that it started."""
    (replica,) = kubectl.names("pods", "-n", "default", "-l", "serving.knative.dev/service=hello")
    described = {
        "ksvc/hello": ["Latest Ready Revision Name:", "hello-00001", "Created Configuration"],
        replica: ["Status:", "Running", "TARGET:", "Started container user-container"],
        "deploy/hello-00001-deployment": ["1 desired | 1 updated | 1 total | 1 available", "ScalingReplicaSet"],
        "svc/hello-00001-private": ["TargetPort:", "user-port/TCP"],
    }

    def missing(name: str) -> list[str]:
        text = kubectl("describe", name, "-n", "default")
        return [expected for expected in (*described[name], "Events:") if expected not in text]

    for name in described:
        wait_for(f"all of {described[name]} in the description of {name}", lambda name=name: not missing(name), 5)
    deploy = kubectl("describe", "deploy/hello-00001-deployment", "-n", "default")
    assert "RollingUpdateStrategy:  0 max unavailable, 25% max surge" in deploy


def test_describe_says_why_a_pod_does_not_start(kubectl: Kubectl) -> None:
    """An image this machine has no command for: the pod's events say what to add."""
    kubectl("create", "deployment", "web", "--image=unheard-of")
    described = ""

    def is_told() -> bool:
        nonlocal described
        described = kubectl("describe", "pods", "-l", "app=web")
        return "Warning" in described

    wait_for("a warning", is_told, 10)
    assert "--image unheard-of=" in described.partition("Events:")[2]


def test_events(kubectl: Kubectl) -> None:
    """What the controllers did is told, and found by the object it is about."""
    table = kubectl("get", "events", "-n", "default")
    assert rows(table)[0] == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert 'Created Configuration "hello"' in table
    about = kubectl("get", "events", "-n", "default", "--field-selector=involvedObject.kind=Revision")
    assert "revision/hello-00001" in about
    assert "service/hello" not in about


def test_explain(kubectl: Kubectl) -> None:
    """Fields with type and meaning, of Knative's kinds and of Kubernetes'."""
    text = kubectl("explain", "ksvc.spec.template.spec")
    assert "containerConcurrency\t<integer>" in text
    assert "Seconds a request may take" in text
    assert "VERSION:" in text
    assert "workingDir\t<string>" in kubectl("explain", "pod.spec.containers")
    assert "replicas\t<integer>" in kubectl("explain", "deployment.spec")
    assert "traffic" in kubectl("explain", "ksvc", "--recursive")
    assert 'field "nope" does not exist' in kubectl.refused("explain", "ksvc.spec.nope")


def test_api_resources(kubectl: Kubectl) -> None:
    """All kinds with their short names, and by group."""
    table = {(row[0], row[-1]): row for row in rows(kubectl("api-resources"))}
    assert table["services", "Service"][1] in ("svc", "kservice,ksvc")
    for plural, kind, short in (
        ("pods", "Pod", "po"),
        ("deployments", "Deployment", "deploy"),
        ("revisions", "Revision", "rev"),
        ("routes", "Route", "rt"),
        ("configurations", "Configuration", "config,cfg"),
    ):
        assert table[plural, kind][1] == short
    serving = kubectl("api-resources", "--api-group=serving.knative.dev", "-o", "name").split()
    plurals = ("configurations", "revisions", "routes", "services")
    assert serving == [f"{plural}.serving.knative.dev" for plural in plurals]
    assert "serving.knative.dev/v1" in kubectl("api-versions").split()


def test_cluster_info_version_and_rights(kubectl: Kubectl) -> None:
    """Where the server is, which version it speaks, what the user may do (everything), whether it is ready."""
    assert kubectl.api.url in kubectl("cluster-info")
    version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]
    assert (version["major"], version["minor"]) == ("1", "32")
    assert kubectl("auth", "can-i", "create", "ksvc") == "yes\n"
    assert "*.*" in kubectl("auth", "can-i", "--list")
    assert kubectl("get", "--raw", "/readyz") == "ok"


# --- changing what is there -------------------------------------------------------------------------------------------


def editor(folder: Path, expression: str) -> str:
    script = folder / "editor"
    script.write_text(f'#!/bin/sh\nexec sed -i "{expression}" "$1"\n')
    script.chmod(0o700)
    return str(script)


def test_edit(kubectl: Kubectl) -> None:
    """What the editor saved is applied; saving nothing new changes nothing; a wrong value is refused with its field."""
    kubectl.apply(config_map(), service("mine"))
    assert kubectl("edit", "cm", "settings", KUBE_EDITOR=editor(kubectl.folder, "s/colour: blue/colour: red/"))
    assert kubectl.json("get", "cm", "settings")["data"] == {"colour": "red"}
    assert "no changes made" in kubectl.try_("edit", "cm", "settings", KUBE_EDITOR="true").stderr.lower()
    kubectl("edit", "ksvc", "mine", KUBE_EDITOR=editor(kubectl.folder, "s/timeoutSeconds: 300/timeoutSeconds: 7/"))
    assert kubectl.json("get", "ksvc", "mine")["spec"]["template"]["spec"]["timeoutSeconds"] == 7
    wrong = editor(kubectl.folder, "s/containerConcurrency: 0/containerConcurrency: -5/")
    refused = kubectl.try_("edit", "ksvc", "mine", KUBE_EDITOR=wrong)
    assert refused.returncode == 1
    assert "expected 0 <= -5 <= 1000: spec.template.spec.containerConcurrency" in refused.stderr


def test_patch(kubectl: Kubectl) -> None:
    """Merge and JSON patches of any kind; strategic ones of built-in kinds, where lists merge by name."""
    kubectl.apply(config_map(), deployment(), service("mine"))
    kubectl("patch", "cm", "settings", "--type=merge", "-p", '{"data":{"size":"1","colour":null}}')
    assert kubectl.json("get", "cm", "settings")["data"] == {"size": "1"}
    kubectl("patch", "cm", "settings", "--type=json", "-p", '[{"op":"replace","path":"/data/size","value":"2"}]')
    assert kubectl.json("get", "cm", "settings")["data"] == {"size": "2"}
    test = '[{"op":"test","path":"/data/size","value":"1"}]'
    failed = kubectl.refused("patch", "cm", "settings", "--type=json", "-p", test)
    assert "the request is invalid" in failed.lower()
    assert "<class" not in failed, "nothing of the server's own language"

    added = {"spec": {"containers": [{"name": "main", "env": [{"name": "A", "value": "b"}]}]}}
    kubectl("patch", "deploy", "web", "-p", json.dumps({"spec": {"template": added}}))
    (container,) = kubectl.json("get", "deploy", "web")["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["env"]) == ("shell", [{"name": "A", "value": "b"}])

    timeout = {"spec": {"template": {"spec": {"timeoutSeconds": 7}}}}
    kubectl("patch", "ksvc", "mine", "--type=merge", "-p", json.dumps(timeout))
    assert kubectl.json("get", "ksvc", "mine")["spec"]["template"]["spec"]["timeoutSeconds"] == 7
    refused = kubectl.refused("patch", "ksvc", "mine", "-p", "{}")
    assert "application/merge-patch+json" in refused, "it says which kinds of patch do work"


def test_changes_that_can_not_be(kubectl: Kubectl) -> None:
    """What may not change is refused with its field, and kubectl shows it: nothing is accepted in silence."""
    kubectl.apply(config_map(immutable=True), deployment(replicas=0), pod("bare", "sleep 100"))
    refused = kubectl.refused("patch", "cm", "settings", "--type=merge", "-p", '{"data":{"colour":"red"}}')
    assert "data: Forbidden: field is immutable when `immutable` is set" in refused
    moved = {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}
    refused = kubectl.refused("patch", "deploy", "web", "--type=merge", "-p", json.dumps({"spec": moved}))
    assert "field is immutable" in refused
    refused = kubectl.refused("set", "image", "pod/bare", "main=other")
    assert "spec: Forbidden: a pod's spec can't be changed" in refused


def test_label_and_annotate(kubectl: Kubectl) -> None:
    """Set, refuse to overwrite silently, overwrite, remove; of one object or of all that match."""
    kubectl.apply(config_map(), config_map("other", metadata={"labels": {"tier": "back"}}))
    for verb, field in (("label", "labels"), ("annotate", "annotations")):
        kubectl(verb, "cm", "settings", "a=b")
        assert kubectl.json("get", "cm", "settings")["metadata"][field]["a"] == "b"
        assert "--overwrite is false" in kubectl.refused(verb, "cm", "settings", "a=c")
        kubectl(verb, "cm", "settings", "a=c", "--overwrite")
        assert kubectl.json("get", "cm", "settings")["metadata"][field]["a"] == "c"
        kubectl(verb, "cm", "settings", "a-")
        assert "a" not in kubectl.json("get", "cm", "settings")["metadata"].get(field, {})
        kubectl(verb, "cm", "-l", "tier=back", "many=x")
        assert kubectl.json("get", "cm", "other")["metadata"][field]["many"] == "x"
    assert "a valid label must be" in kubectl.refused("label", "cm", "settings", "a=not/a/value")


def test_scale_and_roll_out(kubectl: Kubectl) -> None:
    """A Deployment scales, and a changed template replaces its pods; `rollout status` waits for both."""
    kubectl.apply(deployment())
    assert kubectl("scale", "deployment", "web", "--replicas=3") == "deployment.apps/web scaled\n"
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    wait_for("three pods", lambda: rows(kubectl("get", "deploy", "web"))[1][1] == "3/3", 10)
    before = set(kubectl.names("pods"))
    assert len(before) == 3
    assert "Expected replicas" in kubectl.refused("scale", "deploy/web", "--current-replicas=9", "--replicas=1")

    kubectl("rollout", "restart", "deployment/web")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    wait_for("the old pods to go", lambda: not before & set(kubectl.names("pods")), 10)
    kubectl("scale", "deployment", "web", "--replicas=0")
    wait_for("no pod", lambda: not kubectl.names("pods"), 10)


# --- the end of objects -----------------------------------------------------------------------------------------------


def test_delete_in_the_background(kubectl: Kubectl) -> None:
    """The object goes at once, what it owns soon after."""
    kubectl.apply(deployment())
    kubectl("rollout", "status", "deploy/web", "--timeout=20s")
    assert 'deployment.apps "web" deleted' in kubectl("delete", "deploy", "web")
    wait_for("the pods to go", lambda: not kubectl.names("pods"), 10)


def test_delete_in_the_foreground(kubectl: Kubectl) -> None:
    """The object stays until what it owns is gone, so that nothing is left when delete returns."""
    kubectl.apply(deployment(), service("mine"))
    kubectl("rollout", "status", "deploy/web", "--timeout=20s")
    kubectl("wait", "--for=condition=Ready", "ksvc/mine", "--timeout=20s")
    kubectl("delete", "deploy", "web", "--cascade=foreground")
    assert not kubectl.names("pods", "-l", "app=web")
    kubectl("delete", "ksvc", "mine", "--cascade=foreground")
    assert not kubectl.names("rt,cfg,rev,kpa,king")


def test_delete_leaving_orphans(kubectl: Kubectl) -> None:
    """The pods stay, owned by nobody; a Deployment that is made again takes them over as they are."""
    kubectl.apply(deployment(replicas=2))
    kubectl("rollout", "status", "deploy/web", "--timeout=20s")
    before = sorted(kubectl.names("pods"))
    kubectl("delete", "deploy", "web", "--cascade=orphan")
    assert sorted(kubectl.names("pods")) == before
    assert not any("ownerReferences" in item["metadata"] for item in kubectl.json("get", "pods")["items"])
    kubectl.apply(deployment(replicas=2))
    kubectl("rollout", "status", "deploy/web", "--timeout=20s")
    wait_for(
        "the pods to have an owner",
        lambda: all("ownerReferences" in item["metadata"] for item in kubectl.json("get", "pods")["items"]),
        10,
    )
    assert sorted(kubectl.names("pods")) == before
    kubectl("delete", "deploy", "web")
    wait_for("the pods to go", lambda: not kubectl.names("pods"), 10)


def test_finalizers_and_waiting_for_the_end(kubectl: Kubectl) -> None:
    """An object with a finalizer is deleted when the finalizer goes; `wait --for=delete` waits that long."""
    kubectl.apply(config_map(metadata={"finalizers": ["example.dev/hold"]}))
    kubectl("delete", "cm", "settings", "--wait=false")
    assert kubectl.json("get", "cm", "settings")["metadata"]["deletionTimestamp"]
    assert "timed out" in kubectl.refused("wait", "--for=delete", "cm/settings", "--timeout=0.1s")
    with kubectl.following("wait", "--for=delete", "cm/settings", "--timeout=20s"):
        kubectl("patch", "cm", "settings", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        wait_for("the end", lambda: not kubectl.names("cm"), 10)
    assert "not found" in kubectl.refused("get", "cm", "settings")


def test_namespaces(kubectl: Kubectl) -> None:
    """A namespace takes objects once it exists; all that is in it goes with it, and its processes do."""
    name = f"{kubectl.namespace}-more"
    assert "not found" in kubectl.refused("create", "configmap", "settings", "-n", name)
    kubectl("create", "namespace", name)
    assert rows(kubectl("get", "ns", name))[1][:2] == [name, "Active"]
    kubectl("apply", "-n", name, "-f", "-", stdin=manifest(config_map(), deployment(), service("mine")))
    kubectl("wait", "-n", name, "--for=condition=Ready", "ksvc/mine", "--timeout=20s")
    kubectl("delete", "namespace", name)
    assert "not found" in kubectl.refused("get", "ns", name)
    assert not kubectl.names("cm,deploy,pods,ksvc,rev,rt,svc", "-n", name)


def test_wait_for_a_condition(kubectl: Kubectl) -> None:
    """`wait` returns as soon as the condition holds, and gives up on one that can't."""
    kubectl.apply(service("mine"), service("never", command=["/does/not/exist"]))
    assert "condition met" in kubectl("wait", "--for=condition=Ready", "ksvc/mine", "--timeout=20s")
    assert "timed out" in kubectl.refused("wait", "--for=condition=Ready", "ksvc/never", "--timeout=0.5s")
    kubectl("wait", "--for=condition=Ready=false", "ksvc/never", "--timeout=20s")


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs(kubectl: Kubectl) -> None:
    """All lines, the last ones, by selector and by owner, with times."""
    kubectl.apply(deployment(script="echo one; echo two; echo three; sleep 100"))
    kubectl("rollout", "status", "deploy/web", "--timeout=20s")
    (replica,) = kubectl.names("pods")
    wait_for("the lines", lambda: kubectl("logs", replica) == "one\ntwo\nthree\n", 10)
    assert kubectl("logs", replica, "--tail=1") == "three\n"
    assert kubectl("logs", "deploy/web", "-c", "main", "--tail=2") == "two\nthree\n"
    assert kubectl("logs", "-l", "app=web", "--prefix", "--tail=1") == f"[{replica}/main] three\n"
    stamp, line = kubectl("logs", replica, "--timestamps", "--tail=1").split()
    assert (stamp[4], stamp[-1], line) == ("-", "Z", "three")
    assert "not found" in kubectl.refused("logs", "nope")
    assert "previous terminated container" in kubectl.refused("logs", replica, "--previous")


def test_follow_logs(kubectl: Kubectl) -> None:
    """`logs -f` shows what is there and then each line as it is written, and ends with the container."""
    kubectl.apply(pod("talker", CHATTER, restartPolicy="Never"))
    kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=20s")
    with kubectl.following("logs", "-f", "talker") as lines:
        wait_for("ten lines", lambda: len(lines) >= 10)
    assert lines[:10] == [f"line {number}\n" for number in range(10)]

    kubectl.apply(pod("leaver", "echo hello; sleep 0.3; echo bye", restartPolicy="Never"))
    wait_for("the log", lambda: "hello" in kubectl.try_("logs", "leaver").stdout, 10)
    assert kubectl("logs", "-f", "leaver") == "hello\nbye\n"


def test_logs_of_the_life_before(kubectl: Kubectl) -> None:
    """What a container said before it crashed is there when it has been started again."""
    kubectl.apply(pod("crasher", "echo run; exit 3"))
    wait_for("a life before", lambda: kubectl.try_("logs", "crasher", "--previous").stdout == "run\n", 20)
    status = kubectl.json("get", "pod", "crasher")["status"]["containerStatuses"][0]
    assert status["restartCount"] >= 1
    assert status["lastState"]["terminated"]["exitCode"] == 3
    wait_for("the back-off", lambda: "CrashLoopBackOff" in kubectl("get", "pods"), 20)


def test_bare_pod(kubectl: Kubectl) -> None:
    """`kubectl run`: a pod of its own, on this machine's node, that ends when it is told to."""
    kubectl("run", "once", "--image=shell", "--restart=Never", "--command", "--", "sh", "-c", "echo done")
    wait_for("the end", lambda: rows(kubectl("get", "pod", "once"))[1][2] == "Completed", 10)
    kubectl("run", "stay", "--image=shell", "--restart=Never", "--command", "--", "sleep", "100")
    kubectl("wait", "--for=condition=Ready", "pod/stay", "--timeout=20s")
    assert "local" in rows(kubectl("get", "pod", "stay", "-o", "wide"))[1]
    assert "processes of this machine" in kubectl.refused("exec", "stay", "--", "ls")
    kubectl("delete", "pod", "stay", "--grace-period=0", "--force")
    assert kubectl.names("pods") == ["pod/once"]
