"""When what waits in a lane moves to the spool, and when it is left to the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rooms import LaneWriter, Rooms, event
from vwo_fast.aggregator.batcher import Batcher
from vwo_fast.aggregator.relief import PATIENCE_SECONDS, Relief
from vwo_fast.counters import ControlCounter

WATERMARK, URGENT = 0.5, 0.75


class Bench:
    """One lane of 64 kB, read and sealed in batches, sent to a server that answers when it is told to."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.rooms = rooms = Rooms(root, in_flight_max=64, **options)
        self.key = rooms.add_route()
        self.batcher = Batcher(
            rooms.settings,
            folder=rooms.folder,
            routes=rooms.routes,
            sink=rooms.shipper,
            first_ordinal=1,
            clock=rooms.clock,
        )
        self.relief = Relief(
            rooms.lanes, self.batcher, rooms.shipper, rooms.spool, rooms.metrics, rooms.settings, rooms.clock
        )
        self.writer = LaneWriter(rooms.folder, rooms.control, capacity=1 << 16)
        self.producer = self.writer.producer(self.key)
        self.made = 0

    def turn(self) -> None:
        rooms = self.rooms
        rooms.shipper.collect()
        rooms.lanes.scan()
        for lane in rooms.lanes.lanes.values():
            while lane.read_to != lane.head() and self.batcher.read(lane, lane.head()):
                pass
        self.relief.relieve()
        rooms.shipper.dispatch()

    def pass_time(self, seconds: float) -> None:
        self.rooms.clock.now += seconds
        self.turn()

    def answer_the_oldest(self) -> int:
        """Two whose visitors look alike are sent in turn, others meanwhile. Gives back the events in it."""
        sent = self.rooms.senders.sent
        oldest = min(range(len(sent)), key=lambda index: sent[index][0].batches[0].ordinal)
        return self.rooms.senders.reply(oldest, status=200).events

    @property
    def used(self) -> float:
        return self.rooms.lanes.lanes[self.writer.id].used()

    @property
    def spooled(self) -> int:
        return self.rooms.control.counter(ControlCounter.SPOOLED) + self.rooms.spool.totals.fragment_events

    def fill(self, share: float) -> None:
        """Enqueue until so much of the lane is in use; the aggregator reads along."""
        self.turn()
        while self.used < share:
            assert self.producer.enqueue(event(self.made))
            self.made += 1


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, events_per_request=50, request_time_interval=600)
    yield made
    made.rooms.close()


def test_a_lane_whose_tail_moves_is_left_to_the_answers(bench: Bench) -> None:
    """A server that takes everything, and a lane that is never below the watermark: nothing goes to the disk."""
    bench.fill(0.6)
    delivered = 0
    for _ in range(40):
        bench.pass_time(PATIENCE_SECONDS * 0.9)
        delivered += bench.answer_the_oldest()
        bench.turn()
        bench.fill(0.6)
        assert WATERMARK < bench.used <= URGENT
    assert bench.spooled == 0
    assert delivered == 2000


def test_a_lane_whose_tail_stands_moves_to_the_spool(bench: Bench) -> None:
    """No answer comes: after the time of patience, and not before, its space is free."""
    bench.fill(0.6)
    bench.turn()
    due = bench.relief.next_due()
    assert due == pytest.approx(bench.rooms.clock.now + PATIENCE_SECONDS)
    bench.pass_time(PATIENCE_SECONDS * 0.9)
    assert bench.spooled == 0
    bench.pass_time(PATIENCE_SECONDS * 0.2)
    assert bench.spooled == bench.made // 50 * 50, "the open batch may stay: there is room again"
    assert bench.used < 0.1
    assert bench.relief.next_due() is None


def test_a_lane_below_the_watermark_waits_as_long_as_it_takes(bench: Bench) -> None:
    """However long no answer comes: there is room for what the producer makes."""
    bench.fill(0.45)
    for _ in range(10):
        bench.pass_time(PATIENCE_SECONDS)
    assert (bench.spooled, bench.relief.next_due()) == (0, None)


def test_answers_that_are_too_slow_do_not_fill_the_lane(bench: Bench) -> None:
    """The tail moves, but events come faster: above the urgent mark they move to the spool at once."""
    bench.fill(0.7)
    bench.turn()
    bench.answer_the_oldest()
    bench.turn()
    assert bench.spooled == 0
    bench.fill(URGENT + 0.01)
    bench.turn()
    assert bench.spooled > 0
    assert bench.used < 0.1


def test_an_open_batch_moves_to_the_spool_in_parts(tmp_path: Path) -> None:
    """Its lane space goes, the batch stays open, and is sealed whole later."""
    bench = Bench(tmp_path, events_per_request=5000, request_time_interval=600)
    rooms = bench.rooms
    for n in range(2000):
        while not bench.producer.enqueue(event(n)):
            bench.turn()
            assert bench.used == 0.0
    bench.turn()
    assert rooms.senders.sent == []
    assert rooms.spool.totals.fragment_events > 500
    bench.batcher.seal_all()
    (batch,) = rooms.shipper.lines[bench.key].items
    assert [made["n"] for made in json.loads(batch.body)["ev"]] == list(range(2000))
    assert rooms.spool.events_held(batch) == rooms.spool.totals.fragment_events
    rooms.shipper.dispatch()
    rooms.senders.reply(status=200)
    rooms.shipper.collect()
    assert rooms.spool.totals.fragment_events == 0
    rooms.close()
