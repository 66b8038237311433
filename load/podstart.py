"""How long the process runtime takes from a request to a running process: `python load/podstart.py`.

Prints p50 and p95 of starting /bin/true through the launcher, one after the other, and the time for a hundred at once,
beside the same hundred started by `subprocess.Popen` from a bare loop.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from controller.embedded.logfile import LogWriter
from controller.embedded.runtimes import Launch
from controller.embedded.runtimes.process import ProcessRuntime

COUNT = 200


async def start(runtime: ProcessRuntime, folder: Path, number: int) -> tuple[float, float]:
    """Seconds until the program ran, and until its end was reported."""
    log = LogWriter(folder / f"{number}.log")
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    launch = Launch(f"bench/{number}", ("true",), {"PATH": os.environ["PATH"]}, ".")
    began = time.perf_counter()
    await runtime.start(launch, log, lambda _: ended.set_result(None))
    running = time.perf_counter() - began
    await ended
    log.close(datetime.now(UTC))
    return running, time.perf_counter() - began


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtime = ProcessRuntime(folder, folder)
        await runtime.open()
        times = sorted([(await start(runtime, folder, number))[0] for number in range(COUNT)])
        print(f"sequential: p50 {times[COUNT // 2] * 1e3:.2f} ms, p95 {times[COUNT * 95 // 100] * 1e3:.2f} ms")
        began = time.perf_counter()
        await asyncio.gather(*(start(runtime, folder, COUNT + number) for number in range(100)))
        print(f"100 at once, started and ended: {(time.perf_counter() - began) * 1e3:.0f} ms")
        await runtime.close()


def bare_loop() -> None:
    began = time.perf_counter()
    running = [subprocess.Popen(["true"]) for _ in range(100)]
    for process in running:
        process.wait()
    print(f"100 by subprocess.Popen from a bare loop: {(time.perf_counter() - began) * 1e3:.0f} ms")


if __name__ == "__main__":
    uvloop.run(main())
    bare_loop()
