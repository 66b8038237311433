"""Constant load on a Service."""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.e2e.harness import Platform


class Callers:
    """Requests for the service `hello` without a pause, from a few threads, until told to stop; remembers what came
    back. With a `body` they are POSTs, which nobody may send twice."""

    def __init__(self, platform: Platform, count: int = 4, *, path: str = "/", body: bytes | None = None) -> None:
        self._platform = platform
        self._path, self._body = path, body
        self._stop = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._platform.ask(
                    "hello", self._path, method="POST" if self._body else "GET", body=self._body
                )
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                self._stop.wait(0.01)  # refused: don't spin
            else:
                if answer.status == 200:
                    self.answered += 1
                else:
                    self.failures.append(repr(answer))
