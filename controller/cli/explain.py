"""`zerogate explain`: the autoscaler's last decisions about a revision, and what was made of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
import click
import orjson
import uvloop

from controller.cli.mistake import Mistake
from controller.paths import admin_port_path, default_data_dir, kubeconfig_path

if TYPE_CHECKING:
    from controller.apis.meta import JsonObject

__all__ = ["explain"]

_TIMEOUT = 10.0
_HEADINGS = ("AGO", "STABLE", "PANIC", "READY", "WISH", "SCALE", "REASON", "")


@click.command()
@click.argument("revision")
@click.option("-n", "--namespace", default="default", show_default=True, help="Where the revision is.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@click.option(
    "--admin",
    metavar="URL",
    help="The controller's admin port.  [default: that of `zerogate up`, found beside its kubeconfig]",
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="ZEROGATE_KUBECONFIG",
    show_envvar=True,
    help="What `zerogate up` wrote.  [default: that in its data directory]",
)
def explain(revision: str, namespace: str, output: str, admin: str | None, kubeconfig: Path | None) -> None:
    """Tell why REVISION has as many replicas as it has.

    Prints the last hundred decisions of the autoscaler, oldest first: the averages of the load over the stable and the
    panic window, the replicas that were ready, how many each average asks for, what came of it and by which rule.

    \b
      zerogate explain hello-00001
      zerogate explain hello-00001 -o json
    """
    base = admin or _admin_url((kubeconfig or kubeconfig_path(default_data_dir())).parent)
    text = uvloop.run(_fetch(f"{base}/explain/{quote(namespace, safe='')}/{quote(revision, safe='')}"))
    if output == "json":
        click.echo(orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2))
    else:
        click.echo(_table(orjson.loads(text)))


def _admin_url(data_dir: Path) -> str:
    path = admin_port_path(data_dir)
    try:
        return f"http://127.0.0.1:{int(path.read_text('ascii'))}"
    except (OSError, ValueError):
        raise Mistake(f"{path} is not there: start `zerogate up`, or name a controller with --admin") from None


async def _fetch(url: str) -> bytes:
    try:
        async with asyncio.timeout(_TIMEOUT), aiohttp.ClientSession() as session, session.get(url) as response:
            text = await response.read()
            if response.status != 200:
                raise click.ClickException(text.decode(errors="replace").strip() or f"{url} answers {response.status}")
            return text
    except (aiohttp.ClientError, TimeoutError) as error:
        raise click.ClickException(f"no controller answers at {url}: {str(error) or 'it took too long'}") from None


def _table(account: JsonObject) -> str:
    settings = account["settings"]
    desired = account["desiredScale"]
    head = [
        f"{account['namespace']}/{account['revision']}: {'no' if desired is None else desired} desired, "
        f"{account['actualScale']} ready, mode {account['mode']} "
        f"(excess burst capacity {account['excessBurstCapacity']})",
        f"{settings['metric']}: {settings['target']:g} for each replica (of {settings['total']:g}), windows "
        f"{settings['stableWindow']:g} s and {settings['panicWindow']:g} s",
        *map(_drain, account["draining"]),
        "",
    ]
    rows = [_HEADINGS, *map(_row, account["history"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*head, *lines])


def _drain(entry: JsonObject) -> str:
    count = entry["inFlight"]
    left = "unknown yet" if count is None else str(count)
    return f"{entry['pod']} drains for {_duration(entry['seconds'])}, requests in hand: {left}"


def _row(entry: JsonObject) -> tuple[str, ...]:
    ago = _duration(entry["secondsAgo"])
    if entry["kind"] == "scale":
        return (ago, "", "", "", "", f"-> {entry['scale']}", entry["reason"], entry["text"])
    times = f" (x{entry['times']} in {_duration(entry['overSeconds'])})" if entry["times"] > 1 else ""
    return (
        ago,
        f"{entry['stable']:g}",
        f"{entry['panic']:g}",
        str(entry["ready"]),
        f"{entry['stableWish']}/{entry['panicWish']}",
        str(entry["desired"]),
        entry["reason"],
        entry["text"] + times,
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if hours else f"{minutes}m{seconds}s"
