"""The API server without a client in between: plain HTTPS, by what a kubeconfig says."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MERGE_PATCH = "application/merge-patch+json"


class Reply:
    """A response, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.text = response.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def reason(self) -> str:
        """The machine's word for a failure, from the Status object."""
        return str(self.json["reason"])

    def __repr__(self) -> str:
        return f"<{self.status} {self.text[:200]!r}>"


class Api:
    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.url: str = cluster["server"]
        self.token: str = user["token"]
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=ca)

    def _send(
        self, method: str, path: str, body: Any = None, fields: dict[str, str] | None = None
    ) -> http.client.HTTPSConnection:
        address = urlsplit(self.url)
        connection = http.client.HTTPSConnection(str(address.hostname), address.port, timeout=30, context=self._tls)
        content = None if body is None else json.dumps(body)
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(fields or {})}
        connection.request(method, path, body=content, headers={name: value for name, value in given.items() if value})
        return connection

    def call(self, method: str, path: str, body: Any = None, fields: dict[str, str] | None = None) -> Reply:
        """One request; a field given as "" is not sent."""
        with contextlib.closing(self._send(method, path, body, fields)) as connection:
            return Reply(connection.getresponse())

    def get(self, path: str) -> Reply:
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> Reply:
        return self.call("POST", path, body)

    def put(self, path: str, body: Any) -> Reply:
        return self.call("PUT", path, body)

    def patch(self, path: str, body: Any) -> Reply:
        return self.call("PATCH", path, body, {"Content-Type": MERGE_PATCH})

    def delete(self, path: str, body: Any = None) -> Reply:
        return self.call("DELETE", path, body)

    @contextlib.contextmanager
    def watch(self, path: str) -> Iterator[Iterator[Any]]:
        """The events of a watch, each as it comes."""
        with contextlib.closing(self._send("GET", path)) as connection:
            response = connection.getresponse()
            assert response.status == 200, response.read()
            yield (json.loads(line) for line in iter(response.readline, b""))
