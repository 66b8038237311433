"""What stays of a cold start in the control process: memory, open files, and bytes on disk.

    python load/wakes.py --wakes 1000

Starts a `zerogate up` of its own with fifty services at zero. They are woken together, go back to zero by themselves,
and are woken again, until there were so many wakes. After each round: the resident memory of the control process, its
open files, and the size of the data directory. What is kept of a wake on purpose (Events, the history for watches, the
log of each pod that runs) is bounded, so the curve has to become flat: the bar is that the second half of a thousand
wakes adds less than 5 % to the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from coldstart import Platform, service, verdict

SERVICES = 50
BAR = 0.05
WINDOW = "6s"
"""The shortest there is: a round takes ten seconds and more."""


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def until_zero(platform: Platform) -> None:
    """Returns when there is no pod."""
    deadline = time.monotonic() + 120
    while json.loads(platform.run("get", "pods", "-o", "json"))["items"]:
        if time.monotonic() > deadline:
            raise SystemExit("there are pods still, 120 s after the last request")
        time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wakes", type=int, default=1000, metavar="N")
    parser.add_argument("--port", type=int, default=18080)
    arguments = parser.parse_args()
    names = [f"again-{n}" for n in range(SERVICES)]
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as temporary, Platform(Path(temporary), arguments.port) as platform:
        platform.apply([service(name, WINDOW) for name in names])
        print(f"{'wakes':>8}{'MiB':>10}{'files':>10}{'data MiB':>10}", flush=True)
        for woken in range(0, arguments.wakes + 1, SERVICES):
            if woken:
                platform.firsts(names, 0.0)
                until_zero(platform)
            sizes.append(resident(platform.pid))
            files, data = len(os.listdir(f"/proc/{platform.pid}/fd")), size_of(Path(temporary))
            print(f"{woken:>8}{sizes[-1] / 2**20:>10.1f}{files:>10}{data / 2**20:>10.1f}", flush=True)
    growth = sizes[-1] / sizes[len(sizes) // 2] - 1
    print(f"\nthe second half of the wakes added {100 * growth:.1f} %, bar {100 * BAR:.0f} %: {verdict(growth < BAR)}")
    return 0 if growth < BAR else 1


if __name__ == "__main__":
    sys.exit(main())
