"""Several spooled batches in one request: what may join, what the outcome means for each, who goes first."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rooms import ROUTE, Rooms, sealed
from vwo_fast.aggregator import window
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.transport import HttpRequest
from vwo_fast.counters import ControlCounter

Answer = Callable[[HttpRequest], dict[str, Any]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rooms]]:
    made: list[Rooms] = []

    def rooms(**options: Any) -> Rooms:
        made.append(Rooms(tmp_path, **{"events_per_request": 10, "in_flight_max": 4, **options}))
        return made[-1]

    yield rooms
    for each in made:
        each.close()


def spooled(rooms: Rooms, *batches: Sealed) -> None:
    for batch in batches:
        rooms.shipper.accept(batch, ROUTE)
    assert rooms.shipper.fresh.spill_all()


def carried(rooms: Rooms) -> list[list[int]]:
    return [[batch.ordinal for batch in flight.batches] for flight, _ in rooms.senders.sent]


def numbers(request: HttpRequest) -> list[int]:
    assert request.body is not None
    return [event["n"] for event in json.loads(request.body)["ev"]]


def run(rooms: Rooms, reply: Answer) -> list[list[int]]:
    """Answer everything until nothing is left. Gives back what the accepted requests carried."""
    accepted = []
    for _ in range(500):
        rooms.clock.now += 20
        rooms.shipper.dispatch()
        while rooms.senders.sent:
            _, request = rooms.senders.sent[0]
            answer = reply(request)
            if answer.get("status") == 200:
                accepted.append(numbers(request))
            rooms.senders.reply(0, **answer)
        rooms.shipper.collect()
        if rooms.shipper.is_empty:
            return accepted
    raise AssertionError(f"never empty: {carried(rooms)}")


def test_small_batches_travel_together(make: Callable[..., Rooms]) -> None:
    """Sixty batches of one event, also of one visitor, are six requests of ten, and each has its own outcome."""
    rooms = make()
    batches = [sealed(n, visitors=["A"]) for n in range(60)]
    spooled(rooms, *batches)
    rooms.shipper.dispatch()
    assert carried(rooms) == [list(range(10))], "a visitor's events never fly in two requests"
    assert rooms.spool.totals.batches == 60
    assert run(rooms, lambda _: {"status": 200}) == [[1000 * n for n in range(k, k + 10)] for k in range(0, 60, 10)]
    assert rooms.outcomes == [(batch.id, True) for batch in batches]
    assert rooms.spool.totals.batches == 0
    counter = rooms.control.counter
    assert counter(ControlCounter.DELIVERED) == 60
    assert counter(ControlCounter.DELIVERED_BATCHES) == counter(ControlCounter.REQUESTS) == 6
    assert (counter(ControlCounter.RETRIES), counter(ControlCounter.UNANSWERED_EVENTS)) == (0, 0)


def test_a_joint_body_is_that_of_one_batch(make: Callable[..., Rooms]) -> None:
    """Byte for byte; its size is counted as it is, and it fits to the last byte."""
    one = sealed(0, events=3, visitors=["A", "B", "C"])
    pieces = []
    for index, event in enumerate(json.loads(one.body)["ev"]):
        piece = sealed(index)
        piece.body = json.dumps({"ev": [event]}, separators=(",", ":")).encode()
        pieces.append(piece)
    rooms = make()
    for spare, expected in ((0, [[0, 1, 2]]), (-1, [[0, 1], [2]])):
        rooms.shipper.lines.clear()
        spooled(rooms, *pieces)
        line = rooms.shipper.lines[ROUTE.key]
        line.load = line.load.lighter(2 * (one.size + spare))
        rooms.shipper.dispatch()
        assert carried(rooms) == expected
        if not spare:
            assert rooms.senders.sent[0][1].body == one.body
        before = rooms.control.counter(ControlCounter.DELIVERED_BYTES)
        sent = sum(len(request.body or b"") for _, request in rooms.senders.sent)
        while rooms.senders.sent:
            rooms.senders.reply(0, status=200)
        rooms.shipper.collect()
        assert rooms.control.counter(ControlCounter.DELIVERED_BYTES) - before == sent
        for piece in pieces:
            piece.attempts = 0


def test_only_batches_of_the_spool_join(make: Callable[..., Rooms]) -> None:
    """What is only in the lanes was sealed as the settings want it, and goes as it is."""
    rooms = make()
    for n in range(3):
        rooms.shipper.accept(sealed(n), ROUTE)
    rooms.shipper.dispatch()
    assert carried(rooms) == [[0], [1], [2]]


def test_nothing_is_overtaken_by_joining(make: Callable[..., Rooms]) -> None:
    """A batch whose visitor is in a request on its way, or in an older one that waits, joins nobody."""
    rooms = make(in_flight_max=2)
    spooled(rooms, sealed(0, visitors=["A"]), sealed(1, visitors=["B"]))
    rooms.shipper.dispatch()
    spooled(rooms, sealed(2, visitors=["A"]), sealed(3, visitors=["C"]), sealed(4, visitors=["C"]))
    rooms.shipper.dispatch()
    assert carried(rooms) == [[0, 1], [3, 4]]
    rooms.senders.reply(0, status=200)
    rooms.shipper.collect()
    rooms.shipper.dispatch()
    assert carried(rooms) == [[3, 4], [2]]


def test_a_refusal_finds_the_one_event(make: Callable[..., Rooms]) -> None:
    """400 for one of 64 events in 16 batches: it alone is a dead letter, in some ten requests instead of 32."""
    rooms = make(events_per_request=100)
    spooled(rooms, *(sealed(n, events=4) for n in range(16)))
    requests = 0

    def reply(request: HttpRequest) -> dict[str, Any]:
        nonlocal requests
        requests += 1
        return {"status": 400, "excerpt": "bad"} if 9002 in numbers(request) else {"status": 200}

    accepted = run(rooms, reply)
    every = {1000 * n + k for n in range(16) for k in range(4)}
    assert sorted(number for each in accepted for number in each) == sorted(every - {9002})
    assert requests <= 16
    counter = rooms.control.counter
    assert (counter(ControlCounter.DEAD), counter(ControlCounter.DELIVERED)) == (1, 63)
    assert rooms.spool.totals.dead_events == 1
    assert rooms.spool.totals.batches == 0


def test_a_body_that_is_too_large_is_not_made_again(make: Callable[..., Rooms]) -> None:
    """413 parts the batches, which are not split, and requests after it are half as large."""
    rooms = make(events_per_request=100)
    spooled(rooms, *(sealed(n, size=1000) for n in range(64)))
    refused = []

    def reply(request: HttpRequest) -> dict[str, Any]:
        size = len(request.body or b"")
        if size > 20_000:
            refused.append(size)
            return {"status": 413}
        return {"status": 200}

    accepted = run(rooms, reply)
    assert sorted(number for each in accepted for number in each) == [1000 * n for n in range(64)]
    assert len(refused) <= 3
    assert len(accepted) <= 10
    assert rooms.control.counter(ControlCounter.SPLITS) == 0


def test_an_unknown_outcome_counts_all_of_it(make: Callable[..., Rooms]) -> None:
    """No answer after a joint request: every event in it is unknown, each batch keeps its try, its time and the error,
    also over a restart."""
    rooms = make()
    spooled(rooms, *(sealed(n, events=2) for n in range(3)))
    rooms.shipper.dispatch()
    rooms.senders.reply(0, error="Timeout", may_have_arrived=True)
    rooms.shipper.collect()
    counter = rooms.control.counter
    assert counter(ControlCounter.UNKNOWN_OUTCOME_EVENTS) == 6
    assert counter(ControlCounter.UNANSWERED_EVENTS) == 0
    found, _ = rooms.spool.load(ROUTE.key, (-1, -1), rows_max=9, bytes_max=1 << 20)
    assert [(batch.attempts, batch.last_error, batch.is_uncertain) for batch in found] == [(1, "Timeout", True)] * 3
    assert len({batch.first_try for batch in found}) <= 3
    assert all(batch.first_try is not None for batch in found)
    run(rooms, lambda _: {"status": 200})
    assert counter(ControlCounter.RETRIES) >= 1
    assert counter(ControlCounter.DELIVERED) == 6


def test_a_batch_that_makes_others_fail_is_left_behind(make: Callable[..., Rooms]) -> None:
    """500 whenever one certain batch is in it: the others arrive, as they part when others of their route do."""
    rooms = make(events_per_request=4)
    spooled(rooms, *(sealed(n) for n in range(40)))
    accepted: set[int] = set()
    for _ in range(200):
        rooms.clock.now += 20
        rooms.shipper.dispatch()
        while rooms.senders.sent:
            _, request = rooms.senders.sent[0]
            bad = 6000 in numbers(request)
            accepted |= set() if bad else set(numbers(request))
            rooms.senders.reply(0, status=500 if bad else 200)
        rooms.shipper.collect()
    assert accepted == {1000 * n for n in range(40)} - {6000}


def test_one_batch_finds_out_whether_the_server_is_back(make: Callable[..., Rooms]) -> None:
    """A probe carries no more than one batch: its outcome may be unknown."""
    rooms = make()
    spooled(rooms, *(sealed(n) for n in range(8)))
    rooms.shipper.dispatch()
    rooms.senders.reply(0, status=503)
    rooms.shipper.collect()
    rooms.clock.now += 20
    rooms.shipper.dispatch()
    assert [len(batches) for batches in carried(rooms)] == [1]
    rooms.senders.reply(0, status=200)
    rooms.shipper.collect()
    rooms.shipper.dispatch()
    assert [len(batches) for batches in carried(rooms)] == [7]


@pytest.mark.parametrize("durable", ["none", "seal"])
def test_fresh_events_go_while_a_backlog_is_sent(
    make: Callable[..., Rooms], monkeypatch: pytest.MonkeyPatch, durable: str
) -> None:
    """More waits on disk than in memory: every second request carries what is new, each of both in its own order,
    and nothing is sent twice or forgotten."""
    monkeypatch.setattr(window, "LOADED_BATCHES_MAX", 20)
    rooms = make(in_flight_max=2, durable=durable)
    spooled(rooms, *(sealed(n, visitors=["A"]) for n in range(300)))
    line = rooms.shipper.lines[ROUTE.key]
    assert line.unloaded == 280
    sent: list[int] = []
    fresh = iter(range(300, 320))
    while not rooms.shipper.is_empty or len(sent) < 320:
        if (n := next(fresh, None)) is not None:
            rooms.shipper.accept(sealed(n, visitors=["A"]), ROUTE)
        rooms.shipper.dispatch()
        assert line.loaded <= 40
        sent += carried(rooms)[0]
        rooms.senders.reply(0, status=200)
        rooms.shipper.collect()
    assert sorted(sent) == list(range(320))
    assert [n for n in sent if n < 300] == list(range(300))
    assert [n for n in sent if n >= 300] == list(range(300, 320))
    assert sent.index(319) < 300, "the last of the new ones went before the last of the old ones"
    assert rooms.spool.totals.batches == 0
    assert rooms.control.counter(ControlCounter.DELIVERED) == 320


def test_a_backlog_does_not_starve_either(make: Callable[..., Rooms], monkeypatch: pytest.MonkeyPatch) -> None:
    """However much comes: every second request is of the backlog."""
    monkeypatch.setattr(window, "LOADED_BATCHES_MAX", 20)
    rooms = make(in_flight_max=1)
    spooled(rooms, *(sealed(n) for n in range(100)))
    sent: list[int] = []
    for n in range(1000, 1020):
        rooms.shipper.accept(sealed(n), ROUTE)
        rooms.shipper.accept(sealed(n + 100), ROUTE)
        rooms.shipper.dispatch()
        sent += carried(rooms)[0]
        rooms.senders.reply(0, status=200)
        rooms.shipper.collect()
    assert [n for n in sent if n < 1000] == list(range(100))


def test_a_spool_that_cannot_be_read_stops_no_fresh_event(
    make: Callable[..., Rooms], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batches wait until it can be; what is new goes, also after a failure of the server."""
    rooms = make()
    spooled(rooms, sealed(0))
    rooms.shipper.lines[ROUTE.key].evict(0)

    def fail(*_: Any, **__: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(rooms.spool, "load", fail)
        rooms.shipper.accept(sealed(1), ROUTE)
        for status in (500, 500, 200):
            rooms.clock.now += 20
            rooms.shipper.dispatch()
            assert carried(rooms) == [[1]]
            rooms.senders.reply(0, status=status)
            rooms.shipper.collect()
    assert run(rooms, lambda _: {"status": 200}) == [[0]]
