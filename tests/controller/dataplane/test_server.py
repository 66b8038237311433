import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from controller.dataplane import server as feed
from controller.dataplane.compile import Delta
from controller.dataplane.server import FeedServer
from gateway.contract import (
    FEED_PATH,
    Ack,
    Hello,
    InFlight,
    Leaving,
    Peer,
    Peers,
    Revision,
    RevisionId,
    RouteId,
    RouteRule,
    Split,
    Stat,
    Stats,
    Update,
    parse_message,
    serialise_message,
)
from gateway.feed import Feed
from tests.idle import Idle
from tests.polling import until

ROUTE, OTHER = RouteId("ns", "r"), RouteId("ns", "s")
REVISION = RevisionId("ns", "rev")


def delta(route=ROUTE, host="h"):
    return Delta({route: (RouteRule(host, (Split(REVISION, 100),)),)}, {REVISION: Revision(REVISION)})


class Client:
    """One gateway worker's end, by hand."""

    def __init__(self, socket):
        self.socket = socket

    async def say(self, message):
        await self.socket.send_str(serialise_message(message))

    async def hear(self, kind=(Update, aiohttp.WSMessage)):
        """The next update, or message of another `kind`; or the connection's end."""
        while True:
            async with asyncio.timeout(10):
                frame = await self.socket.receive()
            message = parse_message(frame.data) if frame.type is aiohttp.WSMsgType.TEXT else frame
            if isinstance(message, kind):
                return message

    async def peers(self):
        """The next list of the workers: its epoch, and their names and whether they leave."""
        peers = await self.hear(Peers)
        return peers.epoch, {peer.name: peer.leaving for peer in peers.workers}

    async def closed(self):
        while True:
            heard = await self.hear()
            if isinstance(heard, aiohttp.WSMessage):
                return heard.data


class Bench:
    def __init__(self, server, connect):
        self.server, self.connect = server, connect
        self.stats, self.in_flight, self.gone, self.told = [], [], [], []
        self.carriers = []


@pytest.fixture
async def bench(request):
    """A FeedServer on a real port, and `connect(name)` for workers."""
    events = Bench(None, None)
    options = getattr(request, "param", {})
    events.server = FeedServer(
        "secret",
        on_stats=lambda worker, stats: events.stats.append((worker, stats)),
        on_in_flight=lambda *told: events.in_flight.append(told),
        on_carriers=lambda: events.carriers.append(events.server.carriers),
        on_disconnect=events.gone.append,
        on_programmed=events.told.append,
        **options,
    )
    async with contextlib.AsyncExitStack() as stack:
        server = TestServer(events.server.app)
        await server.start_server()
        stack.push_async_callback(server.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def connect(name="w1", token="secret", hello=True):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            socket = await session.ws_connect(server.make_url(FEED_PATH), headers=headers)
            client = Client(socket)
            if hello:
                await client.say(Hello(name, f"{name}:1"))
            return client

        events.connect = connect
        events.stop = server.close
        events.url = str(server.make_url(FEED_PATH)).replace("http", "ws", 1)
        yield events


@pytest.mark.parametrize("token", ["", "wrong", "secre", "secret2", "sécret"])
async def test_only_the_token_lets_in(bench, token):
    """No token, or another, is 401 before anything is said."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await bench.connect(token=token)
    assert refused.value.status == 401


def test_an_empty_token_is_refused():
    """It would let everybody in."""
    with pytest.raises(ValueError, match="token"):
        FeedServer(
            "",
            on_stats=lambda *_: None,
            on_in_flight=lambda *_: None,
            on_carriers=lambda: None,
            on_disconnect=lambda _: None,
            on_programmed=lambda _: None,
        )


async def test_the_whole_state_first_then_changes(bench):
    """Hello is answered with base 0, each change starts from the version before."""
    bench.server.publish(delta())
    client = await bench.connect()
    whole = await client.hear()
    assert (whole.base, whole.version) == (0, 1)
    assert list(whole.routes) == [ROUTE]
    bench.server.publish(delta(OTHER))
    change = await client.hear()
    assert (change.base, change.version, list(change.routes)) == (1, 2, [OTHER])
    bench.server.publish(Delta({ROUTE: None}, {}))
    assert (await client.hear()).routes == {ROUTE: None}
    late = await (await bench.connect("w2")).hear()
    assert (late.base, late.version, list(late.routes)) == (0, 3, [OTHER])


async def test_nothing_is_sent_before_the_first_publication(bench):
    """A gateway with a snapshot from before must not get an empty one while the controller still reads."""
    client = await bench.connect()
    await until(lambda: bench.server.workers)
    bench.server.publish(Delta())
    first = await client.hear()
    assert (first.base, first.version, first.routes) == (0, 1, {})
    bench.server.publish(Delta())
    bench.server.publish(delta())
    assert (await client.hear()).version == 2


async def test_stats_and_disconnects_are_told(bench):
    """Who reported what, and who is gone."""
    client = await bench.connect()
    stat = Stat(REVISION, 1.0, 1.0)
    await client.say(Stats((stat,)))
    await until(lambda: bench.stats)
    assert bench.stats == [("w1", (stat,))]
    await client.socket.close()
    await until(lambda: bench.gone)
    assert bench.gone == ["w1"]


async def test_a_route_is_programmed_when_every_worker_has_acknowledged_it(bench):
    """None without workers, False while somebody is missing, True from then on, whoever joins or leaves."""
    server = bench.server
    server.publish(delta())
    assert server.programmed(ROUTE) is None
    one, two = await bench.connect("w1"), await bench.connect("w2")
    await until(lambda: len(server.workers) == 2)
    assert server.programmed(ROUTE) is False
    await one.say(Ack(1))
    await until(lambda: any(worker.acknowledged for worker in server._workers.values()))
    assert server.programmed(ROUTE) is False
    bench.told.clear()
    await two.say(Ack(1))
    await until(lambda: bench.told)
    assert bench.told == [ROUTE]
    assert server.programmed(ROUTE) is True

    server.publish(delta(OTHER))
    assert (server.programmed(ROUTE), server.programmed(OTHER)) == (True, False)
    await one.say(Ack(2))
    await two.socket.close()
    await until(lambda: server.programmed(OTHER))
    three = await bench.connect("w3")
    await until(lambda: "w3" in server.workers)
    assert server.programmed(ROUTE) is True
    assert (await three.hear()).base == 0
    assert server.programmed(RouteId("ns", "unknown")) is False


async def test_a_newer_change_needs_a_newer_acknowledgement(bench):
    """An acknowledgement of version 1 says nothing about what version 2 brought."""
    bench.server.publish(delta())
    client = await bench.connect()
    await client.hear()
    bench.server.publish(delta(host="other"))
    await client.say(Ack(1))
    await client.say(Stats(()))
    await until(lambda: bench.stats)
    assert bench.server.programmed(ROUTE) is False
    await client.say(Ack(2))
    await until(lambda: bench.server.programmed(ROUTE))


async def test_a_worker_that_does_not_keep_up_is_cut_off(bench, monkeypatch):
    """Its queue is bounded; the others are not held up, and when it comes back it gets the whole state."""
    monkeypatch.setattr(feed, "QUEUE_LIMIT", 3)
    slow = await bench.connect("slow")
    await until(lambda: bench.server.workers)
    for n in range(10):
        bench.server.publish(delta(host=f"h{n}"))  # within one turn of the loop: nothing can be sent in between
    assert await slow.closed() == aiohttp.WSCloseCode.TRY_AGAIN_LATER
    await until(lambda: bench.gone == ["slow"])
    again = await (await bench.connect("slow")).hear()
    assert (again.base, again.version) == (0, 10)


async def test_the_same_name_again_replaces_the_old_connection(bench):
    """A worker that lost its connection must not wait until the server has noticed."""
    old = await bench.connect("w1")
    await until(lambda: bench.server.workers)
    new = await bench.connect("w1")
    await old.closed()
    bench.server.publish(delta())
    assert (await new.hear()).version == 1
    assert bench.gone == []


@pytest.mark.parametrize("text", ["", "{}", '{"type":"update"}', '{"type":"ack","version":1}'])
async def test_what_does_not_begin_with_hello_is_refused(bench, text):
    """A connection that speaks something else is closed with a reason."""
    client = await bench.connect(hello=False)
    await client.socket.send_str(text)
    assert await client.closed() == aiohttp.WSCloseCode.POLICY_VIOLATION
    assert bench.server.workers == ()


@pytest.mark.parametrize("message", ["nonsense", serialise_message(Hello("again")), serialise_message(Ack(99))])
async def test_what_is_out_of_place_ends_the_connection(bench, message):
    """A second hello, the acknowledgement of what was never sent, and what is no message."""
    client = await bench.connect()
    await client.socket.send_str(message)
    assert await client.closed() == aiohttp.WSCloseCode.POLICY_VIOLATION
    await until(lambda: bench.gone == ["w1"])


async def test_the_gateways_own_feed_understands_it(bench):
    """Both ends as they are: the snapshot arrives, is acknowledged, and a poke comes back."""
    seen = []
    feed_end = Feed(
        bench.url,
        "secret",
        worker="w1",
        on_update=lambda update, snapshot: seen.append(snapshot),
        on_peers=lambda _: None,
        waiting=lambda: [(REVISION, 2)],
        loads=Idle(),
    )
    bench.server.publish(delta())
    task = asyncio.ensure_future(feed_end.run())
    await until(lambda: bench.server.programmed(ROUTE))
    assert seen[-1] == bench.server.snapshot
    await until(lambda: bench.stats)
    assert bench.stats[0][1][0].revision == REVISION
    bench.server.publish(delta(OTHER))
    await until(lambda: bench.server.programmed(OTHER))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


# --- who the workers are ----------------------------------------------------------------------------------------------


async def acknowledging(bench, name):
    """A worker that has the state, and has said so."""
    client = await bench.connect(name)
    await client.say(Ack((await client.hear()).version))
    return client


async def listed(client, **names):
    """Wait for the list of these workers, by whether they leave; its epoch."""
    while True:
        epoch, workers = await client.peers()
        if workers == names:
            return epoch


async def test_who_acknowledged_is_on_the_list(bench):
    """Not who has only connected; everybody is told, each list under a name of its own, and where they are reached."""
    bench.server.publish(delta())
    one = await bench.connect("w1")
    assert await one.peers() == ("", {})
    await one.hear()
    two = await acknowledging(bench, "w2")
    first = await listed(one, w2=False)
    await one.say(Ack(1))
    second = await listed(two, w1=False, w2=False)
    assert first != second
    three = await bench.connect("w3")
    peers = await three.hear(Peers)
    assert peers == Peers(second, (Peer("w2", "w2:1"), Peer("w1", "w1:1")))


async def test_a_worker_that_leaves_stays_on_the_list_until_it_is_gone(bench):
    """As one that is given nothing to deal out."""
    bench.server.publish(delta())
    one, two = await acknowledging(bench, "w1"), await acknowledging(bench, "w2")
    await two.say(Leaving())
    await listed(one, w1=False, w2=True)
    await two.socket.close()
    await listed(one, w1=False)


async def test_a_worker_that_died_is_off_the_list_at_once(bench):
    """Its connection ends without a word."""
    bench.server.publish(delta())
    one, two = await acknowledging(bench, "w1"), await acknowledging(bench, "w2")
    await listed(one, w1=False, w2=False)
    two.socket._response.connection.transport.abort()
    await listed(one, w1=False)


async def test_a_worker_that_lives_keeps_its_place_while_it_reconnects(bench, monkeypatch):
    """It goes by the old list meanwhile; if it does not come back, the place is given up."""
    monkeypatch.setattr(feed, "RETURN_WAIT", 0.2)
    bench.server.publish(delta())
    one, two = await acknowledging(bench, "w1"), await acknowledging(bench, "w2")
    epoch = await listed(one, w1=False, w2=False)
    await two.socket.close()
    await until(lambda: bench.gone == ["w2"])
    two = await acknowledging(bench, "w2")
    three = await bench.connect("w3")
    assert await three.peers() == (epoch, {"w1": False, "w2": False})
    await two.socket.close()
    await listed(one, w1=False)


async def test_who_may_have_requests_in_flight(bench, monkeypatch):
    """Whoever is connected or will be again, until it is given up; not one whose process has ended."""
    monkeypatch.setattr(feed, "RETURN_WAIT", 0.2)
    bench.server.publish(delta())
    one, two = await acknowledging(bench, "w1"), await acknowledging(bench, "w2")
    await listed(one, w1=False, w2=False)
    await two.socket.close()
    await until(lambda: bench.gone == ["w2"])
    assert bench.server.carriers == {"w1", "w2"}
    await until(lambda: {"w1"} in bench.carriers)
    one.socket._response.connection.transport.abort()
    await until(lambda: set() in bench.carriers)


async def test_what_is_in_flight_is_told_with_the_version_it_holds_for(bench):
    """The one acknowledged last; 0 is none of this server's."""
    bench.server.publish(delta())
    client = await bench.connect()
    await client.hear()
    loads = {REVISION: {"pod": 2}}
    await client.say(InFlight(loads))
    await client.say(Ack(1))
    await client.say(InFlight(loads))
    await until(lambda: len(bench.in_flight) == 2)
    assert bench.in_flight == [("w1", 0, loads), ("w1", 1, loads)]


@pytest.mark.parametrize("bench", [{"gathering": 0.1}], indirect=True)
async def test_a_controller_that_starts_waits_for_those_who_were_there_before(bench):
    """The first to come back is not told that it is alone."""
    assert bench.server.carriers is None
    bench.server.publish(delta())
    one = await acknowledging(bench, "w1")
    two = await acknowledging(bench, "w2")
    for client in (one, two):
        assert list((await client.peers())[1]) == ["w1", "w2"]


async def test_a_controller_that_stops_takes_nobody_off_the_list(bench):
    """Its connections end one by one, and who heard of the first would take over from a worker that still deals."""
    bench.server.publish(delta())
    one, two = await acknowledging(bench, "w1"), await acknowledging(bench, "w2")
    await listed(one, w1=False, w2=False)
    await listed(two, w1=False, w2=False)
    closing = asyncio.ensure_future(bench.stop())
    for client in (one, two):
        assert isinstance(await client.hear((Peers, aiohttp.WSMessage)), aiohttp.WSMessage)
    await closing
