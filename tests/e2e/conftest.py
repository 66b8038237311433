"""A running platform for each test that asks for one, or for a whole module of tests that only look or have a namespace
of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.api import Api
from tests.e2e.harness import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A running platform with nothing on it."""
    platform = Platform(tmp_path)
    platform.start()
    yield platform
    platform.stop()


@pytest.fixture
def stopped_platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform for the test to start."""
    platform = Platform(tmp_path)
    yield platform
    if platform.process is not None:
        platform.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One platform for a module, with the service `hello` on it, Ready and held at one replica."""
    platform = Platform(tmp_path_factory.mktemp("running"))
    platform.start()
    platform.apply(platform.service(annotations={"min-scale": "1"}))
    platform.wait_ready("hello")
    yield platform
    platform.stop()


@pytest.fixture(scope="module")
def api(running: Platform) -> Api:
    """The running platform's API server, as its administrator."""
    return Api(running.kubeconfig)


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A new namespace of the running platform, deleted with all that is in it when the test is over."""
    created = api.post("/api/v1/namespaces", {"metadata": {"generateName": "test-"}})
    assert created.status == 201, created
    name: str = created.json["metadata"]["name"]
    yield name
    api.delete(f"/api/v1/namespaces/{name}")
