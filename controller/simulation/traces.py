"""Loads to simulate: when requests arrive.

Two formats, told apart by their first line:

- *Minute counts*, as in the public Azure Functions 2019 trace: CSV with the header
  `HashOwner,HashApp,HashFunction,Trigger,1,2,…,1440` and a row for each function with its requests per minute. One row
  is one load, chosen by (the beginning of) its HashFunction; without a choice there must be one row only. Other leading
  columns are fine, as long as the columns of minutes are numbered from 1. The requests of a minute are spread over it
  by chance.
- *Arrivals*: a line for each request with its time in seconds from the start, and optionally, after a comma, how many
  seconds of work it is. Sorted by time. Empty lines and those that begin with # are skipped.

What does not fit raises TraceError with file, line and what would be right. A trace is read row by row, so that the
file may be larger than memory; a load is bounded by MAX_REQUESTS and MAX_SECONDS.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from controller.simulation.world import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from random import Random

__all__ = ["MAX_REQUESTS", "MAX_SECONDS", "TraceError", "read_trace"]

MAX_REQUESTS = 20_000_000
MAX_SECONDS = 30 * 86_400.0
"""A month: simulated time costs something even where nothing happens."""
_MINUTE = 60.0


class TraceError(ValueError):
    """A trace that can't be read; the text says where and what would be right."""


def read_trace(path: Path, function: str, service_time: Callable[[], float], random: Random) -> list[Arrival]:
    """The load in a file. `function` chooses a row of minute counts, "" the only one; `service_time` gives the seconds
    of work of a request where the file does not. Raises TraceError, OSError."""
    # utf-8-sig: spreadsheets begin a CSV with a byte order mark.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        if len(first.split(",")) > 2:
            return _spread(_minute_counts(path, csv.reader(file), function), service_time, random)
        if function:
            raise TraceError(
                f"{path} holds arrivals and no functions to choose {function!r} from: leave --function out"
            )
        return _arrivals(path, file, service_time)


def _minute_counts(path: Path, rows: Iterator[list[str]], function: str) -> list[int]:
    header = next(rows)
    if "1" not in header:
        raise TraceError(f"{path}, line 1: no column is called 1; minute counts have columns 1, 2, … after the names")
    start = header.index("1")
    column = header.index("HashFunction") if "HashFunction" in header else 0
    chosen: list[tuple[str, list[int]]] = []
    for line, row in enumerate(rows, start=2):
        if len(row) > column and row[column].startswith(function):
            chosen.append((row[column], [_count(path, line, cell) for cell in row[start:]]))
            if len(chosen) > 1:
                names = " and ".join(name for name, _ in chosen)
                raise TraceError(f"{path}: {names} both fit; choose one with --function NAME")
    if not chosen:
        raise TraceError(f"{path}: no function's name begins with {function!r}")
    return chosen[0][1]


def _count(path: Path, line: int, cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) < 10):
        raise TraceError(f"{path}, line {line}: {cell[:40]!r} is not a number of requests in a minute")
    return int(cell)


def _spread(counts: list[int], service_time: Callable[[], float], random: Random) -> list[Arrival]:
    if sum(counts) > MAX_REQUESTS:
        raise TraceError(f"{sum(counts)} requests are more than the {MAX_REQUESTS} that are simulated at most")
    return [
        Arrival(time, service_time())
        for minute, count in enumerate(counts)
        for time in sorted((minute + random.random()) * _MINUTE for _ in range(count))
    ]


def _arrivals(path: Path, lines: Iterable[str], service_time: Callable[[], float]) -> list[Arrival]:
    found: list[Arrival] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        time, _, seconds = text.partition(",")
        arrival = Arrival(_seconds(path, number, time), _seconds(path, number, seconds) if seconds else service_time())
        if found and arrival.time < found[-1].time:
            raise TraceError(f"{path}, line {number}: {time} comes after {found[-1].time:g}; sort the arrivals by time")
        if len(found) == MAX_REQUESTS:
            raise TraceError(f"{path}: more than the {MAX_REQUESTS} requests that are simulated at most")
        found.append(arrival)
    return found


def _seconds(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_SECONDS:
        wanted = f"a number of seconds from 0 to {MAX_SECONDS:.0f}, such as 12.5"
        raise TraceError(f"{path}, line {line}: {text.strip()[:40]!r} is not {wanted}")
    return value
