"""What a new platform begins with, and what a restart leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from controller.apis import kinds
from controller.apis.meta import Key
from controller.embedded.seed import seed
from controller.kube.client import KubeClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Started = Callable[..., Awaitable[dict[str, dict[str, str]]]]

FILES = Path(__file__).parents[3] / "deploy" / "config"
DEFAULTS = [yaml.safe_load(path.read_text()) for path in sorted(FILES.glob("*.yaml"))]


@pytest.fixture
async def kube(api: Any) -> AsyncIterator[KubeClient]:
    async with KubeClient.from_token(api.url, api.credentials.token, api.credentials.ca) as client:
        yield client


@pytest.fixture
def start(kube: KubeClient) -> Started:
    """A start with a domain and a port; gives every map's data without its documentation."""

    async def start(domain: str = "localhost", port: int = 8080, https_port: int = 0) -> dict[str, dict[str, str]]:
        await seed(kube, DEFAULTS, external_domain=domain, external_port=port, external_https_port=https_port)
        maps = (await kube.list(kinds.CONFIG_MAP, "knative-serving"))["items"]
        return {
            one["metadata"]["name"]: {k: v for k, v in one["data"].items() if k != "_example"}
            for one in maps
            if one["metadata"]["name"].startswith("config-")
        }

    return start


async def change(kube: KubeClient, name: str, **data: str | None) -> None:
    await kube.patch(kinds.CONFIG_MAP, Key("knative-serving", name), {"data": data})


async def test_the_first_start_makes_every_map(start: Started) -> None:
    """Each file of deploy/config is there; of the settings only domain and port are set."""
    maps = await start()
    assert set(maps) == {config_map["metadata"]["name"] for config_map in DEFAULTS}
    assert {name: data for name, data in maps.items() if data} == {
        "config-domain": {"localhost": ""},
        "config-network": {"external-port": "8080"},
    }


async def test_what_the_user_set_stays(start: Started, kube: KubeClient) -> None:
    """A map that is there is the user's: a restart writes no default over it."""
    await start()
    await change(kube, "config-autoscaler", **{"stable-window": "30s", "_example": None})
    await start()
    found = await kube.get(kinds.CONFIG_MAP, Key("knative-serving", "config-autoscaler"))
    assert found["data"] == {"stable-window": "30s"}


async def test_another_domain_replaces_the_default_only(start: Started, kube: KubeClient) -> None:
    """The command line's domain is the one default; domains with a selector are the user's."""
    await start()
    await change(kube, "config-domain", **{"shop.example": "selector: {app: shop}\n"})
    maps = await start(domain="example.com")
    assert maps["config-domain"] == {"example.com": "", "shop.example": "selector: {app: shop}\n"}


async def test_port_80_is_in_no_url(start: Started) -> None:
    """The port of HTTP is not written, and neither is that of an earlier start."""
    await start()
    assert (await start(port=80))["config-network"] == {}


async def test_nothing_to_change_writes_nothing(start: Started, kube: KubeClient) -> None:
    """A restart with the same command line leaves every map at its version."""
    await start()
    before = (await kube.list(kinds.CONFIG_MAP, "knative-serving"))["items"]
    await start()
    assert (await kube.list(kinds.CONFIG_MAP, "knative-serving"))["items"] == before


async def test_the_https_port_is_that_of_the_last_start(start: Started) -> None:
    """Set where there is TLS on another port than 443, gone where there is none."""
    assert (await start(https_port=8443))["config-network"]["external-https-port"] == "8443"
    assert "external-https-port" not in (await start(https_port=443))["config-network"]
    await start(https_port=8443)
    assert "external-https-port" not in (await start())["config-network"]
