"""Command lines and environments as Kubernetes makes them."""

from __future__ import annotations

import pytest

from controller.embedded.runtimes import command
from controller.embedded.runtimes.command import ConfigError, NoCommand, Sources

POD = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a/b": "l"}, "annotations": {"c": "an"}},
    "spec": {"nodeName": "local"},
    "status": {"podIP": "127.0.0.1"},
}


def environment(container, sources=Sources(), forced=None):  # noqa: B008 - frozen
    return command.environment(POD, container, sources, {"PATH": "/bin"}, forced or {})


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(B)", "$(B)"),
        ("$A", "$A"),
        ("$", "$"),
        ("$(A", "$(A"),
        ("$()", "$()"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text, expanded):
    """$(NAME) of a known variable is replaced, $$ is one dollar, everything else stays as written."""
    assert command.expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("container", "line"),
    [
        ({"command": ["a", "$(X)"], "args": ["$(X)b"]}, ("a", "1", "1b")),
        ({"image": "hello"}, ("run", "hello")),
        ({"image": "hello:1", "args": ["more"]}, ("run", "hello", "more")),
        ({"image": "hello@sha256:00"}, ("run", "hello")),
        ({"image": "hello:1@sha256:00"}, ("run", "hello")),
        ({"image": "reg:5000/x/app:2"}, ("app",)),
        ({"image": "exact:2"}, ("exact",)),
    ],
)
def test_command_line(container, line):
    """The container's command wins; else the image's, by exact reference, by repository, by last name."""
    images = {"hello": ["run", "hello"], "reg:5000/x/app": ["app"], "exact:2": ["exact"]}
    assert command.command_line(container, images, {"X": "1"}) == line


def test_an_unknown_image_says_what_to_add():
    """There are no images on a machine without an engine: the error shows both ways out."""
    with pytest.raises(NoCommand) as caught:
        command.command_line({"image": "exact:3"}, {"exact:2": ["x"]}, {})
    assert str(caught.value) == (
        'image "exact:3" has no command on this machine: add command: to the container, '
        'or start zerogate up with --image exact:3="COMMAND"'
    )


def test_sources_of_variables():
    """envFrom, literals, keys and pod fields together; optional ones may be absent, impossible names are left out."""
    container = {
        "envFrom": [
            {"configMapRef": {"name": "cm"}, "prefix": "P_"},
            {"secretRef": {"name": "s"}},
            {"configMapRef": {"name": "none", "optional": True}},
        ],
        "env": [
            {"name": "LITERAL", "value": "a $(P_k) $(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
            {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": True}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
            {"name": "NOTE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['c']"}}},
            {"name": "EMPTY"},
        ],
    }
    sources = Sources({"cm": {"k": "v", "not a name": "x"}}, {"s": {"token": "t"}})
    assert environment(container, sources) == {
        "PATH": "/bin",
        "P_k": "v",
        "token": "t",
        "LITERAL": "a v $(LATER)",
        "LATER": "x",
        "KEY": "v",
        "SECRET": "t",
        "NAME": "p",
        "NAMESPACE": "n",
        "POD_UID": "u",
        "IP": "127.0.0.1",
        "LABEL": "l",
        "NOTE": "an",
        "EMPTY": "",
    }
    assert command.references([container]) == ({"cm", "none"}, {"s"})


def test_port_is_ours_whatever_the_container_says():
    """Knative writes PORT=<containerPort>; on one machine each replica has its own."""
    container = {"env": [{"name": "PORT", "value": "8080"}, {"name": "URL", "value": "http://x:$(PORT)"}]}
    env = environment(container, forced={"PORT": "20001"})
    assert (env["PORT"], env["URL"]) == ("20001", "http://x:20001")


@pytest.mark.parametrize(
    ("variable", "sources", "message"),
    [
        ({"configMapKeyRef": {"name": "cm", "key": "k"}}, Sources(), 'configmap "cm" not found'),
        ({"secretKeyRef": {"name": "s", "key": "k"}}, Sources(secrets={"s": {}}), 'key k not found in secret "s"'),
        ({"fieldRef": {"fieldPath": "spec.x"}}, Sources(), 'fieldPath "spec.x" is not supported'),
        (
            {"resourceFieldRef": {"resource": "limits.cpu"}},
            Sources(),
            'env "V": valueFrom with resourceFieldRef is not known to local processes',
        ),
    ],
)
def test_what_cannot_be_resolved_is_named(variable, sources, message):
    """A missing map or key, or a source without meaning here, is an error that names it."""
    with pytest.raises(ConfigError) as caught:
        environment({"env": [{"name": "V", "valueFrom": variable}]}, sources)
    assert str(caught.value) == message


def test_a_whole_missing_source_is_named():
    """envFrom of a map that is not there is an error unless it is optional."""
    with pytest.raises(ConfigError, match='configmap "cm" not found'):
        environment({"envFrom": [{"configMapRef": {"name": "cm"}}]})
