"""The timelines of several settings, one above the other, over the load they had to carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from controller.simulation.world import Arrival, World

__all__ = ["plot"]

_BINS = 300
_ROW, _WIDTH = 2.2, 11.0  # inches


def plot(path: Path, arrivals: Sequence[Arrival], worlds: Mapping[str, World]) -> None:
    """Write a picture; the ending of `path` says which kind (.png, .svg, .pdf). Raises OSError, and ValueError for an
    ending that is none."""
    mpl.rcParams["svg.hashsalt"] = "zerogate"  # the same input makes the same file
    figure = Figure(figsize=(_WIDTH, _ROW * (len(worlds) + 1)), layout="constrained")
    axes = figure.subplots(len(worlds) + 1, 1, sharex=True)
    end = max(world.now for world in worlds.values())
    _plot_load(axes[0], arrivals, end)
    for axis, (name, world) in zip(axes[1:], worlds.items(), strict=True):
        _plot_pods(axis, name, world)
    axes[-1].set_xlabel("seconds")
    figure.savefig(path)


def _plot_load(axis: Axes, arrivals: Sequence[Arrival], end: float) -> None:
    width = max(1.0, end / _BINS)
    counts = [0] * (int(end / width) + 1)
    for arrival in arrivals:
        counts[min(len(counts) - 1, int(arrival.time / width))] += 1
    axis.stairs([count / width for count in counts], [number * width for number in range(len(counts) + 1)], fill=True)
    axis.set_ylabel("requests/s")
    axis.set_ylim(bottom=0)


def _plot_pods(axis: Axes, name: str, world: World) -> None:
    times = [moment.time for moment in world.timeline] + [world.now]
    replicas = [moment.replicas for moment in world.timeline]
    ready = [moment.ready for moment in world.timeline]
    axis.stairs(replicas, times, label="pods", color="tab:gray")
    axis.stairs(ready, times, label="ready", fill=True, alpha=0.6, color="tab:green")
    axis.set_title(name, loc="left", fontsize="medium")
    axis.set_ylabel("pods")
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper right", frameon=False)
