"""What the tests of all ConfigMaps share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from controller.config.reading import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@pytest.fixture
def refusal() -> Callable[[Callable[[Mapping[str, str]], Any], dict[str, str]], str]:
    """Parses data that must be refused and gives the text of the error."""

    def parse(parser: Callable[[Mapping[str, str]], Any], data: dict[str, str]) -> str:
        with pytest.raises(ConfigError) as caught:
            parser(data)
        return str(caught.value)

    return parse
