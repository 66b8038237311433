"""Both twins of the HTTP/1.1 codec, for tests that hold for either."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gateway.core import http1

if TYPE_CHECKING:
    from gateway.core.http1 import Codec


@pytest.fixture(scope="session", params=["python", "compiled"])
def codec(request: pytest.FixtureRequest) -> Codec:
    """The codec in Python, then the one in C where it was built; CI must have built it."""
    if request.param == "python":
        return http1.PYTHON
    if http1.COMPILED is None:
        if os.environ.get("ZEROGATE_REQUIRE_PEERS") == "1":
            pytest.fail("the compiled codec was not built: is there a C compiler, and Python's headers?")
        pytest.skip("the compiled codec was not built")
    return http1.COMPILED
