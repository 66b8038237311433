"""A burst on a cold service: how much longer it takes than it must.

    python load/burst.py                                    1,000 requests of 200 ms at once, ten at a time in a pod
    python load/burst.py --max-scale 10 --rounds 5

Starts a `zerogate up` of its own. In each round a new service at zero gets all requests at once, each on a connection
of its own. Its application (`load/matrix/sleeper.py`) notes when each of its processes listened, whether a request came
to it or not, and says in each answer how many it ever had at once.

From the moments at which the pods listened follows the earliest end there could be (`earliest`): every place taken the
instant it is there and handed on the instant it is free. In those moments is all that is not the gateway's: the
autoscaler's first pod, its next tick, its bounds, the processes' start. So measured / ideal judges gateway and
activator; the bar is 1.3. Beside it stands the end that there could be if the autoscaler had known the whole burst at
its first decision, and all those pods had listened when the first did: what it costs to learn of the burst by a report
and a tick, as Knative does, and to start so many processes, is the difference.

The processes' start takes its cores from the platform, and so does the client: see the load.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coldstart import Platform, percentile, verdict
from controller.apis.annotations import parse_autoscaling
from controller.apis.labels import AUTOSCALING
from controller.autoscaler.kpa import DeciderState, decide, decider_spec
from controller.config.store import Config

if TYPE_CHECKING:
    from collections.abc import Sequence

BAR = 1.3
COLUMNS = (
    *("pods", "first listened", "last", "p50", "p99", "all answered", "ideal", "ratio", "known at once"),
    *("most in a pod", "errors"),
)
APPLICATION = Path(__file__).with_name("matrix") / "sleeper.py"


class Round(NamedTuple):
    """Seconds since the first request: when each pod listened that did so before the end, when each request had its
    answer. `most` requests were in one pod at once; `errors` had another answer than 200."""

    ready: list[float]
    answered: list[float]
    most: int
    errors: int


def earliest(ready: Sequence[float], jobs: int, places: int, seconds: float) -> float:
    """When `jobs` of `seconds` each, which wait from 0 on, can be done at the earliest by pods of so many `places` that
    are there from the moments `ready` on. Jobs of one length: whoever takes the place that is free first is never worse
    off."""
    free = [moment for moment in ready for _ in range(places)]
    heapq.heapify(free)
    end = 0.0
    for _ in range(jobs):
        end = free[0] + seconds
        heapq.heapreplace(free, end)
    return end


def pods_at_once(requests: int, places: int, max_scale: int) -> int:
    """How many pods the autoscaler wants for so many requests in flight, if they are all that it knows."""
    config = Config()
    annotated = parse_autoscaling({}, config)
    spec = decider_spec(annotated, config.autoscaler, container_concurrency=places, reachable=True)
    decision, _ = decide(spec, DeciderState(), stable=requests, panic=requests, ready=0, now=0.0)
    return min(decision.desired, max_scale) if max_scale else decision.desired


def service(name: str, places: int, seconds: float, max_scale: int, notes: Path) -> dict[str, object]:
    """One at zero."""
    annotations = {AUTOSCALING + "initial-scale": "0", AUTOSCALING + "max-scale": str(max_scale)}
    container = {"image": "sleeper", "command": [sys.executable, "-S", str(APPLICATION), str(seconds), str(notes)]}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {"containerConcurrency": places, "containers": [container]},
            }
        },
    }


def measure(platform: Platform, name: str, requests: int, notes: Path) -> Round:
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    answers = platform.at_once([name] * requests)
    bodies = [json.loads(answer.partition(b"\r\n\r\n")[2]) for _, answer in answers if _is_ok(answer)]
    answered = sorted(total for total, _ in answers)
    if not bodies:
        raise SystemExit(f"no request was answered with 200; the first got {answers[0][1]!r}")
    noted = (line.split() for line in notes.read_text().splitlines())
    ready = sorted(float(moment) - began for what, moment in noted if what == "listening")
    return Round(
        ready=[moment for moment in ready if moment < answered[-1]],
        answered=answered,
        most=max(body["most"] for body in bodies),
        errors=len(answers) - len(bodies),
    )


def _is_ok(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, metavar="N")
    parser.add_argument("--concurrency", type=int, default=10, metavar="N", help="containerConcurrency")
    parser.add_argument("--seconds", type=float, default=0.2, help="of work for each request")
    parser.add_argument("--max-scale", type=int, default=0, metavar="N", help="0: as many as the autoscaler wants")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="of the gateway")
    parser.add_argument("--port", type=int, default=18680)
    arguments = parser.parse_args()
    count, places, seconds = arguments.requests, arguments.concurrency, arguments.seconds
    names = [f"burst-{number}" for number in range(arguments.rounds)]
    at_once = pods_at_once(count, places, arguments.max_scale)
    load = os.getloadavg()[0]
    print(f"{count} requests of {1000 * seconds:g} ms at once, {places} at a time in a pod; load average {load:.1f}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'--:|' * len(COLUMNS)}")
    worst, errors, most = 0.0, 0, 0
    temporary = tempfile.TemporaryDirectory()
    platform = Platform(Path(temporary.name), arguments.port, "--workers", str(arguments.workers))
    with temporary, platform:
        for name in names:
            notes = Path(temporary.name) / f"{name}.notes"
            platform.apply([service(name, places, seconds, arguments.max_scale, notes)])
            one = measure(platform, name, count, notes)
            platform.run("delete", "ksvc", name)
            end = one.answered[-1]
            ideal = earliest(one.ready, count, places, seconds)
            best = earliest(one.ready[:1] * at_once, count, places, seconds)
            moments = [one.ready[0], one.ready[-1], *(percentile(one.answered, share) for share in (0.5, 0.99))]
            cells = [f"{moment:.2f}" for moment in (*moments, end, ideal, end / ideal)]
            cells += [f"{best:.2f} by {at_once}", str(one.most), str(one.errors)]
            print(f"| {len(one.ready)} | {' | '.join(cells)} |", flush=True)
            worst, errors, most = max(worst, end / ideal), errors + one.errors, max(most, one.most)
    met = verdict(worst <= BAR and errors == 0 and most <= places)
    print(f"\nworst ratio {worst:.2f}, bar {BAR}; {errors} errors, bar 0; {most} in a pod, bar {places}: {met}")
    return 0 if met == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
