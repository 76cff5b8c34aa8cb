"""The journal: what an entry says is done again, and needs no second entry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from tests.support.lanes import LANE_ID, Owner, read
from vwo_fast import _lane
from vwo_fast.aggregator.journal import Entry, Journal, redo
from vwo_fast.aggregator.spool import Spool
from vwo_fast.counters import ControlCounter, Reason

ROUTE = 4242
DAMAGED = int(ControlCounter.BY_REASON + Reason.DAMAGED)

NO_SPOOL = cast(Spool, None)
"""None of these entries touches it."""


def lane_of_five(folder: Path) -> tuple[_lane.Control, Path]:
    """A lane with the events 0 to 4, under the name that a queue gives it."""
    control = _lane.Control.create(str(folder / "control"))
    owner = Owner(control, folder)
    producer = _lane.Producer(owner, ROUTE, _lane.SHAPE_PLAIN, _lane.KIND_EVENT)
    assert all(producer.enqueue(number) for number in range(5))
    path = folder / f"lane-{LANE_ID:016x}"
    os.rename(owner.path(), path)
    owner.close_lane()
    return control, path


def starts(path: Path) -> list[int]:
    reader = _lane.LaneReader.attach(str(path))
    found = []
    while (record := reader.take()) is not None:
        found.append(record[3])
    return [*found, reader.head]


def test_records_that_settled_are_marked_in_their_lane(tmp_path: Path) -> None:
    """A kill after the entry is cleared, and before the lane is attached, has none of them sent again."""
    control, path = lane_of_five(tmp_path)
    at = starts(path)
    entry = Entry(totals={ControlCounter.DELIVERED: 2}, done=((LANE_ID, at[1], at[3]), (LANE_ID + 1, 0, 80)))
    for _ in range(2):
        ranges = redo(entry, control, NO_SPOOL, tmp_path)
        assert ranges == {LANE_ID: [(at[1], at[3])], LANE_ID + 1: [(0, 80)]}
    assert control.counter(ControlCounter.DELIVERED) == 2
    assert read(_lane.LaneReader.attach(str(path))) == [b"0", b"3", b"4"]


def test_damage_that_was_counted_is_noted_in_its_lane(tmp_path: Path) -> None:
    """A reader that comes later skips it, and knows how many records lie before what it reads."""
    control, path = lane_of_five(tmp_path)
    at = starts(path)
    with path.open("r+b") as file:
        file.seek(4096 + at[2])
        file.write(b"\xa5" * 40)
    journal = Journal(tmp_path / "journal")
    journal.write(Entry(totals={DAMAGED: 1}, damage=(LANE_ID, at[3], 3)))
    entry = journal.read()
    assert entry is not None
    redo(entry, control, NO_SPOOL, tmp_path)
    assert control.counter(DAMAGED) == 1
    reader = _lane.LaneReader.attach(str(path))
    assert read(reader) == [b"0", b"1", b"3", b"4"]
    assert (reader.damaged, reader.passed, reader.damage_end) == (0, 5, (at[3], 3))
    journal.close()
