"""Real processes through the launcher."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.embedded.logfile import LogWriter
from controller.embedded.runtimes import Launch, RuntimeGone, StartError
from controller.embedded.runtimes.process import ProcessRuntime
from tests.polling import until

ROOT = Path(__file__).resolve().parents[4]
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a subreaper")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False
    return state[state.rindex(b")") + 2 :][:1] != b"Z"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Bench:
    def __init__(self, runtime: ProcessRuntime, folder: Path) -> None:
        self.runtime = runtime
        self.folder = folder
        self.count = 0

    async def start(self, *argv: str, working_dir: str = ".", **env: str):
        """→ (process, future of its Exit, log)"""
        self.count += 1
        log = LogWriter(self.folder / f"{self.count}.log")
        done = asyncio.get_running_loop().create_future()

        def ended(end):
            log.close(datetime.now(UTC))
            done.set_result(end)

        launch = Launch(f"m{self.count}", argv, {"PATH": os.environ["PATH"], **env}, working_dir)
        try:
            process = await self.runtime.start(launch, log, ended)
        except BaseException:
            log.close(datetime.now(UTC))
            raise
        return process, done, log


@pytest.fixture
async def bench(tmp_path):
    runtime = ProcessRuntime(tmp_path, tmp_path)
    await runtime.open()
    yield Bench(runtime, tmp_path / "logs")
    await runtime.close()


async def test_output_of_both_streams_and_the_exit_code(bench):
    """Both streams land in the log, each line under its stream's name, and the exit code is reported."""
    _, done, log = await bench.start("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (await done).code == 3
    text = log.path.read_text()
    assert " stdout F out\n" in text
    assert " stderr F err\n" in text
    assert sorted(log.tail().split()) == ["err", "out"]


async def test_the_environment_is_what_was_given_and_stdin_is_at_its_end(bench):
    """Nothing of the platform's own environment, and no terminal, gets into a container."""
    _, done, log = await bench.start("sh", "-c", "env; cat", X="1")
    await done
    names = {line.partition("=")[0] for line in log.tail().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "X", "ZEROGATE_CONTAINER"}


@LINUX_ONLY
async def test_a_container_gets_three_descriptors(bench):
    """Above all not the launcher's channel, by which it could speak for others."""
    _, done, log = await bench.start("sh", "-c", "ls /proc/$$/fd")
    await done
    assert log.tail().split() == ["0", "1", "2"]


async def test_working_dir_is_relative_to_the_start_directory(bench, tmp_path):
    """A relative workingDir is taken from where the platform was started."""
    (tmp_path / "sub").mkdir()
    _, done, log = await bench.start("pwd", working_dir="sub")
    await done
    assert log.tail() == str(tmp_path / "sub")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("no-such-program",), 'exec: "no-such-program": executable file not found in $PATH'),
        (("/no/such/program",), 'exec: "/no/such/program": No such file or directory'),
        (("/etc/passwd",), 'exec: "/etc/passwd": Permission denied'),
        (("a\0b",), 'exec: "a\0b": Invalid argument'),
    ],
)
async def test_a_start_that_fails_says_why_in_the_systems_words(bench, argv, message):
    """A program that cannot be executed raises StartError with its name and the system's reason."""
    with pytest.raises(StartError) as caught:
        await bench.start(*argv)
    assert str(caught.value) == message


async def test_a_missing_working_dir_is_named(bench):
    """A workingDir that is not there is told apart from a missing program."""
    with pytest.raises(StartError, match='workingDir "/no/such": No such file or directory'):
        await bench.start("true", working_dir="/no/such")


async def test_a_signal_reaches_the_group_and_is_reported(bench):
    """An end by signal N has the exit code 128 + N, and the signal beside it."""
    process, done, _ = await bench.start("sleep", "100")
    process.signal(signal.SIGTERM)
    end = await done
    assert (end.code, end.signal) == (143, 15)


async def test_grandchildren_may_finish_within_the_grace_period(bench):
    """`sh` dies of SIGTERM at once; the end is reported when its child has drained too."""
    script = "(trap 'sleep 0.1; echo drained; exit' TERM; echo up; while :; do sleep 0.01; done) & wait"
    process, done, log = await bench.start("sh", "-c", script)
    await until(lambda: log.tail() == "up")
    process.signal(signal.SIGTERM)
    await done
    assert log.tail().endswith("drained")


@LINUX_ONLY
async def test_a_container_ends_with_its_first_process(bench):
    """The group is killed when the leader crashed; what had left the group as well."""
    script = "sleep 100 & echo $!; setsid sh -c 'echo $$; exec sleep 100' & sleep 0.2; exit 1"
    _, done, log = await bench.start("sh", "-c", script)
    assert (await done).code == 1
    pids = [int(line) for line in log.tail().split()]
    assert len(pids) == 2
    await until(lambda: not any(alive(pid) for pid in pids))


@LINUX_ONLY
async def test_close_leaves_nothing_behind(bench):
    """Descendants that left the process group end too, and nothing starts after."""
    script = "setsid sh -c 'echo $$; exec sleep 100' & echo $$; sleep 100"
    _, done, log = await bench.start("sh", "-c", script)
    await until(lambda: len(log.tail().split()) == 2)
    await bench.runtime.close()
    assert (await done).signal == 9
    assert not any(alive(int(pid)) for pid in log.tail().split())
    with pytest.raises(RuntimeGone):
        await bench.start("true")


async def test_run_returns_code_and_output(bench):
    """A short command is waited for; its output and exit code come back."""
    launch = Launch("x", ("sh", "-c", "echo hi; exit 4"), {"PATH": os.environ["PATH"]}, ".")
    done = await bench.runtime.run(launch, 10)
    assert (done.code, done.output) == (4, "hi")


async def test_run_kills_what_takes_too_long(bench):
    """After its seconds a command is killed and TimeoutError raised."""
    with pytest.raises(TimeoutError):
        await bench.runtime.run(Launch("x", ("sleep", "100"), {"PATH": os.environ["PATH"]}, "."), 0.05)


async def test_a_hundred_at_once_with_large_environments(bench):
    """More than the socket's buffer holds waits for the launcher, in order."""
    started = await asyncio.gather(*(bench.start("sh", "-c", "echo $N", N=str(n), BIG="x" * 20000) for n in range(100)))
    await asyncio.gather(*(done for _, done, _ in started))
    assert [log.tail() for _, _, log in started] == [str(n) for n in range(100)]


@LINUX_ONLY
async def test_a_killed_launcher_takes_its_containers_along_and_is_replaced(bench):
    """No container outlives the launcher unwatched, and the next start has a new one."""
    process, done, _ = await bench.start("sleep", "100")
    os.kill(parent(process.pid), signal.SIGKILL)
    assert (await done).signal == 9
    await until(lambda: not alive(process.pid))
    _, done, _ = await bench.start("true")
    assert (await done).code == 0


_VICTIM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from controller.embedded.logfile import LogWriter
from controller.embedded.runtimes import Launch
from controller.embedded.runtimes.process import ProcessRuntime

async def main():
    folder = Path(sys.argv[1])
    runtime = ProcessRuntime(folder, folder)
    await runtime.open()
    script = "echo $$ >> pids; sleep 100 & echo $! >> pids; setsid sh -c 'echo $$ >> pids; exec sleep 100' & sleep 100"
    launch = Launch("m", ("sh", "-c", script), {"PATH": "/usr/bin:/bin"}, ".")
    await runtime.start(launch, LogWriter(folder / "log"), lambda end: None)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def _victim(folder: Path):
    """A process with a runtime of its own, and the pids of a container's leader, child and daemonised child."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _VICTIM, str(folder), str(ROOT))
    pids = folder / "pids"
    await until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 3)
    return process, [int(line) for line in pids.read_text().split()]


@LINUX_ONLY
async def test_kill_nine_of_the_agent_leaves_no_process(tmp_path):
    """Neither child, grandchild nor what it daemonised."""
    victim, pids = await _victim(tmp_path)
    assert all(alive(pid) for pid in pids)
    victim.kill()
    await victim.wait()
    await until(lambda: not any(alive(pid) for pid in pids))


@LINUX_ONLY
async def test_the_next_life_kills_what_outlived_agent_and_launcher(tmp_path):
    """Both killed at once: PR_SET_PDEATHSIG ends the leader, the journal finds the rest."""
    victim, pids = await _victim(tmp_path)
    launcher = parent(pids[0])
    os.kill(launcher, signal.SIGSTOP)  # so that it can't clean up between the two kills
    victim.kill()
    os.kill(launcher, signal.SIGKILL)
    await victim.wait()
    await until(lambda: not alive(pids[0]))
    runtime = ProcessRuntime(tmp_path, tmp_path)
    await runtime.open()
    await until(lambda: not any(alive(pid) for pid in pids))
    await runtime.close()
