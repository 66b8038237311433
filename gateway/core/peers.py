"""What the workers of one installation say to each other about places, and its codec.

A worker that wants a place at a revision that another one deals out asks for it, and tells when the request there is
over; see `gateway.core.ownership` for what it means. On the way from the borrower to the owner:

    Hold    where its requests are, and which wait for a place of the owner's; what it said before is void
    Ask     for a place at a revision; Cancel takes it back
    Free    a request at a place is over
    Fail    a place took no connection

and from the owner to the borrower `Grant` or `Refuse`, with the number of the last Hold that the owner had: the
borrower drops those of a former one.

A message is a JSON array, its name first, on a line of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from gateway.contract import RevisionId
from gateway.core.throttler import PlaceId

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Ask", "Cancel", "Fail", "Free", "Grant", "Hold", "Message", "PeerError", "Refuse", "parse", "serialise"]


class PeerError(ValueError):
    """A line that is no message of this module; the text says what was wrong with it."""


class Hold(NamedTuple):
    """By the list of the workers that is called `epoch`: all places that the borrower's own requests are at, and how
    many; and its Asks that wait for the owner, oldest first. `serial` numbers the borrower's Holds to this owner."""

    serial: int
    epoch: str
    uses: Mapping[RevisionId, Mapping[PlaceId, int]]
    asks: Mapping[RevisionId, tuple[int, ...]]


class Ask(NamedTuple):
    """`number` is unique among the borrower's."""

    number: int
    revision: RevisionId


class Cancel(NamedTuple):
    """The request does not wait any more. If its Grant is on its way, the borrower gives the place back."""

    number: int


class Free(NamedTuple):
    """One request less at the place."""

    revision: RevisionId
    place: PlaceId


class Fail(NamedTuple):
    """The place took no connection: it is to be probed. It is not given back by this."""

    revision: RevisionId
    place: PlaceId


class Grant(NamedTuple):
    """A place for the request that asked."""

    serial: int
    number: int
    revision: RevisionId
    place: PlaceId


class Refuse(NamedTuple):
    """There is no place for the request that asked, nor will there be. `reason` is the name of the error's class in
    `gateway.errors`, `text` what it says."""

    serial: int
    number: int
    reason: str
    text: str


Message = Hold | Ask | Cancel | Free | Fail | Grant | Refuse


def serialise(message: Message) -> bytes:
    """The message's line."""
    match message:
        case Hold(serial, epoch, uses, asks):
            used = [[*key, [[*place, count] for place, count in places.items()]] for key, places in uses.items()]
            body: list[Any] = ["hold", serial, epoch, used, [[*key, numbers] for key, numbers in asks.items()]]
        case Ask(number, revision):
            body = ["ask", number, *revision]
        case Cancel(number):
            body = ["cancel", number]
        case Free(revision, place):
            body = ["free", *revision, *place]
        case Fail(revision, place):
            body = ["fail", *revision, *place]
        case Grant(serial, number, revision, place):
            body = ["grant", serial, number, *revision, *place]
        case Refuse(serial, number, reason, text):
            body = ["refuse", serial, number, reason, text]
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)


def parse(line: bytes) -> Message:
    """The message in a line. Raises PeerError for anything else."""
    try:
        return _message(orjson.loads(line))
    except PeerError:
        raise
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise PeerError(f"not a message between workers: {error!r} in {line[:200]!r}") from error


def _message(body: list[Any]) -> Message:
    match body:
        case ["ask", int(number), str(namespace), str(name)]:
            return Ask(number, RevisionId(namespace, name))
        case ["grant", int(serial), int(number), str(namespace), str(name), *place]:
            return Grant(serial, number, RevisionId(namespace, name), _place(place))
        case ["free", str(namespace), str(name), *place]:
            return Free(RevisionId(namespace, name), _place(place))
        case ["cancel", int(number)]:
            return Cancel(number)
        case ["fail", str(namespace), str(name), *place]:
            return Fail(RevisionId(namespace, name), _place(place))
        case ["refuse", int(serial), int(number), str(reason), str(text)]:
            return Refuse(serial, number, reason, text)
        case ["hold", int(serial), str(epoch), list(uses), list(asks)]:
            used = {RevisionId(str(ns), str(name)): _places(places) for ns, name, places in uses}
            waiting = {RevisionId(str(ns), str(name)): tuple(map(int, numbers)) for ns, name, numbers in asks}
            return Hold(serial, epoch, used, waiting)
    raise PeerError(f"unknown message {str(body)[:200]}")


def _place(body: list[Any]) -> PlaceId:
    host, port, pod = body
    return PlaceId(str(host), int(port), str(pod))


def _places(body: list[list[Any]]) -> dict[PlaceId, int]:
    return {_place(place): _count(count) for *place, count in body}


def _count(count: Any) -> int:
    if not isinstance(count, int) or count < 1:
        raise PeerError(f"{count!r} requests can't be in flight")
    return count
