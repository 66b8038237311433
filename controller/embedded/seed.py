"""What a platform on one machine begins with: the control plane's ConfigMaps.

Maps that are not there yet are made from deploy/config, the files a cluster gets. A map that is there is the user's:
only the keys that `zerogate up` itself decides (the domain and the ports that URLs carry) are written at each start,
because the command line that started it is newer than they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.apis import kinds
from controller.apis.meta import JsonObject, Key
from controller.config import domain, network
from controller.config.store import NAMESPACE
from controller.kube.errors import AlreadyExists

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controller.kube.client import Kube

_MANAGER = "zerogate-up"


async def seed(
    kube: Kube,
    defaults: Iterable[JsonObject],
    *,
    external_domain: str,
    external_port: int,
    external_https_port: int = 0,
) -> None:
    """Make the ConfigMaps of `defaults` that are missing, and set domain and ports (0 for https: none is served).
    Raises KubeError."""
    for config_map in defaults:
        try:
            await kube.create(kinds.CONFIG_MAP, config_map)
        except AlreadyExists:
            continue
    await _set(kube, domain.NAME, await _domains(kube, external_domain))
    ports = {
        "external-port": str(external_port) if external_port != 80 else None,
        "external-https-port": str(external_https_port) if external_https_port not in (0, 443) else None,
    }
    await _set(kube, network.NAME, ports)


async def _domains(kube: Kube, external_domain: str) -> dict[str, str | None]:
    """The domain of this start as the default, and no other default: entries with a selector are the user's."""
    current = await kube.get(kinds.CONFIG_MAP, Key(NAMESPACE, domain.NAME))
    data = current.get("data") or {}
    others: dict[str, str | None] = {name: None for name, value in data.items() if not value.strip()}
    return {**others, external_domain: ""}


async def _set(kube: Kube, name: str, data: dict[str, str | None]) -> None:
    body: JsonObject = {"data": data}
    await kube.patch(kinds.CONFIG_MAP, Key(NAMESPACE, name), body, field_manager=_MANAGER)
