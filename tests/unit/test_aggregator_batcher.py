"""From real lanes to sealed batches: counts, limits, timers, release, damage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import impression
from tests.support.rooms import ROUTE, LaneWriter, Rooms, event
from vwo_fast import _lane
from vwo_fast.aggregator.batcher import Batcher
from vwo_fast.aggregator.lanes import Lane
from vwo_fast.aggregator.routes import MISSED_SECONDS
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.counters import ControlCounter, LaneCounter, Reason
from vwo_fast.route import Route

OTHER = Route.fullstack(account_id=2, sdk_key="k2", sdk_version="1")


class Sink:
    """Takes what is sealed."""

    def __init__(self) -> None:
        self.taken: list[Sealed] = []
        self.has_room = True

    def accept(self, sealed: Sealed, route: Route) -> None:
        self.taken.append(sealed)

    def numbers(self) -> list[list[int]]:
        return [[made["n"] for made in json.loads(batch.body)["ev"]] for batch in self.taken]


class Bench:
    """A batcher on the lanes of a folder."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.rooms = Rooms(root, **options)
        self.sink = Sink()
        self.key = self.rooms.add_route()
        self.batcher = self.new_batcher()

    def new_batcher(self) -> Batcher:
        return Batcher(
            self.rooms.settings,
            folder=self.rooms.folder,
            routes=self.rooms.routes,
            sink=self.sink,
            first_ordinal=1,
            clock=self.rooms.clock,
        )

    def writer(self, **options: Any) -> LaneWriter:
        return LaneWriter(self.rooms.folder, self.rooms.control, **options)

    def read(self) -> None:
        self.rooms.lanes.scan()
        for lane in self.rooms.lanes.lanes.values():
            head = lane.head()
            while lane.read_to != head and self.batcher.read(lane, head):
                pass

    def lane(self, writer: LaneWriter) -> Lane:
        return self.rooms.lanes.lanes[writer.id]

    def restart(self) -> None:
        """A new life on the same lanes; what was open or sealed in memory is gone."""
        self.rooms.lanes.close()
        self.rooms.lanes = self.rooms.new_lanes()
        self.batcher = self.new_batcher()
        self.sink.taken.clear()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, events_per_request=4, request_time_interval=60)
    yield made
    made.rooms.close()


def settle(batch: Sealed) -> None:
    for segment in batch.segments:
        segment.settle()


def test_counts_hold_over_all_lanes(bench: Bench) -> None:
    """Events of two processes share the route's batches; each batch knows which lane gave which events."""
    first, second = bench.writer(), bench.writer(wants_reports=True)
    for n in range(5):
        assert first.producer(bench.key).enqueue(event(n))
        assert second.producer(bench.key).enqueue(event(100 + n))
    bench.read()
    assert [len(numbers) for numbers in bench.sink.numbers()] == [4, 4]
    assert bench.batcher.open_events == 2
    bench.batcher.seal_all()
    assert sorted(n for numbers in bench.sink.numbers() for n in numbers) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    reported = [e for batch in bench.sink.taken for e in batch.events_of(second.owner_id)]
    assert [json.loads(e)["n"] for e in reported] == [100, 101, 102, 103, 104]
    assert [batch.ordinal for batch in bench.sink.taken] == [1, 2, 3]


def test_a_batch_never_mixes_routes(bench: Bench) -> None:
    """Interleaved in one lane, the events of two accounts come out in batches of their own, in order."""
    other = bench.rooms.add_route(OTHER)
    writer = bench.writer()
    for n in range(8):
        assert writer.producer(other if n % 2 else bench.key).enqueue(event(n))
    bench.read()
    assert bench.sink.numbers() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [batch.route_key for batch in bench.sink.taken] == [bench.key, other]


def test_the_timer_starts_with_the_first_event(bench: Bench) -> None:
    """An empty batch has no timer; a seal clears it; the next first event starts it again."""
    writer = bench.writer()
    bench.read()
    assert bench.batcher.next_due() is None
    bench.rooms.clock.now = 1500.0
    writer.producer(bench.key).enqueue(event(1))
    bench.read()
    assert bench.batcher.next_due() == 1560.0
    bench.rooms.clock.now = 1550.0
    writer.producer(bench.key).enqueue(event(2))
    bench.read()
    bench.batcher.seal_due()
    assert bench.sink.taken == []
    bench.rooms.clock.now = 1560.0
    bench.batcher.seal_due()
    assert bench.sink.numbers() == [[1, 2]]
    assert bench.batcher.next_due() is None


def test_the_byte_limit_is_exact(tmp_path: Path) -> None:
    """A body may have exactly body_bytes_max bytes; the event that would break it opens the next batch."""
    body = json.dumps({"ev": [event(n) for n in range(10, 14)]}, separators=(",", ":"))
    for limit, sizes in ((len(body), [4, 4]), (len(body) - 1, [3, 3, 2])):
        root = tmp_path / str(limit)
        root.mkdir()
        bench = Bench(root, events_per_request=5000, body_bytes_max=limit)
        writer = bench.writer()
        for n in range(10, 18):
            writer.producer(bench.key).enqueue(event(n))
        bench.read()
        bench.batcher.seal_all()
        assert [len(numbers) for numbers in bench.sink.numbers()] == sizes
        assert all(batch.size <= limit for batch in bench.sink.taken)
        bench.rooms.close()


def test_space_is_released_behind_what_is_settled(bench: Bench) -> None:
    """Batches that settle out of order release nothing before the first; a restart sends only the unsettled."""
    writer = bench.writer()
    for n in range(12):
        writer.producer(bench.key).enqueue(event(n))
    bench.read()
    first, second, third = bench.sink.taken
    settle(second)
    assert bench.lane(writer).reader.tail == first.sources[0].start
    bench.restart()
    bench.read()
    assert bench.sink.numbers() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    first, third = bench.sink.taken
    settle(first)
    assert bench.lane(writer).reader.tail == third.sources[0].start
    settle(third)
    assert bench.lane(writer).reader.tail == bench.lane(writer).head()


def test_what_the_spool_has_is_not_read_again(bench: Bench) -> None:
    """Killed between the spool's transaction and the marks: the next start marks those records."""
    writer = bench.writer()
    for n in range(8):
        writer.producer(bench.key).enqueue(event(n))
    bench.read()
    source = bench.sink.taken[0].sources[0]
    bench.restart()
    bench.rooms.lanes = bench.rooms.new_lanes({writer.id: [(source.start, source.end), (0, 0)]})
    bench.read()
    assert bench.sink.numbers() == [[4, 5, 6, 7]]


def test_reading_stops_when_there_is_no_room(bench: Bench) -> None:
    """Nothing is read beyond what the shipper takes; the rest stays in the lane."""
    writer = bench.writer()
    for n in range(8):
        writer.producer(bench.key).enqueue(event(n))
    bench.sink.has_room = False
    bench.rooms.lanes.scan()
    lane = bench.lane(writer)
    assert not bench.batcher.read(lane, lane.head())
    assert lane.read_to != lane.head()
    bench.sink.has_room = True
    bench.read()
    assert lane.read_to == lane.head()


def test_events_of_an_unknown_route_are_counted(bench: Bench) -> None:
    """No file, or a file that is not the route it is named after: dropped as damaged, the others go on."""
    (bench.rooms.folder / f"route-{99:016x}").write_bytes(ROUTE.encode())
    writer = bench.writer()
    for n in range(4):
        writer.producer(99 if n % 2 else 98).enqueue(event(n))
        writer.producer(bench.key).enqueue(event(n))
    bench.read()
    assert bench.batcher.take_lost() == 0
    bench.rooms.clock.now += MISSED_SECONDS
    bench.read()
    assert bench.sink.numbers() == [[0, 1, 2, 3]]
    assert bench.rooms.control.counter(ControlCounter.BY_REASON + Reason.DAMAGED) == 4
    assert bench.batcher.take_lost() == 4
    settle(bench.sink.taken[0])
    assert bench.lane(writer).reader.tail == bench.lane(writer).head()


def test_a_route_that_is_missed_holds_its_lane(bench: Bench) -> None:
    """Its events wait for it, the lane behind them too, and when it is there nothing is lost."""
    writer = bench.writer()
    other = Route.fullstack(account_id=2, sdk_key="k", sdk_version="1")
    for n in range(4):
        writer.producer(other.key).enqueue(event(n))
    bench.read()
    bench.read()
    lane = bench.lane(writer)
    assert (lane.read_to == lane.head(), bench.batcher.take_lost()) == (False, 0)
    (bench.rooms.folder / f"route-{other.key:016x}").write_bytes(other.encode())
    bench.read()
    assert bench.sink.numbers() == [[0, 1, 2, 3]]
    assert bench.batcher.take_lost() == 0


def test_in_a_folder_that_is_deleted_no_route_is_unknown(bench: Bench) -> None:
    """However long it takes until the aggregator ends: the events stay for their process, which takes them along."""
    writer = bench.writer()
    writer.producer(98).enqueue(event(1))
    bench.rooms.lanes.scan()
    lane = bench.lane(writer)
    bench.rooms.folder.rename(bench.rooms.folder.with_name("gone"))
    for _ in range(3):
        bench.batcher.read(lane, lane.head())
        bench.rooms.clock.now += MISSED_SECONDS
    assert bench.batcher.take_lost() == 0
    assert lane.read_to != lane.head()
    assert lane.is_waiting


def test_a_large_event_comes_from_its_file(bench: Bench) -> None:
    """Whole, in its place, and the file goes when it has settled; without its file it is counted as damaged."""
    writer = bench.writer()
    for n in range(4):
        made = {**event(n), "pad": "x" * (100_000 if n % 2 else 1)}
        assert writer.producer(bench.key).enqueue(made)
    files = sorted(bench.rooms.folder.glob("big-*"))
    assert len(files) == 2
    files[1].write_bytes(b"x" * files[1].stat().st_size)
    bench.read()
    bench.batcher.seal_all()
    assert bench.sink.numbers() == [[0, 1, 2]]
    settle(bench.sink.taken[0])
    assert list(bench.rooms.folder.glob("big-*")) == []
    assert bench.rooms.control.counter(ControlCounter.BY_REASON + Reason.DAMAGED) == 1


def test_a_lane_of_the_dead_is_retired(bench: Bench) -> None:
    """When its producer is gone and all has settled, its counters move to the totals and the file goes."""
    writer = bench.writer()
    for n in range(4):
        writer.producer(bench.key).enqueue(event(n))
    accepted = writer.lane_counters()[LaneCounter.ACCEPTED]
    bench.read()
    bench.rooms.lanes.retire()
    assert writer.path.exists(), "its producer lives"
    writer.die()
    bench.rooms.lanes.retire()
    assert writer.path.exists(), "its events have not settled"
    settle(bench.sink.taken[0])
    bench.rooms.lanes.retire()
    assert not writer.path.exists()
    assert bench.rooms.lanes.lanes == {}
    counter = bench.rooms.control.counter
    assert counter(ControlCounter.RETIRED_ACCEPTED) == accepted == 4
    assert counter(ControlCounter.RETIRE_SEQUENCE) % 2 == 0


def test_strange_files_stop_nothing(bench: Bench) -> None:
    """Garbage and misnamed lanes are put aside; an old unfinished lane of nobody is removed, a young one is not."""
    folder = bench.rooms.folder
    (folder / f"lane-{1:016x}").write_bytes(os.urandom(100))
    (folder / f"lane-{3:016x}.tmp").write_bytes(b"")
    (folder / f"lane-{4:016x}.tmp").write_bytes(b"")
    os.utime(folder / f"lane-{4:016x}.tmp", (1, 1))
    (folder / "lane-notes").write_bytes(b"")
    writer = bench.writer()
    writer.path.rename(folder / f"lane-{2:016x}")
    good = bench.writer()
    good.producer(bench.key).enqueue(event(1))
    bench.read()
    bench.batcher.seal_all()
    assert bench.sink.numbers() == [[1]]
    assert len(list(folder.glob("*.bad"))) == 2
    assert bench.rooms.control.counter(ControlCounter.QUARANTINED_LANES) == 2
    assert (folder / f"lane-{3:016x}.tmp").exists()
    assert not (folder / f"lane-{4:016x}.tmp").exists()


def test_real_time_sends_each_event_alone(tmp_path: Path) -> None:
    """An impression becomes the SDK's GET, with its parameters in order and its visitor's headers; a request is as it
    was described."""
    bench = Bench(tmp_path)
    writer = bench.writer()
    made = impression(1, r=None, visitor_ua="UA\u00e9", visitor_ip="", big=10**30)
    assert writer.producer(bench.key, _lane.KIND_IMPRESSION).enqueue(made)
    request = ["POST", "/events/t", [["en", "x"]], {"A": "b"}, '{"d":{"visId":"V"}}', 7]
    assert writer.producer(bench.key, _lane.KIND_REQUEST).enqueue(request)
    assert writer.producer(bench.key).enqueue(event(3))
    bench.read()
    get, post, batch = bench.sink.taken
    assert get.head is not None
    assert (get.head.method, get.head.path, get.head.sends_body) == ("GET", "/server-side/track-user", False)
    names = [name for name, _ in get.head.query]
    assert names == [name for name in made if name not in ("url", "r")]
    assert dict(get.head.query)["big"] == str(10**30)
    assert dict(get.head.headers) == {"User-Agent": "vwo-python-sdk", "X-Device-User-Agent": "UA\u00e9"}
    assert json.loads(get.events_of(0)[0])["u"] == made["u"]
    assert post.head is not None
    assert (post.head.query, post.body, int.from_bytes(post.visitors, "little").bit_count()) == (
        (("en", "x"),),
        b'{"d":{"visId":"V"}}',
        1,
    )
    assert (batch.head, batch.events) == (None, 1)
    bench.rooms.close()


@pytest.mark.parametrize(
    "payload",
    [
        None,
        ["POST"],
        ["DELETE", "/x", [], {}, None, 0],
        ["GET", "http://elsewhere/", [], {}, None, 0],
        ["GET", "/x", [["a", 1]], {}, None, 0],
        ["GET", "/x", [], {"a": 1}, None, 0],
        ["GET", "/x", [], [], None, 0],
        ["GET", "/x", [], {}, 5, 0],
        ["GET", "/x", [], {}, "\u00e9", 0],
        ["GET", "/x", [], {}, None, -1],
        ["GET", "/x", [], {}, None, True],
    ],
)
def test_a_request_that_is_none_is_dropped_and_counted(bench: Bench, payload: Any) -> None:
    """Only what a producer of ours writes is sent; anything else is counted, and what follows goes on."""
    writer = bench.writer()
    writer.producer(bench.key, _lane.KIND_REQUEST).enqueue(payload)
    writer.producer(bench.key).enqueue(event(1))
    bench.read()
    bench.batcher.seal_all()
    assert bench.sink.numbers() == [[1]]
    assert bench.rooms.control.counter(ControlCounter.BY_REASON + Reason.NOT_TRANSCODABLE) == 1
