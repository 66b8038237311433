"""A revision's limit over several workers: one of them deals out its places, the others borrow from it.

Theory of operation
-------------------
**One owner.** Each worker knows who the workers are from the controller (`gateway.contract.Peers`) and finds the owner
of a revision by itself, with the highest random weight (Thaler and Ravishankar, 1998): a worker that comes takes its
share from all others, one that goes leaves its share to all others, and nothing else changes hands. The owner has all
of a revision's places, not each worker some: one queue then sees every place, and so nobody waits beside a free one.

**Borrowing.** A worker that does not own the revision of a request asks the owner for a place. There the ask waits in
the same queue as the owner's own requests, first come, first served; when it gets a place the borrower sends the
request there itself, and tells the owner when it is over. What is relayed is the ask and not the request, since bytes
through a second worker would cost a proxy's work once more, count and log the request twice, and add a hop to each
piece of a stream; this costs three lines of a hundred bytes, however long the content is. Time-outs and cancels stay
with the borrower, whose client it is.

**Counting.** A place's count is what the endpoint really has. At the owner that is its own requests and all loans
(`_Peer.held`), at a borrower its own only. When the owner changes, each worker tells the new one how many of its
requests are at each place, and forgets what it had lent.

**Changing hands** takes two steps. A worker that learns of a new list of workers stops dealing out what it does not
own any more, and sends everybody on it a `Hold` with the list's name: what it has in flight, and what waits for a
place of the other's. A new owner deals out a place only when it has such a Hold from all workers on its own list; so
no two ever deal out the same revision's places, and a long request blocks one slot only, not the change. A revision
that keeps its owner is dealt out all the while.

A Hold makes everything between two workers start over, so that nothing before it matters: the owner's loans to that
worker are what it says, the asks that wait are those which it names (they keep their turn), and the borrower drops a
grant that was sent before the owner had the Hold (they carry its `serial`). That makes lost connections, lists seen in
another order and lists never seen by one of the two the same simple case. The channel keeps the order of what one
worker says to another; between different ones there is none, and none is needed.

**Who is gone.** The loans of a worker end when it is neither on the list nor connected: on the list alone it may come
back and still have its requests; connected alone it lives, and was cut off from the controller only. A worker that is
not on the list which it holds deals out nothing. Before the first list of all a worker is alone and deals out
everything, unless the controller says that a list is to come (`Peers` without an epoch). If the controller is away
when a worker dies, the others agree on the list without it by themselves (`on_death`).

**What it does not cover.** Workers without a common list count each for itself: those that were started from a
snapshot file while the controller is away, and a worker that the controller has lost sight of while others have not,
for the moment until it has connected again. Endpoints then may have more than their limit; the owner counts what is
there and deals out nothing until it is within the limit.

Waiters are the throttlers': the caller's own (T), and those of other workers (`Borrower`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from gateway.core.peers import Ask, Cancel, Fail, Free, Grant, Hold, Refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.contract import Peers, RevisionId
    from gateway.core.peers import Message
    from gateway.core.throttler import Place, PlaceId, Throttler, Woken

__all__ = ["Borrower", "Ledger", "Sink", "owner_of"]

T = TypeVar("T", bound=Hashable)
W = TypeVar("W", bound=Hashable, contravariant=True)


def owner_of(revision: RevisionId, workers: Iterable[str]) -> str | None:
    """The one of these workers that deals out the revision's places: of each the same share, and the same answer
    everywhere. None if there are no workers. (A new list costs a worker 1.3 µs for each revision and worker: 50 ms for
    ten thousand revisions with a limit and four workers.)"""
    return max(workers, key=lambda worker: _weight(worker, revision), default=None)


def _weight(worker: str, revision: RevisionId) -> tuple[bytes, str]:
    text = f"{worker}\n{revision.namespace}\n{revision.name}"
    return blake2b(text.encode(), digest_size=8).digest(), worker


class Borrower(NamedTuple):
    """Another worker's request in the queue of one of our throttlers."""

    peer: str
    number: int


class Sink(Protocol[W]):
    """What a ledger does."""

    def send(self, peer: str, message: Message) -> None:
        """Over the channel to or from another worker: asks to an owner that is connected, answers to a borrower."""

    def wake(self, waiter: W, place: Place) -> bool:
        """The waiter has its place; False if it is not there any more, and the place goes to somebody else."""

    def refuse(self, waiter: W, reason: str, text: str) -> None:
        """The owner has no place for the waiter: see `gateway.core.peers.Refuse`."""

    def suspect(self, revision: RevisionId, place: Place) -> None:
        """A borrower met a place that took no connection."""


class _Peer:
    """Another worker. As an owner that we ask: `is_reachable` says that our channel to it is open, `sent` is the number
    of our last Hold. As a borrower: `is_here` says that its channel to us is open, `epoch` and `serial` are of its last
    Hold, `held` where its requests are (loans, where the place is ours), `asks` the revisions of its asks that wait,
    and `waiting` how many of each."""

    __slots__ = ("asks", "epoch", "held", "is_here", "is_reachable", "sent", "serial", "waiting")

    def __init__(self) -> None:
        self.is_reachable = False
        self.sent = 0
        self.is_here = False
        self.epoch: str | None = None
        self.serial = 0
        self.held: dict[RevisionId, Counter[PlaceId]] = {}
        self.asks: dict[int, RevisionId] = {}
        self.waiting: Counter[RevisionId] = Counter()


class Ledger(Generic[T]):
    """What one worker owns, has lent and has borrowed, of the revisions with a limit.

    `name` is this worker's. A borrower may have `queue_limit` asks for one revision, and `worker_queue_limit` in all.
    """

    def __init__(self, name: str, sink: Sink[T], *, queue_limit: int, worker_queue_limit: int) -> None:
        self._name = name
        self._sink = sink
        self._queue_limit = queue_limit
        self._worker_queue_limit = worker_queue_limit
        self._told: Peers | None = None  # the controller's list
        self._dead: set[str] = set()  # on it, but gone
        self._epoch: str | None = None
        self._waits_for_list = False
        self._others: frozenset[str] = frozenset()  # on the list
        self._owners: frozenset[str] = frozenset()  # of them, with this one, those that may own
        self._throttlers: dict[RevisionId, Throttler[T | Borrower]] = {}
        self._owner: dict[RevisionId, str | None] = {}  # of each of those
        self._peers: dict[str, _Peer] = {}
        self._numbers: dict[T, int] = {}  # of our asks
        self._asked: dict[int, tuple[RevisionId, T]] = {}
        self._last_number = 0
        self.borrowed = 0
        """Places that others have granted, since the start."""

    @property
    def lent(self) -> int:
        """Requests of other workers that are at places of ours."""
        owner, name = self._owner, self._name
        held = (one for peer in self._peers.values() for one in peer.held.items() if owner.get(one[0]) == name)
        return sum(places.total() for _, places in held)

    @property
    def asks(self) -> int:
        """Requests of other workers that wait here."""
        return sum(len(peer.asks) for peer in self._peers.values())

    def __contains__(self, revision: RevisionId) -> bool:
        """Whether it has been added."""
        return revision in self._throttlers

    # --- what the worker's own requests do ----------------------------------------------------------------------------

    def add(self, revision: RevisionId, throttler: Throttler[T | Borrower]) -> None:
        """A revision with a limit is known here from now on."""
        self._throttlers[revision] = throttler
        self._owner[revision] = None
        throttler.hold_back(partial(self._returned, revision))
        self._assign(revision, throttler)
        for name, peer in self._peers.items():
            early = [number for number, wanted in peer.asks.items() if wanted == revision] if peer.asks else ()
            for number in early:
                self._serve(Borrower(name, number), peer, revision, throttler)
        if self._is_complete:
            self._deal(revision, throttler)

    def remove(self, revision: RevisionId) -> None:
        """It is known no more; `clear` its queue first."""
        self._throttlers.pop(revision, None)
        self._owner.pop(revision, None)

    def asked(self, revision: RevisionId, waiter: T) -> None:
        """A request of ours waits in the revision's throttler: its owner is to know."""
        owner = self._owner.get(revision)
        if owner is not None and owner != self._name:
            peer = self._peers[owner]
            if peer.is_reachable:
                self._sink.send(owner, Ask(self._number(revision, waiter), revision))

    def cancel(self, revision: RevisionId, throttler: Throttler[T | Borrower], waiter: T) -> bool:
        """The request leaves the queue; False if it was not in it (any more)."""
        if not throttler.cancel(waiter):
            return False
        self._withdraw(revision, waiter)
        return True

    def clear(self, revision: RevisionId, throttler: Throttler[T | Borrower], reason: str, text: str) -> list[T]:
        """Empty the queue. The requests of other workers are told why; ours are returned, oldest first."""
        ours: list[T] = []
        for waiter in throttler.clear():
            if isinstance(waiter, Borrower):
                self._refuse(waiter, reason, text)
            else:
                self._withdraw(revision, waiter)
                ours.append(waiter)
        return ours

    def failed(self, revision: RevisionId, place: Place) -> None:
        """A place that we have from the owner took no connection."""
        self._tell_owner(revision, Fail(revision, place.id))

    def others_waiting(self, revision: RevisionId) -> int:
        """Requests of other workers in the revision's queue."""
        return sum(peer.waiting[revision] for peer in self._peers.values())

    def dispatch(self, revision: RevisionId, throttler: Throttler[T | Borrower], woken: Woken[T | Borrower]) -> None:
        """Tell waiters of their places; a place whose waiter has left goes to the next."""
        pending = list(reversed(woken))
        while pending:
            waiter, place = pending.pop()
            if isinstance(waiter, Borrower):
                self._lend(waiter, revision, place)
            elif not self._sink.wake(waiter, place):
                pending.extend(reversed(throttler.release(place)))

    # --- who the workers are ------------------------------------------------------------------------------------------

    def on_peers(self, peers: Peers) -> None:
        """The controller's list of the workers."""
        if peers.epoch:
            self._told = peers
            self._dead = set()
            self._follow()
        elif self._told is None and not self._throttlers:
            # Who deals already goes on until there is a list: it was started without a controller.
            self._waits_for_list = True

    def on_death(self, name: str) -> None:
        """A worker on the list is gone, and the controller is not there to say so. Whoever else sees it makes the same
        list of what is left, under the same name."""
        if self._told is not None and name in self._others:
            self._dead.add(name)
            self._follow()

    def _follow(self) -> None:
        """Take over the list as it is now."""
        told = self._told
        assert told is not None
        present = [peer for peer in told.workers if peer.name not in self._dead]
        epoch = "!".join((told.epoch, *sorted(self._dead)))
        if epoch == self._epoch:
            return
        was_alone = self._epoch is None
        self._epoch = epoch
        names = frozenset(peer.name for peer in present)
        staying = frozenset(peer.name for peer in present if not peer.leaving)
        self._others = names - {self._name}
        # Not on the list, it knows of no owner: others may deal out by a list that this one has not seen.
        self._owners = (staying or names) if self._name in names else frozenset()
        for name in self._others:
            self._peers.setdefault(name, _Peer())
        for name in [name for name, peer in self._peers.items() if name not in self._others and not peer.is_here]:
            self._forget(name)
        for revision, throttler in self._throttlers.items():
            if was_alone:
                throttler.hold_back(partial(self._returned, revision))
            self._assign(revision, throttler)
        for name in self._others:  # to those who own nothing (any more) as well: what they lent is void
            if self._peers[name].is_reachable:
                self._hold(name)
        self._deal_all()

    def _assign(self, revision: RevisionId, throttler: Throttler[T | Borrower]) -> None:
        """Find the revision's owner, and count what it is to count."""
        before = self._owner[revision]
        if self._epoch is None:
            owner = None if self._waits_for_list else self._name
        else:
            owner = owner_of(revision, self._owners)
        self._owner[revision] = owner
        if owner == before:
            return
        if before == self._name:
            throttler.hold_back(partial(self._returned, revision))
            throttler.shift({place: -count for place, count in self._loans(revision).items()})
        if owner == self._name:
            throttler.shift(self._loans(revision))
        for waiter in throttler.waiters:
            if not isinstance(waiter, Borrower):
                self._forget_ask(waiter)

    def _loans(self, revision: RevisionId) -> Counter[PlaceId]:
        loans: Counter[PlaceId] = Counter()
        for peer in self._peers.values():
            loans.update(peer.held.get(revision, ()))
        return loans

    @property
    def _is_complete(self) -> bool:
        """Everybody on the list has said what it has at our places."""
        return all(self._peers[name].epoch == self._epoch for name in self._others)

    def _deal_all(self) -> None:
        if self._is_complete:
            for revision, throttler in self._throttlers.items():
                self._deal(revision, throttler)

    def _deal(self, revision: RevisionId, throttler: Throttler[T | Borrower]) -> None:
        if self._owner[revision] == self._name and not throttler.deals:
            self.dispatch(revision, throttler, throttler.deal())

    # --- the channels -------------------------------------------------------------------------------------------------

    def on_reachable(self, name: str) -> None:
        """Our channel to another worker is open: it may be asked."""
        self._peers.setdefault(name, _Peer()).is_reachable = True
        self._hold(name)

    def on_unreachable(self, name: str) -> None:
        """It is not, any more. What waits is asked for again when it is."""
        peer = self._peers.get(name)
        if peer is not None:
            peer.is_reachable = False

    def on_arrival(self, name: str) -> None:
        """Another worker has opened its channel to us."""
        self._peers.setdefault(name, _Peer()).is_here = True

    def on_departure(self, name: str) -> None:
        """That channel has ended. The worker keeps its loans as long as it is on the list."""
        peer = self._peers.get(name)
        if peer is None:
            return
        peer.is_here = False
        self._drop_asks(name, peer)
        if name not in self._others:
            self._forget(name)

    def on_message(self, name: str, message: Message) -> None:
        """From another worker, in the order in which it sent them."""
        peer = self._peers.get(name)
        if peer is None:
            return
        match message:
            case Ask(number, revision):
                self._on_ask(name, peer, number, revision)
            case Grant(serial, number, revision, place) if serial == peer.sent:
                self._on_grant(number, revision, place)
            case Free(revision, place):
                self._on_free(peer, revision, place)
            case Cancel(number):
                self._on_cancel(name, peer, number)
            case Refuse(serial, number, reason, text) if serial == peer.sent:
                self._on_refuse(number, reason, text)
            case Fail(revision, place):
                throttler = self._throttlers.get(revision)
                if throttler is not None and self._owner[revision] == self._name:
                    self._sink.suspect(revision, throttler.place(place))
            case Hold():
                self._on_hold(name, peer, message)

    def _hold(self, name: str) -> None:
        """Begin anew with an owner."""
        peer = self._peers[name]
        peer.sent += 1
        epoch = self._epoch
        if epoch is None:
            return  # nobody owns anything by a list that we have not; the Hold follows it
        uses = {revision: used for revision in self._throttlers if (used := self._own_uses(revision))}
        owned = [(revision, self._throttlers[revision]) for revision, owner in self._owner.items() if owner == name]
        asks = {revision: numbers for revision, throttler in owned if (numbers := self._numbered(revision, throttler))}
        self._sink.send(name, Hold(peer.sent, epoch, uses, asks))

    def _own_uses(self, revision: RevisionId) -> Mapping[PlaceId, int]:
        """Our own requests at the revision's places. Everybody is told of all of them: who has not heard of the list
        yet may deal out what is another's by now, and must not think that we have left."""
        used = self._throttlers[revision].used
        if used and self._owner[revision] == self._name:
            return Counter(used) - self._loans(revision)
        return used

    def _numbered(self, revision: RevisionId, throttler: Throttler[T | Borrower]) -> tuple[int, ...]:
        if not throttler.waiting:
            return ()
        return tuple(self._number(revision, one) for one in throttler.waiters if not isinstance(one, Borrower))

    # --- as the owner -------------------------------------------------------------------------------------------------

    def _on_hold(self, name: str, peer: _Peer, hold: Hold) -> None:
        wanted = {number: revision for revision, numbers in hold.asks.items() for number in numbers}
        for number, revision in list(peer.asks.items()):
            if wanted.get(number) != revision:
                self._on_cancel(name, peer, number)
        fresh = [(number, revision) for number, revision in wanted.items() if number not in peer.asks]
        before, peer.held = peer.held, {revision: Counter(uses) for revision, uses in hold.uses.items()}
        peer.serial, peer.epoch = hold.serial, hold.epoch
        for revision in before.keys() | peer.held.keys():
            throttler = self._throttlers.get(revision)
            if throttler is not None and self._owner[revision] == self._name:
                change = Counter(peer.held.get(revision, ()))
                change.subtract(before.get(revision, ()))
                self.dispatch(revision, throttler, throttler.shift(change))
        for number, revision in fresh:
            self._on_ask(name, peer, number, revision)
        self._deal_all()

    def _on_ask(self, name: str, peer: _Peer, number: int, revision: RevisionId) -> None:
        if number in peer.asks:
            return
        peer.asks[number] = revision
        peer.waiting[revision] += 1
        borrower = Borrower(name, number)
        if len(peer.asks) > self._worker_queue_limit:
            self._refuse(
                borrower, "QueueFull", f"{len(peer.asks) - 1} requests of gateway worker {name} wait, too many"
            )
            return
        throttler = self._throttlers.get(revision)
        if throttler is not None:  # else its controller told it sooner than us; `add` sees to it
            self._serve(borrower, peer, revision, throttler)

    def _serve(self, borrower: Borrower, peer: _Peer, revision: RevisionId, throttler: Throttler[T | Borrower]) -> None:
        place = throttler.try_acquire(0.0)
        if place is not None:
            self._lend(borrower, revision, place)
            return
        others = throttler.waiting - peer.waiting[revision] + 1  # it counts itself already
        if not throttler.enqueue(borrower, 0.0, others=others):
            text = f"{peer.waiting[revision] - 1} requests wait for revision {revision}, which is as many as may"
            self._refuse(borrower, "QueueFull", text)

    def _lend(self, borrower: Borrower, revision: RevisionId, place: Place) -> None:
        peer = self._peers[borrower.peer]
        self._answered(peer, borrower.number)
        peer.held.setdefault(revision, Counter())[place.id] += 1
        self._sink.send(borrower.peer, Grant(peer.serial, borrower.number, revision, place.id))

    def _refuse(self, borrower: Borrower, reason: str, text: str) -> None:
        peer = self._peers[borrower.peer]
        self._answered(peer, borrower.number)
        self._sink.send(borrower.peer, Refuse(peer.serial, borrower.number, reason, text))

    def _on_free(self, peer: _Peer, revision: RevisionId, place_id: PlaceId) -> None:
        held = peer.held.get(revision)
        if held is None or not held[place_id]:
            return
        held[place_id] -= 1
        if not held[place_id]:
            del held[place_id]
            if not held:
                del peer.held[revision]
        throttler = self._throttlers.get(revision)
        if throttler is not None and self._owner[revision] == self._name:
            self.dispatch(revision, throttler, throttler.release(throttler.place(place_id)))

    def _on_cancel(self, name: str, peer: _Peer, number: int) -> None:
        revision = peer.asks.get(number)
        if revision is not None:
            self._answered(peer, number)
            throttler = self._throttlers.get(revision)
            if throttler is not None:
                throttler.cancel(Borrower(name, number))

    def _drop_asks(self, name: str, peer: _Peer) -> None:
        for number in list(peer.asks):
            self._on_cancel(name, peer, number)

    def _answered(self, peer: _Peer, number: int) -> None:
        revision = peer.asks.pop(number)
        peer.waiting[revision] -= 1
        if not peer.waiting[revision]:
            del peer.waiting[revision]

    def _forget(self, name: str) -> None:
        """A worker that is neither on the list nor connected: its requests ended with it."""
        peer = self._peers.pop(name)
        for revision, held in peer.held.items():
            throttler = self._throttlers.get(revision)
            if throttler is not None and self._owner[revision] == self._name:
                self.dispatch(revision, throttler, throttler.shift({place: -count for place, count in held.items()}))

    # --- as a borrower ------------------------------------------------------------------------------------------------

    def _on_grant(self, number: int, revision: RevisionId, place_id: PlaceId) -> None:
        found = self._asked.get(number)
        throttler = self._throttlers.get(revision)
        if found is None or throttler is None:
            self._tell_owner(revision, Free(revision, place_id))  # it crossed with our Cancel
            return
        waiter = found[1]
        self._forget_ask(waiter)
        throttler.cancel(waiter)
        throttler.shift({place_id: 1})
        place = throttler.place(place_id)
        self.borrowed += 1
        if not self._sink.wake(waiter, place):
            throttler.release(place)

    def _on_refuse(self, number: int, reason: str, text: str) -> None:
        found = self._asked.get(number)
        if found is not None:
            revision, waiter = found
            self._forget_ask(waiter)
            self._throttlers[revision].cancel(waiter)
            self._sink.refuse(waiter, reason, text)

    def _returned(self, revision: RevisionId, place: Place) -> None:
        """A throttler that is held back tells of a request that is over."""
        self._tell_owner(revision, Free(revision, place.id))

    def _withdraw(self, revision: RevisionId, waiter: T) -> None:
        number = self._forget_ask(waiter)
        if number is not None:
            self._tell_owner(revision, Cancel(number))

    def _tell_owner(self, revision: RevisionId, message: Message) -> None:
        """If it is another worker, and there; else the next Hold will say it."""
        owner = self._owner.get(revision) or owner_of(revision, self._owners)
        if owner is not None and owner != self._name and self._peers[owner].is_reachable:
            self._sink.send(owner, message)

    def _number(self, revision: RevisionId, waiter: T) -> int:
        number = self._numbers.get(waiter)
        if number is None:
            self._last_number += 1
            number = self._numbers[waiter] = self._last_number
            self._asked[number] = (revision, waiter)
        return number

    def _forget_ask(self, waiter: T) -> int | None:
        number = self._numbers.pop(waiter, None)
        if number is not None:
            del self._asked[number]
        return number
