"""`zerogate simulate`: what would settings do under a load? Nothing is started; time is virtual."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import click
import orjson

from controller.cli.mistake import Mistake
from controller.simulation.distributions import DistributionError, distribution
from controller.simulation.outcome import outcome
from controller.simulation.settings import SettingsError, parse_settings
from controller.simulation.traces import MAX_SECONDS, TraceError, read_trace
from controller.simulation.world import Settings, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.simulation.outcome import Outcome
    from controller.simulation.world import Arrival

__all__ = ["simulate"]

_PICTURES = (".png", ".svg", ".pdf")
_HEADINGS = ("SETTINGS", "REQUESTS", "COLD", "LOST", "WAIT P50", "P95", "P99", "MAX", "POD-SECONDS", "MOST PODS")


@click.command()
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--function", default="", help="Which row of minute counts: the beginning of its HashFunction.")
@click.option(
    "-s",
    "--settings",
    "texts",
    multiple=True,
    metavar="NAME:KEY=VALUE,…",
    help="Settings to try: autoscaling annotations without prefix, container-concurrency, keys of config-autoscaler. "
    "Repeatable.  [default: Knative's defaults]",
)
@click.option("--cold-start", default="1s", show_default=True, metavar="TIME", help="From a new pod to a ready one.")
@click.option("--service-time", default="100ms", show_default=True, metavar="TIME", help="Work of one request.")
@click.option("--seed", default=0, show_default=True, help="Of chance; the same seed gives the same result.")
@click.option(
    "--tail",
    type=click.FloatRange(0, MAX_SECONDS),
    default=600.0,
    show_default=True,
    help="Seconds to go on after the last request.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the timelines to this .png, .svg or .pdf."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def simulate(
    trace: Path,
    function: str,
    texts: tuple[str, ...],
    cold_start: str,
    service_time: str,
    seed: int,
    tail: float,
    plot: Path | None,
    output: str,
) -> None:
    """Try autoscaling settings on the load in TRACE, in virtual time.

    TRACE is a file with a line for each request (its time in seconds, optionally a comma and its seconds of work), or
    a CSV of requests per minute for each function, as in the public Azure Functions 2019 trace. TIMEs are like 200ms,
    uniform:100ms-300ms, exponential:200ms, or lognormal:200ms,1s (median and 99th percentile).

    Waits are from a request's arrival until a pod takes it; cold requests met no ready pod.

    \b
      zerogate simulate arrivals.txt --cold-start 2s
      zerogate simulate day.csv --function a3f0 -s default: -s quick:window=20s,target=10 --plot day.png
    """
    if plot is not None and plot.suffix not in _PICTURES:
        raise Mistake(f"{plot}: the name of a picture should end with one of {', '.join(_PICTURES)}")
    try:
        chosen = _chosen(texts)
        arrivals = read_trace(trace, function, distribution(service_time, Random(seed)), Random(seed + 1))
        worlds = {name: _run(settings, arrivals, cold_start, seed, tail) for name, settings in chosen.items()}
    except (DistributionError, SettingsError, TraceError) as error:
        raise Mistake(str(error)) from error
    if plot is not None:
        _plot(plot, arrivals, worlds)
    outcomes = {name: outcome(world) for name, world in worlds.items()}
    if output == "json":
        described = [_described(name, outcomes[name], world) for name, world in worlds.items()]
        click.echo(orjson.dumps(described, option=orjson.OPT_INDENT_2))
    else:
        click.echo(_table(outcomes))


def _chosen(texts: Sequence[str]) -> dict[str, Settings]:
    chosen: dict[str, Settings] = {}
    for name, settings in map(parse_settings, texts):
        if name in chosen:
            raise SettingsError(f"{name} is the name of two settings; choose another for one of them")
        chosen[name] = settings
    return chosen or {"default": Settings()}


def _run(settings: Settings, arrivals: Sequence[Arrival], cold_start: str, seed: int, tail: float) -> World:
    initial = settings.annotations.get("initial-scale")
    replicas = settings.config.autoscaler.initial_scale if initial is None else int(initial)
    world = World(settings, cold_start=distribution(cold_start, Random(seed)), replicas=replicas)
    world.run((arrivals[-1].time if arrivals else 0.0) + tail, arrivals)
    return world


def _plot(path: Path, arrivals: Sequence[Arrival], worlds: dict[str, World]) -> None:
    try:
        from controller.simulation.plot import plot
    except ImportError:
        raise Mistake("pictures need matplotlib: pip install 'zerogate[simulate]'") from None
    try:
        plot(path, arrivals, worlds)
    except OSError as error:
        raise Mistake(f"{path} can't be written: {error.strerror}") from error


def _described(name: str, result: Outcome, world: World) -> dict[str, object]:
    timeline = [moment._asdict() for moment in world.timeline]
    return {"settings": name, **asdict(result), "cold_rate": result.cold_rate, "timeline": timeline}


def _table(outcomes: dict[str, Outcome]) -> str:
    rows = [_HEADINGS, *(_row(name, result) for name, result in outcomes.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _row(name: str, result: Outcome) -> tuple[str, ...]:
    waits = (result.wait_p50, result.wait_p95, result.wait_p99, result.wait_max)
    return (
        name,
        str(result.requests),
        f"{result.cold_rate:.2%}",
        str(result.lost),
        *(f"{wait:.3f}s" for wait in waits),
        f"{result.pod_seconds:.0f}",
        str(result.pods_max),
    )
