"""A gateway worker without anything in flight, for the feed's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.contract import RevisionId


class Idle:
    """No revision shrinks."""

    shrinking: tuple[RevisionId, ...] = ()

    def in_flight(self, _revision: RevisionId) -> None:
        return None
