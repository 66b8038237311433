"""`zerogate apply`, `get`, `logs`, `delete`: the objects of a running `zerogate up`, for people without kubectl."""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
import uvloop
import yaml

from controller.apis import kinds, labels
from controller.apis.meta import JsonObject, Key, key_of, name_of
from controller.cli.mistake import Mistake
from controller.kube.client import KubeClient
from controller.kube.errors import KubeError, NotFound, Unavailable
from controller.manifests import ManifestError, apply_manifest, check_namespace, kind_of, read_manifests
from controller.paths import default_data_dir, kubeconfig_path

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from controller.apis.kinds import Kind

DEFAULT = "default"
"""The namespace where none is written."""

_NAMES: dict[str, Kind] = {
    "ksvc": kinds.SERVICE,
    "kservice": kinds.SERVICE,
    "service": kinds.SERVICE,
    "services": kinds.SERVICE,
    "rt": kinds.ROUTE,
    "cfg": kinds.CONFIGURATION,
    "config": kinds.CONFIGURATION,
    "rev": kinds.REVISION,
    "kpa": kinds.POD_AUTOSCALER,
    "pa": kinds.POD_AUTOSCALER,
    "king": kinds.INGRESS,
    "kingress": kinds.INGRESS,
    "ns": kinds.NAMESPACE,
    "po": kinds.POD,
    "svc": kinds.CORE_SERVICE,
    "cm": kinds.CONFIG_MAP,
    "ev": kinds.EVENT,
    "sa": kinds.SERVICE_ACCOUNT,
    "deploy": kinds.DEPLOYMENT,
    "crd": kinds.CUSTOM_RESOURCE_DEFINITION,
}
"""What a person types after `get`. `service` is Knative's here; the core one is `svc`."""

for _kind in (*kinds.KNATIVE_KINDS, *kinds.BUILT_IN_KINDS):
    _NAMES.setdefault(_kind.kind.lower(), _kind)
    _NAMES.setdefault(_kind.plural, _kind)


def _with_server(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A command that talks to the API server: adds --kubeconfig and --namespace, hands over a client, words errors."""

    @click.option(
        "--kubeconfig",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="ZEROGATE_KUBECONFIG",
        show_envvar=True,
        help="How to reach the API server.  [default: what `zerogate up` wrote to its data directory]",
    )
    @click.option("-n", "--namespace", show_default="default", help="Where to look, and for files that name none.")
    @functools.wraps(command)
    def run(kubeconfig: Path | None, namespace: str | None, **arguments: Any) -> None:
        path = kubeconfig or kubeconfig_path(default_data_dir())
        if not path.exists():
            raise Mistake(f"{path} is not there: start `zerogate up`, or name a kubeconfig with --kubeconfig")
        uvloop.run(_session(command, path, {"namespace": namespace, **arguments}))

    return run


async def _session(command: Callable[..., Coroutine[Any, Any, None]], kubeconfig: Path, arguments: Any) -> None:
    try:
        client = await KubeClient.from_kubeconfig(str(kubeconfig))
    except KubeError as error:
        raise click.ClickException(str(error)) from error
    try:
        async with client as kube:
            await command(kube, **arguments)
    except KubeError as error:
        hint = "; is `zerogate up` running?" if isinstance(error, Unavailable) and not error.status else ""
        raise click.ClickException(f"{error}{hint}") from error
    except ManifestError as error:
        raise Mistake(str(error)) from error


def kind_named(name: str) -> Kind:
    """The kind that a person calls `name`. Raises Mistake that lists what there is."""
    try:
        return _NAMES[name.lower()]
    except KeyError:
        known = ", ".join(sorted(_NAMES))
        raise Mistake(f"{name!r} is not a kind of object here; there are: {known}") from None


_files = click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A YAML or JSON file, a folder of them, or - for standard input. Repeatable.",
)


@click.command()
@_files
@click.option("--force-conflicts", is_flag=True, help="Take over fields that somebody else has set.")
@_with_server
async def apply(kube: KubeClient, namespace: str | None, filenames: tuple[str, ...], force_conflicts: bool) -> None:
    """Create or change the objects of FILE."""
    manifests = read_manifests(filenames)
    for manifest in manifests:
        check_namespace(manifest, namespace)
    failed = False
    for manifest in manifests:
        try:
            obj = await apply_manifest(kube, manifest, namespace or DEFAULT, force=force_conflicts)
        except KubeError as error:
            failed = True
            click.echo(f"{manifest.source}: {error}", err=True)
        else:
            click.echo(f"{_reference(kind_of(manifest), name_of(obj))} applied")
    if failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@click.option("-l", "--selector", default="", help="Only objects with these labels, e.g. app=hello,tier!=db.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "yaml", "json", "name"]),
    default="table",
    show_default=True,
    help="How to print them.",
)
@_with_server
async def get(
    kube: KubeClient,
    namespace: str | None,
    kind: str,
    name: str | None,
    all_namespaces: bool,
    selector: str,
    output: str,
) -> None:
    """Print objects of KIND (ksvc, route, cfg, rev, kpa, pod, deploy, svc, cm, events …), or the one called NAME."""
    served = kind_named(kind)
    place = "" if all_namespaces or not served.namespaced else namespace or DEFAULT
    if output in ("table", "wide"):
        table = await kube.table(served, Key(place, name or ""), label_selector=selector)
        _print_table(table, wide=output == "wide", with_namespace=all_namespaces and served.namespaced)
        return
    if name:
        result = await kube.get(served, Key(place, name))
    else:
        result = await kube.list(served, place or None, label_selector=selector)
    items = result.get("items", [result]) if not name else [result]
    match output:
        case "json":
            click.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2))
        case "yaml":
            click.echo(yaml.safe_dump(result, sort_keys=False), nl=False)
        case _:
            for item in items:
                click.echo(_reference(served, name_of(item)))


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is written from now on.")
@click.option("--tail", type=click.IntRange(0), help="Only the last N lines of each pod.")
@click.option("-p", "--previous", is_flag=True, help="Of the container's last life.")
@_with_server
async def logs(
    kube: KubeClient, namespace: str | None, name: str, follow: bool, tail: int | None, previous: bool
) -> None:
    """Print what the pods of Service NAME (or the pod NAME) wrote."""
    pods = await _pods_called(kube, namespace or DEFAULT, name)
    query = {"follow": "true"} if follow else {}
    if tail is not None:
        query["tailLines"] = str(tail)
    if previous:
        query["previous"] = "true"
    prefixes = [f"{pod.name} " if len(pods) > 1 else "" for pod in pods]
    prints = (_print_log(kube, pod, query, prefix) for pod, prefix in zip(pods, prefixes, strict=True))
    results = await asyncio.gather(*prints, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        if not isinstance(failure, KubeError):
            raise failure
        click.echo(f"Error: {failure}", err=True)
    if failures:
        raise click.exceptions.Exit(1)


async def _pods_called(kube: KubeClient, namespace: str, name: str) -> list[Key]:
    listed = await kube.list(kinds.POD, namespace, label_selector=f"{labels.SERVICE}={name}")
    if listed["items"]:
        return sorted(key_of(pod) for pod in listed["items"])
    try:
        return [key_of(await kube.get(kinds.POD, Key(namespace, name)))]
    except NotFound:
        raise click.ClickException(
            f"no pod of a Service {name!r} and no pod {name!r} in namespace {namespace}: "
            "a service scaled to zero has none until its next request"
        ) from None


async def _print_log(kube: KubeClient, pod: Key, query: dict[str, str], prefix: str) -> None:
    async with kube.stream(kinds.POD, pod, subresource="log", query=query) as chunks:
        rest = b""
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                click.echo(prefix.encode() + line)
        if rest:
            click.echo(prefix.encode() + rest)
    sys.stdout.flush()


@click.command()
@click.argument("kind", required=False)
@click.argument("names", nargs=-1)
@click.option("-f", "--filename", "filenames", multiple=True, metavar="FILE", help="Delete those of FILE instead.")
@_with_server
async def delete(
    kube: KubeClient, namespace: str | None, kind: str | None, names: tuple[str, ...], filenames: tuple[str, ...]
) -> None:
    """Delete the objects of KIND called NAMES, or those of FILE, and all that they own."""
    if bool(filenames) == bool(kind and names):
        raise Mistake("say what to delete: either KIND NAME… or -f FILE")
    targets = [(kind_named(kind or ""), Key(namespace or DEFAULT, name)) for name in names] if not filenames else []
    for manifest in read_manifests(filenames):
        check_namespace(manifest, namespace)
        meta = manifest.obj["metadata"]
        if "name" not in meta:
            raise Mistake(f"{manifest.source}: has no metadata.name, only generateName: delete it by KIND NAME")
        targets.append((kind_of(manifest), Key(meta.get("namespace", namespace or DEFAULT), meta["name"])))
    missing = False
    for served, key in targets:
        reference = _reference(served, key.name)
        try:
            await kube.delete(served, key if served.namespaced else Key("", key.name))
            click.echo(f"{reference} deleted")
        except NotFound:
            missing = True
            click.echo(f"{reference} is not there", err=True)
    if missing:
        raise click.exceptions.Exit(1)


def _reference(kind: Kind, name: str) -> str:
    return f"{kind.kind.lower()}.{kind.group}/{name}" if kind.group else f"{kind.kind.lower()}/{name}"


def _print_table(table: JsonObject, *, wide: bool, with_namespace: bool) -> None:
    """Columns as kubectl prints them: padded to the widest cell, three spaces apart."""
    shown = [n for n, column in enumerate(table["columnDefinitions"]) if wide or column.get("priority", 0) == 0]
    rows = [[table["columnDefinitions"][n]["name"].upper() for n in shown]]
    rows += [["" if row["cells"][n] is None else str(row["cells"][n]) for n in shown] for row in table["rows"]]
    if with_namespace:
        spaces = ["NAMESPACE", *(row["object"]["metadata"].get("namespace", "") for row in table["rows"])]
        rows = [[space, *row] for space, row in zip(spaces, rows, strict=True)]
    if len(rows) == 1:
        click.echo("nothing found", err=True)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
