"""A burst from zero: nobody calls, then everybody does.

    locust -f load/locustfile.py --headless --host http://127.0.0.1:8080 --only-summary

`HOST_HEADER` (default `hello.default.localhost`) names the service, `USERS` (default 50) the height of the burst and
`SECONDS` (default 20) its length. The run ends by itself; its exit status is 1 if any request failed, so a cold start
that drops a request is seen.
"""

from __future__ import annotations

import os

from locust import LoadTestShape, constant_throughput, task
from locust.contrib.fasthttp import FastHttpUser

HOST_HEADER = os.environ.get("HOST_HEADER", "hello.default.localhost")
USERS = int(os.environ.get("USERS", "50"))
SECONDS = int(os.environ.get("SECONDS", "20"))


class Caller(FastHttpUser):
    """One client that asks for the service ten times a second, waiting for each answer."""

    wait_time = constant_throughput(10)

    @task
    def get(self) -> None:
        self.client.get("/", headers={"Host": HOST_HEADER}, name=HOST_HEADER)


class BurstFromZero(LoadTestShape):
    """All callers within one second, then a plateau, then the end."""

    def tick(self) -> tuple[int, float] | None:
        return (USERS, float(USERS)) if self.get_run_time() < SECONDS else None
