"""Which batch goes next, what its outcome means, when it moves to the spool; time and replies are the test's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rooms import ROUTE, Rooms, sealed
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.window import LOADED_BATCHES_MAX
from vwo_fast.counters import ControlCounter
from vwo_fast.route import Route

OTHER = Route.fullstack(account_id=2, sdk_key="k2", sdk_version="1")


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    made = Rooms(tmp_path, events_per_request=10, in_flight_max=4)
    yield made
    made.close()


def accept(rooms: Rooms, *batches: Sealed, route: Route = ROUTE) -> None:
    for batch in batches:
        rooms.shipper.accept(batch, route)


def flying(rooms: Rooms) -> list[int]:
    return [flight.batches[0].ordinal for flight, _ in rooms.senders.sent]


def carried(rooms: Rooms) -> list[list[int]]:
    """The batches of each request on its way."""
    return [[batch.ordinal for batch in flight.batches] for flight, _ in rooms.senders.sent]


def answer(rooms: Rooms, index: int = 0, **reply: object) -> Sealed:
    found = rooms.senders.reply(index, **reply)
    rooms.shipper.collect()
    return found


def test_batches_of_different_visitors_fly_together(rooms: Rooms) -> None:
    """Up to in_flight_max at once, the oldest first; the next goes when one is back."""
    accept(rooms, *(sealed(n) for n in range(6)))
    rooms.shipper.dispatch()
    assert flying(rooms) == [0, 1, 2, 3]
    answer(rooms, 1, status=200)
    rooms.shipper.dispatch()
    assert flying(rooms) == [0, 2, 3, 4]


def test_a_visitor_is_never_overtaken(rooms: Rooms) -> None:
    """A batch waits for every older one that shares a visitor, in flight, failed or waiting; strangers pass."""
    accept(rooms, sealed(0, visitors=["A"]), sealed(1, visitors=["A"]), sealed(2, visitors=["B"]))
    accept(rooms, sealed(3, events=2, visitors=["B", "C"]), sealed(4, visitors=["C"]), sealed(5, visitors=["D"]))
    rooms.shipper.dispatch()
    assert flying(rooms) == [0, 2, 5]
    answer(rooms, 0, status=500)
    assert flying(rooms) == [2, 5]
    rooms.clock.now += 10
    answer(rooms, 0, status=200)
    answer(rooms, 0, status=200)
    rooms.shipper.dispatch()
    assert 1 not in flying(rooms)
    answer(rooms, flying(rooms).index(0), status=200)
    rooms.shipper.dispatch()
    assert 1 in flying(rooms)


def test_routes_take_turns(rooms: Rooms) -> None:
    """A route with a long line does not keep another one waiting."""
    accept(rooms, *(sealed(n) for n in range(20)))
    accept(rooms, sealed(20, route=OTHER), sealed(21, route=OTHER), route=OTHER)
    rooms.shipper.dispatch()
    assert sorted(flying(rooms)) == [0, 1, 20, 21]


def test_one_probe_while_the_server_is_away(rooms: Rooms) -> None:
    """After a failure nothing goes until the wait is over, and then one at a time until one is accepted."""
    accept(rooms, *(sealed(n) for n in range(8)))
    rooms.shipper.dispatch()
    for _ in range(4):
        answer(rooms, error="ConnectionError")
    rooms.shipper.dispatch()
    assert flying(rooms) == []
    assert rooms.shipper.next_due() == 1001.0
    rooms.clock.now = 1001.0
    rooms.shipper.dispatch()
    assert len(flying(rooms)) == 1
    answer(rooms, status=200)
    rooms.shipper.dispatch()
    assert len(flying(rooms)) == 1
    answer(rooms, status=200)
    rooms.shipper.dispatch()
    assert len(flying(rooms)) == 2


def test_the_oldest_goes_first_when_the_server_is_back(rooms: Rooms) -> None:
    """One batch finds the server well; then those that had failed go in order, without the rest of their waits."""
    accept(rooms, *(sealed(n) for n in range(6)))
    rooms.shipper.dispatch()
    for _ in range(4):
        answer(rooms, status=503)
    rooms.clock.now = 1001.0
    rooms.shipper.dispatch()
    probe = answer(rooms, status=200).ordinal
    rooms.shipper.dispatch()
    sent = [probe]
    while rooms.senders.sent:
        sent.append(answer(rooms, status=200).ordinal)
        rooms.shipper.dispatch()
    assert sent[1:] == [n for n in range(6) if n != probe]


def test_a_refused_key_holds_only_its_route(rooms: Rooms) -> None:
    """401: the route waits with all its events; the server's other routes go on at full speed."""
    accept(rooms, sealed(0))
    accept(rooms, *(sealed(n, route=OTHER) for n in range(1, 4)), route=OTHER)
    rooms.shipper.dispatch()
    answer(rooms, flying(rooms).index(0), status=401)
    for _ in range(3):
        answer(rooms, status=200)
    accept(rooms, *(sealed(n, route=OTHER) for n in range(4, 8)), route=OTHER)
    rooms.shipper.dispatch()
    assert flying(rooms) == [4, 5, 6, 7]
    assert rooms.outcomes == [(outcome[0], True) for outcome in rooms.outcomes]


def test_a_batch_that_alone_fails_does_not_stop_its_route(rooms: Rooms) -> None:
    """500 for one batch, 200 for the others: after some rounds its visitors' later events go without it."""
    accept(rooms, sealed(0, visitors=["A"]))
    done: list[int] = []
    for n in range(1, 60):
        accept(rooms, sealed(n, visitors=["A" if n % 2 else f"B{n}"]))
        rooms.clock.now += 20
        rooms.shipper.dispatch()
        while rooms.senders.sent:
            poison = flying(rooms)[0] == 0
            batch = answer(rooms, status=500 if poison else 200)
            done += [] if poison else [batch.ordinal]
    assert {n for n in done if n % 2 == 0}
    assert {n for n in done if n % 2}
    assert 0 not in done


def test_a_refused_batch_is_halved_on_disk(rooms: Rooms) -> None:
    """413: the halves are in the spool before anything else happens, with what was older, in the right order."""
    accept(rooms, sealed(0, events=2), sealed(1, events=4), sealed(2))
    rooms.shipper.dispatch()
    answer(rooms, 1, status=413)
    found, _ = rooms.spool.load(ROUTE.key, (-1, -1), rows_max=99, bytes_max=1 << 20)
    assert [batch.key for batch in found] == [(0, 0), (1, 0), (1, 2)]
    while not rooms.shipper.is_empty:
        rooms.shipper.dispatch()
        assert flying(rooms).count(1) <= 1, "halves of one batch may share a visitor"
        answer(rooms, status=200)
    assert rooms.spool.totals.batches == 0
    assert rooms.control.counter(ControlCounter.DELIVERED) == 7
    assert rooms.control.counter(ControlCounter.SPLITS) == 1


def test_an_event_refused_alone_is_a_dead_letter(rooms: Rooms) -> None:
    """It is kept with status and excerpt, counted, told to whoever waits, and not sent again."""
    accept(rooms, sealed(0, events=1))
    rooms.shipper.dispatch()
    batch = answer(rooms, status=400, excerpt="bad goal")
    assert rooms.outcomes == [(batch.id, False)]
    assert rooms.shipper.is_empty
    assert rooms.spool.totals.dead_events == 1
    assert rooms.control.counter(ControlCounter.DEAD) == 1


PAGE = "<html><head><title>400 The SSL certificate error</title></head>"


def test_a_proxy_that_refuses_everything_buries_nothing(rooms: Rooms) -> None:
    """400 with a page for each request: the route waits, nothing is split, and all is delivered when that is over."""
    accept(rooms, *(sealed(n, events=4) for n in range(6)))
    for _ in range(40):
        rooms.clock.now += 20
        rooms.shipper.dispatch()
        while rooms.senders.sent:
            answer(rooms, status=400, excerpt=PAGE)
        rooms.shipper.fresh.spill_failing()
    counter = rooms.control.counter
    assert (counter(ControlCounter.DEAD), counter(ControlCounter.SPLITS)) == (0, 0)
    assert counter(ControlCounter.REQUESTS) <= 44, "one at a time while it lasts"
    while not rooms.shipper.is_empty:
        rooms.clock.now += 20
        rooms.shipper.dispatch()
        answer(rooms, status=200)
    assert counter(ControlCounter.DELIVERED) == 24


def test_an_event_that_a_proxy_refuses_is_found_all_the_same(rooms: Rooms) -> None:
    """400 with a page for one event alone, while others are accepted: it becomes a dead letter, and no other does."""
    accept(rooms, *(sealed(n, events=4) for n in range(4)))
    for n in range(400):
        rooms.clock.now += 20
        if n % 10 == 0:
            accept(rooms, sealed(100 + n))
        rooms.shipper.dispatch()
        while rooms.senders.sent:
            _, request = rooms.senders.sent[0]
            if b'"n":1002,' in (request.body or b""):
                answer(rooms, status=400, excerpt=PAGE)
            else:
                answer(rooms, status=200)
    counter = rooms.control.counter
    assert (counter(ControlCounter.DEAD), counter(ControlCounter.DELIVERED)) == (1, 4 * 4 - 1 + 40)


def test_what_fails_again_and_again_goes_to_the_spool(rooms: Rooms) -> None:
    """After three failures all that waits is on disk, oldest first, and only a window of it stays in memory."""
    accept(rooms, *(sealed(n) for n in range(1100)))
    for _ in range(3):
        rooms.shipper.dispatch()
        while rooms.senders.sent:
            answer(rooms, status=503)
        rooms.shipper.fresh.spill_failing()
        rooms.clock.now += 20
    assert rooms.shipper.fresh.batches == 0
    assert rooms.spool.totals.batches == 1100
    line = rooms.shipper.lines[ROUTE.key]
    assert (line.loaded + line.unloaded, line.loaded) == (1100, LOADED_BATCHES_MAX)
    sent: list[int] = []
    while not rooms.shipper.is_empty:
        rooms.clock.now += 20
        rooms.shipper.dispatch()
        while rooms.senders.sent:
            sent += [batch.ordinal for batch in rooms.senders.sent[0][0].batches]
            answer(rooms, status=200)
    assert sorted(sent) == list(range(1100))
    assert all(abs(place - n) < 8 for place, n in enumerate(sent))
    assert rooms.spool.totals.batches == 0


def test_fresh_batches_wait_for_what_is_in_memory(rooms: Rooms) -> None:
    """Older batches of its visitors are in the spool and in memory: a fresh one goes after all of them."""
    accept(rooms, *(sealed(n, visitors=["A"]) for n in range(60)))
    rooms.shipper.fresh.spill_all()
    accept(rooms, sealed(60, visitors=["Z"]), sealed(61, visitors=["A"]))
    sent: list[int] = []
    while not rooms.shipper.is_empty:
        rooms.shipper.dispatch()
        assert len(flying(rooms)) <= 2
        sent += carried(rooms)[0]
        answer(rooms, status=200)
    assert [n for n in sent if n != 60] == [n for n in range(62) if n != 60]
    assert sorted(sent) == list(range(62))


def test_a_spilled_batch_in_flight_is_sent_once(rooms: Rooms) -> None:
    """Moved to disk while its answer is under way: 200 deletes its row, 503 keeps it."""
    accept(rooms, sealed(0), sealed(1))
    rooms.shipper.dispatch()
    assert rooms.shipper.fresh.spill_all()
    assert rooms.spool.totals.batches == 2
    answer(rooms, 0, status=200)
    answer(rooms, 0, status=503)
    assert [batch.ordinal for batch in rooms.shipper.lines[ROUTE.key].items] == [1]
    assert rooms.spool.totals.batches == 1


def test_a_restart_goes_on_with_the_spool(rooms: Rooms) -> None:
    """Another shipper on the same file sends the same batches, with the tries of their first life."""
    accept(rooms, *(sealed(n, events=2) for n in range(3)))
    rooms.shipper.dispatch()
    rooms.shipper.fresh.spill_all()
    for _ in range(3):
        answer(rooms, status=503)
    again = rooms.new_shipper()
    again.resume()
    assert not again.is_empty
    assert again.first_ordinal() == 0
    again.dispatch()
    batches = [sealed for flight, _ in rooms.senders.sent for sealed in flight.batches]
    assert [sealed.attempts for sealed in batches] == [2, 2, 2]
    assert {sealed.last_error for sealed in batches} == {"VWO answered with status 503"}


def test_a_full_spool_takes_no_more(tmp_path: Path) -> None:
    """Beyond spool_max_bytes batches stay where they are; only room in memory decides what is read."""
    rooms = Rooms(tmp_path, events_per_request=10, spool_max_bytes=65536)
    try:
        accept(rooms, *(sealed(n, size=10_000) for n in range(20)))
        assert not rooms.shipper.fresh.spill_all()
        assert rooms.spool.totals.bytes <= 65536
        assert rooms.shipper.fresh.batches == 20 - rooms.spool.totals.batches
        assert rooms.shipper.has_room
        accept(rooms, *(sealed(n) for n in range(20, 150)))
        assert not rooms.shipper.has_room
    finally:
        rooms.close()


def test_requests_are_what_the_route_says(rooms: Rooms) -> None:
    """Endpoint, prefix, query and headers come from the route; nothing of it shows in repr."""
    route = Route.fullstack(account_id=3, sdk_key="secret", sdk_version="9", collection_prefix="eu01")
    accept(rooms, sealed(0, route=route), route=route)
    rooms.shipper.dispatch()
    ((flight, request),) = rooms.senders.sent
    assert request.url == "http://vwo.test/eu01/server-side/batch-events"
    assert request.params[:2] == (("a", "3"), ("sdk", "vwo-python-sdk"))
    assert request.headers["Authorization"] == "secret"
    assert "secret" not in repr(request)
    assert json.loads(flight.batches[0].body)["ev"]


def test_a_flush_tries_now(rooms: Rooms) -> None:
    """kick() lets a waiting batch go at once."""
    accept(rooms, sealed(0))
    rooms.shipper.dispatch()
    answer(rooms, status=500)
    rooms.shipper.dispatch()
    assert flying(rooms) == []
    rooms.shipper.kick()
    rooms.shipper.dispatch()
    assert flying(rooms) == [0]


def test_gauges_show_each_event_in_one_place(rooms: Rooms) -> None:
    """Waiting, in flight and spooled never count an event twice."""
    accept(rooms, *(sealed(n, events=3) for n in range(6)))
    rooms.shipper.dispatch()
    rooms.shipper.fresh.spill_all()
    accept(rooms, sealed(6, events=5))
    rooms.shipper.set_gauges()
    counter = rooms.control.counter
    assert counter(ControlCounter.UNANSWERED_EVENTS) == 12
    assert counter(ControlCounter.GAUGE_SPOOLED_EVENTS) == 6
    assert counter(ControlCounter.GAUGE_SEALED_EVENTS) == 5
    assert counter(ControlCounter.GAUGE_SPOOLED_BATCHES) == 6
