"""What leaves the spool because it is old, or because others need the room; and dead letters that come back."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rooms import ROUTE, Rooms, sealed
from vwo_fast.aggregator.line import BEFORE_ALL
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.spool_clock import SpoolClock
from vwo_fast.counters import ControlCounter, Reason

ROUTES = [(ROUTE.key, ROUTE.encode())]

Make = Callable[..., Rooms]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Rooms] = []

    def rooms(**options: Any) -> Rooms:
        found = Rooms(tmp_path, **options)
        made.append(found)
        found.spool.close()
        found.spool = Spool(
            tmp_path / "spool.sqlite",
            bytes_max=found.settings.spool_max_bytes,
            clock=SpoolClock(boot="this one", monotonic=found.clock, wall=found.clock),
        )
        found.shipper = found.new_shipper()
        found.add_route()
        return found

    yield rooms
    for found in made:
        found.close()


def accept(rooms: Rooms, *batches: Sealed) -> None:
    for batch in batches:
        rooms.shipper.accept(batch, ROUTE)


def dropped(rooms: Rooms, reason: Reason) -> int:
    return rooms.control.counter(ControlCounter.BY_REASON + reason)


def fill(rooms: Rooms, first: int, last: int) -> list[Sealed]:
    """Batches of 8 kB, spilled one by one."""
    batches = [sealed(n, events=2, size=4000) for n in range(first, last)]
    for batch in batches:
        accept(rooms, batch)
        rooms.shipper.fresh.spill_all()
        rooms.clock.now += 10
    return batches


def test_the_oldest_give_way(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """drop_oldest: what comes always fits; the oldest go, counted, told as not delivered, logged once a minute."""
    rooms = make(spool_max_bytes=65536, on_full="drop_oldest")
    with caplog.at_level(logging.ERROR):
        batches = fill(rooms, 0, 20)
    kept = rooms.spool.totals.batches
    assert 5 <= kept < 8
    assert rooms.outcomes == [(batch.id, False) for batch in batches[: 20 - kept]]
    assert dropped(rooms, Reason.SPOOL_FULL) == 2 * (20 - kept)
    assert rooms.shipper.fresh.batches == 0
    # Twenty batches, ten seconds apart; the first drop comes after some 70 s.
    assert len([record for record in caplog.records if "give way" in record.message]) <= 3
    line = rooms.shipper.lines[ROUTE.key]
    assert line.loaded + line.unloaded == kept
    rooms.shipper.dispatch()
    assert [sealed.id for flight, _ in rooms.senders.sent for sealed in flight.batches] == [
        batch.id for batch in batches[-kept:]
    ]


def test_what_is_on_its_way_is_not_dropped(make: Make) -> None:
    """The oldest batches are in flight: those behind them go instead."""
    rooms = make(spool_max_bytes=65536, on_full="drop_oldest", in_flight_max=2, events_per_request=2)
    first = fill(rooms, 0, 5)
    rooms.shipper.dispatch()
    fill(rooms, 5, 12)
    gone = {identity for identity, _ in rooms.outcomes}
    assert gone.isdisjoint({batch.id for batch in first[:2]})
    assert first[2].id in gone
    for _ in range(2):
        rooms.senders.reply(status=200)
    rooms.shipper.collect()
    assert (first[0].id, True) in rooms.outcomes


def test_the_others_hold_the_lanes_back(make: Make) -> None:
    """drop_newest: nothing leaves a full spool; what does not fit stays fresh."""
    rooms = make(spool_max_bytes=65536)
    fill(rooms, 0, 12)
    assert rooms.outcomes == []
    assert rooms.spool.totals.batches + rooms.shipper.fresh.batches == 12
    assert rooms.shipper.fresh.batches > 0


def test_a_batch_larger_than_the_spool_drops_nothing(make: Make) -> None:
    """What would not fit into an empty spool takes nothing away."""
    rooms = make(spool_max_bytes=65536, on_full="drop_oldest")
    fill(rooms, 0, 3)
    accept(rooms, sealed(9, size=70_000))
    assert not rooms.shipper.fresh.spill_all()
    assert rooms.outcomes == []


def test_dead_letters_go_before_batches(make: Make) -> None:
    """What VWO has refused makes room before what it may still take; it moves from dead to dropped."""
    rooms = make(spool_max_bytes=65536, on_full="drop_oldest")
    refused = fill(rooms, 0, 1)[0]
    rooms.shipper.lines[ROUTE.key].remove(refused)
    rooms.spool.bury(refused, status=400, message="no", excerpt="")
    rooms.metrics.add(ControlCounter.DEAD, refused.events)
    while rooms.spool.totals.dead_events:
        fill(rooms, 1, 2)
    assert rooms.outcomes == []
    assert rooms.control.counter(ControlCounter.DEAD) == 0
    assert dropped(rooms, Reason.SPOOL_FULL) == refused.events


def test_what_is_too_old_goes(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """spool_max_age: exactly the batches and dead letters that are older leave, counted as expired, logged once."""
    rooms = make(spool_max_age=45)
    batches = fill(rooms, 0, 8)
    with caplog.at_level(logging.ERROR):
        rooms.shipper.keep_house()
    assert rooms.outcomes == [(batch.id, False) for batch in batches[:4]]
    assert dropped(rooms, Reason.EXPIRED) == 8
    assert len([record for record in caplog.records if "spool_max_age" in record.message]) == 1
    rooms.spool.bury(batches[7], status=400, message="no", excerpt="")
    rooms.shipper.lines[ROUTE.key].remove(batches[7])
    rooms.metrics.add(ControlCounter.DEAD, 2)
    rooms.clock.now += 100
    rooms.shipper.keep_house()
    assert (rooms.spool.totals.batches, rooms.spool.totals.dead_events) == (0, 0)
    assert (dropped(rooms, Reason.EXPIRED), rooms.control.counter(ControlCounter.DEAD)) == (16, 0)
    assert rooms.shipper.is_empty


def test_a_damaged_row_that_is_too_old_becomes_a_dead_letter(make: Make, tmp_path: Path) -> None:
    """It is counted once, and the ones around it go."""
    rooms = make(spool_max_age=45)
    fill(rooms, 0, 3)
    rooms.shipper.lines[ROUTE.key].evict(0)
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute("UPDATE batch SET body=REPLACE(body, 'x', 'y') WHERE ordinal=1")
    db.close()
    rooms.clock.now += 100
    rooms.shipper.bounds.expire()
    assert len(rooms.outcomes) == 2
    assert rooms.spool.totals.batches == 0
    assert rooms.control.counter(ControlCounter.DEAD) == rooms.lost_events == 2
    assert rooms.shipper.is_empty


def test_dead_letters_come_back_as_the_oldest(make: Make, tmp_path: Path) -> None:
    """Those that an operator marks are batches again, with their ids, before everything else; damaged ones are not."""
    rooms = make()
    batches = [sealed(n, events=1) for n in range(6)]
    accept(rooms, *batches)
    rooms.shipper.fresh.spill_all()
    line = rooms.shipper.lines[ROUTE.key]
    for refused in batches[:3]:
        line.remove(refused)
        rooms.spool.bury(refused, status=400, message="no", excerpt="")
        rooms.metrics.add(ControlCounter.DEAD, 1)
    rooms.shipper.keep_house()
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute("UPDATE dead SET replay=1 WHERE row IN (1, 3)")
    db.close()
    rooms.shipper.keep_house()
    assert (rooms.spool.totals.batches, rooms.spool.totals.dead_events) == (5, 1)
    assert rooms.control.counter(ControlCounter.DEAD) == 1
    rooms.shipper.dispatch()
    sent = [sealed for flight, _ in rooms.senders.sent for sealed in flight.batches]
    assert [batch.id for batch in sent] == [batches[n].id for n in (0, 2, 3, 4, 5)]
    assert [batch.body for batch in sent] == [batches[n].body for n in (0, 2, 3, 4, 5)]
    assert sent[0].owners() == set()
    assert sent[0].ordinal < sent[1].ordinal < 0
    again = Spool(tmp_path / "spool.sqlite")
    assert again.last_ordinal() == 5
    found, _ = again.load(ROUTE.key, BEFORE_ALL, rows_max=9, bytes_max=1 << 30)
    assert [batch.id for batch in found] == [batches[n].id for n in (0, 2, 3, 4, 5)]
    again.close()


def test_rows_that_cannot_be_deleted_are_gone_all_the_same(make: Make, tmp_path: Path) -> None:
    """A delivered batch whose row a locked file keeps is not sent again, holds back no flush, and is deleted later."""
    rooms = make(events_per_request=1)
    batches = [sealed(n) for n in range(3)]
    accept(rooms, *batches)
    rooms.shipper.fresh.spill_all()
    rooms.shipper.dispatch()
    other = sqlite3.connect(tmp_path / "spool.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    rooms.senders.reply(status=200)
    rooms.shipper.collect()
    assert rooms.control.counter(ControlCounter.DELIVERED) == 1
    assert rooms.control.counter(ControlCounter.SPOOL_FAILURES) >= 1
    assert rooms.shipper.first_ordinal() == 1
    assert "locked" in (rooms.shipper.last_error or "")
    found, _ = rooms.spool.load(ROUTE.key, (-1, -1), rows_max=9, bytes_max=1 << 30)
    assert [batch.ordinal for batch in found] == [1, 2]
    other.execute("ROLLBACK")
    assert other.execute("SELECT COUNT(*) FROM batch").fetchone() == (3,)
    rooms.shipper.keep_house()
    assert other.execute("SELECT COUNT(*) FROM batch").fetchone() == (2,)
    other.close()
