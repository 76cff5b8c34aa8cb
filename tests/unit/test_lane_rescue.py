"""A producer leaves a lane that nobody reads any more, and takes along what was not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from tests.support.rooms import LaneWriter
from vwo_fast import _lane
from vwo_fast._lane import Control, LaneReader
from vwo_fast.counters import ControlCounter, LaneCounter, Reason
from vwo_fast.locks import random_id

ROUTE_KEY = 77
HEADER = 4096
PLACE = 296
"""Where the header says what was read when the lane was put aside."""
LOST = ControlCounter.WITHOUT_LANE + Reason.DAMAGED


class Writer(LaneWriter):
    """A producer's lane that can be exchanged for another."""

    def move(self) -> tuple[int, int]:
        lane_id = random_id()
        path = self.folder / f"lane-{lane_id:016x}"
        self.open_lane(str(path), lane_id, self.owner_id, self.capacity, False, keep_old=True)
        os.rename(f"{path}.tmp", path)
        self.path = path
        return self.rescue_old()

    def hook_adopted(self, lane_id: int, seq: int, new_seq: int) -> bool:
        old = self.folder / f"big-{lane_id:016x}-{seq:016x}"
        old.rename(self.folder / f"big-{self.lane_id:016x}-{new_seq:016x}")
        return True


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    made = Control.create(str(tmp_path / "control"))
    yield made
    made.close()


def read_all(path: Path) -> list[int]:
    reader = LaneReader.attach(str(path))
    found = []
    while (taken := reader.take()) is not None:
        found.append(msgpack.unpackb(taken[5])["n"])
    reader.close()
    return found


def filled(folder: Path, control: Control, count: int) -> Writer:
    writer = Writer(folder, control)
    producer = writer.producer(ROUTE_KEY)
    assert all(producer.enqueue({"n": n}) for n in range(count))
    return writer


def test_what_was_not_read_moves(tmp_path: Path, control: Control) -> None:
    """From the place that the aggregator named, in order, and only that is counted as accepted again."""
    writer = filled(tmp_path, control, 10)
    reader = LaneReader.attach(str(writer.path))
    for _ in range(4):
        reader.take()
    assert not writer.is_abandoned
    assert not reader.is_claimed
    reader.abandon()
    assert writer.is_abandoned
    assert writer.move() == (6, 0)
    assert reader.is_claimed
    assert read_all(writer.path) == [4, 5, 6, 7, 8, 9]
    assert not writer.is_abandoned
    assert writer.lane_counters()[LaneCounter.ACCEPTED] == 6
    assert writer.rescue_old() == (0, 0)
    reader.close()


def test_a_lane_that_nobody_could_read_moves_from_its_tail(tmp_path: Path, control: Control) -> None:
    """What is released or marked as done stays, the rest moves, and all of it was accepted."""
    writer = filled(tmp_path, control, 10)
    reader = LaneReader.attach(str(writer.path))
    ends = [taken[4] for _ in range(6) if (taken := reader.take()) is not None]
    reader.release(ends[2])
    reader.mark_done(ends[3], ends[4])
    assert writer.move() == (6, 0)
    assert read_all(writer.path) == [3, 5, 6, 7, 8, 9]
    assert writer.lane_counters()[LaneCounter.ACCEPTED] == 10
    reader.close()


@pytest.mark.parametrize("offset", [0, 128, 256, PLACE, 16])
def test_a_scribbled_header_changes_nothing(tmp_path: Path, control: Control, offset: int) -> None:
    """Magic, head, tail, the place, capacity: the producer knows better. At worst what was read moves as well."""
    writer = filled(tmp_path, control, 10)
    reader = LaneReader.attach(str(writer.path))
    reader.take()
    reader.abandon()
    with writer.path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa7" * 8)
    moved, lost = writer.move()
    assert lost == 0
    assert moved == (10 if offset == PLACE else 9)
    assert read_all(writer.path)[-9:] == list(range(1, 10))
    reader.close()


def test_damaged_records_are_counted(tmp_path: Path, control: Control) -> None:
    """One record is overwritten: it is counted as dropped by damage, those around it move."""
    writer = filled(tmp_path, control, 10)
    reader = LaneReader.attach(str(writer.path))
    reader.abandon()
    starts = [taken[3] for _ in range(10) if (taken := reader.take()) is not None]
    with writer.path.open("r+b") as file:
        file.seek(HEADER + starts[5] + 33)
        file.write(b"\xff\xff")
    assert writer.move() == (9, 1)
    assert read_all(writer.path) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert control.counter(LOST) == 1
    assert writer.lane_counters()[LaneCounter.ACCEPTED] == 10
    reader.close()


def test_large_events_move_with_their_files(tmp_path: Path, control: Control) -> None:
    """The file beside the lane gets the name of the new lane; one whose file is gone is lost, and counted."""
    writer = Writer(tmp_path, control)
    producer = writer.producer(ROUTE_KEY)
    assert producer.enqueue({"n": 0})
    for n in (1, 2):
        assert producer.enqueue({"n": n, "pad": "x" * 40_000})
    first, _ = sorted(tmp_path.glob("big-*"))
    first.unlink()
    reader = LaneReader.attach(str(writer.path))
    reader.abandon()
    assert writer.move() == (2, 1)
    (left,) = tmp_path.glob("big-*")
    assert left.name.startswith(f"big-{writer.lane_id:016x}-")
    again = LaneReader.attach(str(writer.path))
    assert [taken[0] for _ in range(2) if (taken := again.take()) is not None] == [
        _lane.KIND_EVENT,
        _lane.KIND_EVENT | _lane.KIND_EXTERNAL,
    ]
    assert control.counter(LOST) == 1
    again.close()
    reader.close()
