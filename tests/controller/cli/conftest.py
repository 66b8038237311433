"""An embedded API server in a thread of its own, so that a command can run its own loop as it does in a process."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from controller.cli import main
from controller.config.store import Config
from controller.embedded.admission import Admission
from controller.embedded.apiserver import ApiServer
from controller.embedded.credentials import load_or_create
from controller.embedded.podlogs import PodLogs
from controller.embedded.ports import PortAllocator
from controller.embedded.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

CRDS = Path(__file__).parents[3] / "deploy" / "crds"


def _serve(folder: Path, started: Future[Callable[[], None]]) -> None:
    """Runs in the thread; the result of `started` ends it."""

    async def serve() -> None:
        credentials = load_or_create(folder / "credentials", datetime.now(UTC), kubeconfig=folder / "kubeconfig")
        crds = [crd for path in sorted(CRDS.glob("*.yaml")) for crd in yaml.safe_load_all(path.read_text()) if crd]
        store = Store(folder / "store")
        server = ApiServer(store, credentials, crds, Admission(Config, PortAllocator()), PodLogs(folder / "logs"))
        credentials.write_kubeconfig(await server.start())
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        started.set_result(lambda: loop.call_soon_threadsafe(end.set))
        await end.wait()
        await server.stop()
        store.close()

    try:
        asyncio.run(serve())
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a running API server with no controllers behind it: what is written stays as it was written."""
    folder = tmp_path_factory.mktemp("api")
    started: Future[Callable[[], None]] = Future()
    thread = threading.Thread(target=_serve, args=(folder, started))
    thread.start()
    end = started.result(30)
    yield folder / "kubeconfig"
    end()
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def zerogate(kubeconfig: Path) -> Callable[..., Result]:
    """`zerogate ARGUMENTS…` in this process, against that server; `stdin` is text."""

    def run(*arguments: str, stdin: str | None = None) -> Result:
        environment = {"ZEROGATE_KUBECONFIG": str(kubeconfig)}
        result = CliRunner().invoke(main, arguments, input=stdin, env=environment, prog_name="zerogate")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run
