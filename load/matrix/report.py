"""Results as Markdown tables that go into `load/baseline.md` as they are, and as JSON to compare runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matrix.workloads import Bar, Workload

__all__ = ["Results", "Row", "table", "write_json"]

_BASES = ("nginx", "envoy")


class Row(NamedTuple):
    """One measurement: units per second, CPU microseconds of the proxy per unit, milliseconds."""

    rate: float
    cpu: float
    p50: float
    p99: float


@dataclass(slots=True)
class Results:
    """The rounds of one workload, by peer in the order of the tables; `faults` of peers that could not carry it."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def median(self, peer: str) -> Row | None:
        """Column by column, over the rounds; None for a peer without any."""
        rounds = self.rows.get(peer)
        return Row(*(median(column) for column in zip(*rounds, strict=True))) if rounds else None


def table(workload: Workload, results: Results) -> str:
    """The heading, a row for each peer, and the bars."""
    rounds = max((len(rows) for rows in results.rows.values()), default=0)
    unit = workload.unit
    lines = [f"### {workload.title}", "", f"Median of {rounds} rounds.", ""]
    lines.append(f"| peer | {unit}/s | CPU µs/{unit} | p50 ms | p99 ms | CPU / nginx | CPU / envoy | rate / nginx |")
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for peer in results.rows:
        row = results.median(peer)
        if row is not None:
            cells = [f"{row.rate:.0f}", f"{row.cpu:.1f}", f"{row.p50:.2f}", f"{row.p99:.2f}"]
            cells += [_ratio(results, peer, base, "cpu") for base in _BASES]
            cells.append(_ratio(results, peer, "nginx", "rate"))
            lines.append(f"| {peer} | {' | '.join(cells)} |")
    bars = [_bar(bar, results) for bar in workload.bars if results.rows.get(bar.subject) and results.rows.get(bar.peer)]
    faults = [f"{peer}: {fault}" for peer, fault in results.faults.items()]
    return "\n".join([*lines, *(["", *(f"- {line}" for line in [*bars, *faults])] if bars or faults else [])])


def _ratio(results: Results, peer: str, base: str, column: str) -> str:
    ratio = _quotient(results, peer, base, column)
    return "" if ratio is None else f"{ratio:.2f}"


def _quotient(results: Results, peer: str, base: str, column: str) -> float | None:
    """The median of the rounds' own ratios: the rounds are interleaved, so a busy minute is in both."""
    pairs = zip(results.rows.get(peer, ()), results.rows.get(base, ()), strict=False)
    ratios = [getattr(one, column) / getattr(other, column) for one, other in pairs if getattr(other, column)]
    return median(ratios) if ratios else None


def _bar(bar: Bar, results: Results) -> str:
    measured = _quotient(results, bar.subject, bar.peer, bar.column)
    if measured is None:
        return f"{bar.column} beside {bar.peer}: not measured"
    bound, met = ("at least", measured >= bar.limit) if bar.column == "rate" else ("at most", measured <= bar.limit)
    name = {"rate": "rate", "cpu": "CPU", "p99": "p99"}[bar.column]
    return (
        f"{bar.subject}: {name} {bound} {bar.limit:g} × {bar.peer}'s: {measured:.2f}, {'met' if met else '**not met**'}"
    )


def write_json(path: Path, machine: Mapping[str, object], results: Mapping[str, Results]) -> None:
    """All rounds of all workloads."""
    workloads = {
        name: {peer: [row._asdict() for row in rows] for peer, rows in one.rows.items()}
        for name, one in results.items()
    }
    path.write_text(json.dumps({"machine": machine, "workloads": workloads}, indent=1) + "\n")
