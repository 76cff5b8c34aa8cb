"""The consumer's side of a lane, and the packing of FullStack impressions."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vwo_fast import _batch, _lane

from ..support.lanes import CAPACITY, Owner, read

ROUTE = 4242


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(_lane.Control.create(str(tmp_path / "control")), tmp_path)
    yield owner
    owner.close_lane()


@pytest.fixture
def producer(owner: Owner) -> _lane.Producer:
    return _lane.Producer(owner, ROUTE, _lane.SHAPE_PLAIN, _lane.KIND_EVENT)


def attach(owner: Owner) -> _lane.LaneReader:
    return _lane.LaneReader.attach(owner.path())


def other_route(owner: Owner, kind: int = _lane.KIND_EVENT) -> _lane.Producer:
    return _lane.Producer(owner, ROUTE + 1, _lane.SHAPE_PLAIN, kind)


def drain(reader: _lane.LaneReader, batch: _batch.Batch, until: int | None = None) -> SimpleNamespace:
    names = ("status", "count", "start", "end", "first_seq", "invalid")
    run = reader.drain(batch, ROUTE, reader.head if until is None else until)
    return SimpleNamespace(**dict(zip(names, run, strict=True)))


class TestReading:
    def test_a_run_ends_where_the_route_or_kind_changes(self, owner: Owner, producer: _lane.Producer) -> None:
        """OTHER tells that the next record is for someone else; peek tells for whom."""
        producer.enqueue(1)
        producer.enqueue(2)
        other_route(owner).enqueue(3)
        other_route(owner, _lane.KIND_REQUEST).enqueue(4)
        producer.enqueue(5)
        reader, batch = attach(owner), _batch.Batch()
        run = drain(reader, batch)
        assert (run.status, run.count, run.first_seq, run.invalid) == (_batch.OTHER, 2, 1, 0)
        assert (run.start, run.end) == (0, 80)
        assert reader.peek() == (_lane.KIND_EVENT, ROUTE + 1)
        assert reader.take() == (_lane.KIND_EVENT, ROUTE + 1, 3, 80, 120, b"\x03")
        assert reader.peek() == (_lane.KIND_REQUEST, ROUTE + 1)
        assert reader.take() == (_lane.KIND_REQUEST, ROUTE + 1, 4, 120, 160, b"\x04")
        assert drain(reader, batch).status == _batch.EMPTY
        assert batch.seal()[0] == b'{"ev":[1,2,5]}'
        assert reader.peek() is None
        assert reader.take() is None

    def test_until_is_a_barrier(self, owner: Owner, producer: _lane.Producer) -> None:
        """Records that begin at or after it stay."""
        producer.enqueue(1)
        reader, batch = attach(owner), _batch.Batch()
        until = reader.head
        producer.enqueue(2)
        run = drain(reader, batch, until)
        assert (run.status, run.count, reader.cursor) == (_batch.EMPTY, 1, until)
        assert drain(reader, batch).count == 1

    def test_a_full_batch_stops_the_run(self, owner: Owner, producer: _lane.Producer) -> None:
        """The record that does not fit is read again after the seal."""
        for number in range(5):
            producer.enqueue(number)
        reader, batch = attach(owner), _batch.Batch(3)
        assert (drain(reader, batch).status, batch.count) == (_batch.FULL, 3)
        batch.clear()
        run = drain(reader, batch)
        assert (run.status, run.count, run.first_seq) == (_batch.EMPTY, 2, 4)

    def test_what_cannot_become_json_is_passed_over(self, owner: Owner, producer: _lane.Producer) -> None:
        """Such a record, here one too large for this batch, counts as read and invalid."""
        for event in (1, "x" * 100, 2):
            producer.enqueue(event)
        reader, batch = attach(owner), _batch.Batch(10, 50)
        run = drain(reader, batch)
        assert (run.status, run.count, run.first_seq, run.invalid) == (_batch.EMPTY, 2, 1, 1)
        assert batch.seal()[0] == b'{"ev":[1,2]}'

    def test_rewind_reads_again(self, owner: Owner, producer: _lane.Producer) -> None:
        """The cursor goes back, but not before the tail and not forward."""
        for number in range(3):
            producer.enqueue(number)
        reader = attach(owner)
        assert len(read(reader)) == 3
        reader.release(40)
        reader.rewind(40)
        assert read(reader) == [b"1", b"2"]
        for position in (0, 160, 41):
            with pytest.raises(ValueError, match="does not lie between"):
                reader.rewind(position)

    def test_released_space_is_used_again(self, owner: Owner, producer: _lane.Producer) -> None:
        """A lane carries many times its capacity."""
        producer.enqueue("begin")
        reader = attach(owner)
        read(reader)
        for lap in range(300):
            for number in range(7):
                assert producer.enqueue([lap, "x" * (number * 150)])
            assert len(read(reader)) == 7
            reader.release(reader.cursor)
        assert reader.tail == reader.head == reader.cursor > 10 * CAPACITY
        with pytest.raises(ValueError, match="does not lie between"):
            reader.release(reader.cursor + 40)

    def test_done_records_are_skipped_after_a_restart(self, owner: Owner, producer: _lane.Producer) -> None:
        """Marks by position and by sequence are in the lane, not in the reader."""
        for number in range(10):
            producer.enqueue(number)
        reader = attach(owner)
        read(reader)
        assert reader.mark_done(40, 120) == 2
        assert reader.mark_done_seq(5, 6) == 2
        assert reader.mark_done_seq(50, 60) == 0
        reader.close()
        again = attach(owner)
        batch = _batch.Batch()
        counts = []
        while (run := drain(again, batch)).count:
            counts.append((run.first_seq, run.count))
        assert counts == [(1, 1), (4, 1), (7, 4)]
        assert batch.seal()[0] == b'{"ev":[0,3,6,7,8,9]}'
        assert again.damaged == 0

    def test_marks_outside_the_lane_are_refused(self, owner: Owner, producer: _lane.Producer) -> None:
        """Positions before the tail or beyond the head are an error of the caller."""
        producer.enqueue(1)
        reader = attach(owner)
        for start, end in ((0, 80), (80, 120), (40, 0), (4, 40)):
            with pytest.raises(ValueError, match="does not lie between"):
                reader.mark_done(start, end)

    def test_a_closed_reader_says_so(self, owner: Owner, producer: _lane.Producer) -> None:
        """After close nothing of the mapping is touched."""
        producer.enqueue(1)
        reader = attach(owner)
        reader.close()
        reader.close()
        for use in (reader.peek, reader.take, reader.counters, lambda: reader.head, lambda: reader.mark_done(0, 0)):
            with pytest.raises(ValueError, match="closed"):
                use()


class TestHostileLane:
    def test_a_damaged_record_is_skipped_and_counted(self, owner: Owner, producer: _lane.Producer) -> None:
        """Its neighbours arrive."""
        for number in range(5):
            producer.enqueue(number)
        with open(owner.path(), "r+b") as file:
            file.seek(4096 + 2 * 40 + 32)
            file.write(b"\x07")
        reader = attach(owner)
        assert read(reader) == [b"0", b"1", b"3", b"4"]
        assert reader.damaged == 1
        assert reader.cursor == reader.head

    def test_a_head_that_cannot_be_true(self, owner: Owner, producer: _lane.Producer) -> None:
        """Every call that looks at it raises SegmentError and reads nothing."""
        producer.enqueue(1)
        reader = attach(owner)
        with open(owner.path(), "r+b") as file:
            file.seek(128)
            file.write((1 << 40).to_bytes(8, "little"))
        for use in (reader.peek, reader.take, lambda: reader.head, lambda: reader.drain(_batch.Batch(), ROUTE, 80)):
            with pytest.raises(_lane.SegmentError, match="head cannot be true"):
                use()
        with pytest.raises(_lane.SegmentError, match="cannot be true in a ring"):
            attach(owner)

    def test_what_is_no_lane(self, owner: Owner, tmp_path: Path) -> None:
        """Links, pipes and other files are refused, and the text names the path."""
        path = tmp_path / "thing"
        path.write_bytes(bytes(4096 + CAPACITY))
        with pytest.raises(_lane.SegmentError, match=r"thing: magic 0000"):
            _lane.LaneReader.attach(str(path))
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(_lane.SegmentError, match="not a regular file"):
            _lane.LaneReader.attach(str(path))
        path.unlink()
        path.symlink_to(tmp_path / "control")
        with pytest.raises(_lane.SegmentError, match=r"thing: not a regular file"):
            _lane.LaneReader.attach(str(path))
        with pytest.raises(FileNotFoundError):
            _lane.LaneReader.attach(str(tmp_path / "absent"))


IMPRESSION: dict[str, Any] = {
    "random": 0.25,
    "sdk": "vwo-python-sdk",
    "sdk-v": "1.68.2",
    "ap": "server",
    "sId": 1732000000,
    "u": "F" * 32,
    "account_id": 888888,
    "env": "k" * 32,
    "visitor_ua": "Mozilla/5.0 (\u00e9)",
    "visitor_ip": "",
    "experiment_id": 12,
    "combination": 3,
    "url": "https://dev.visualwebsiteoptimizer.com/eu01/server-side/track-user",
}
GOAL = {**IMPRESSION, "goal_id": 7, "url": "https://h/server-side/track-goal"}
PUSH = {**IMPRESSION, "tags": '{"u": {"k": "v"}}', "url": "/server-side/push"}


def official_event(impression: dict[str, Any]) -> dict[str, Any]:
    """What the official dispatcher makes of an impression, told in our own words."""
    event = {name: impression.get(name) for name in ("u", "sId", "visitor_ua", "visitor_ip")}
    kind = impression["url"].split("/")[-1]
    if kind == "push":
        return {**event, "t": impression.get("tags"), "eT": 3}
    event |= {"c": impression.get("combination"), "e": impression.get("experiment_id")}
    if kind == "track-user":
        return {**event, "eT": 1}
    event |= {"g": impression.get("goal_id"), "eT": 2}
    return event if impression.get("r") is None else {**event, "r": impression["r"]}


class TestFullstack:
    @pytest.mark.parametrize(
        "impression",
        [
            IMPRESSION,
            GOAL,
            PUSH,
            {**GOAL, "r": 12.5},
            {**GOAL, "r": 0},
            {**GOAL, "r": None},
            {**GOAL, "r": {"nested": ["values", 10**30]}},
            {**IMPRESSION, "r": 1, "tags": "ignored"},
            {"url": "track-user"},
            {"url": "/push"},
            {"url": "/track-goal", "u": None, "combination": "x", 5: 6, None: 7},
            collections.OrderedDict(GOAL),
            collections.defaultdict(int, PUSH),
        ],
    )
    def test_it_is_the_official_event(self, impression: dict[str, Any]) -> None:
        """Keys, their order, None and falsy values are those of the official batch mode; the caller's dict stays."""
        before = dict(impression)
        assert _lane.pack_fullstack(impression) == _lane.pack(official_event(impression))
        assert dict(impression) == before

    def test_keys_need_not_be_the_same_objects(self) -> None:
        """Keys made at run time, and subclasses of str, are found by what they say."""

        class Name(str):
            pass

        for make in (lambda key: "".join(list(key)), Name):
            made = {make(key): value for key, value in GOAL.items()}
            for _ in range(3):
                assert _lane.pack_fullstack(made) == _lane.pack_fullstack(GOAL)

    @pytest.mark.parametrize(
        "impression",
        [
            {},
            {"url": None},
            {"url": 5},
            {"url": "https://h/server-side/batch-events"},
            {"url": "https://h/xtrack-user"},
            {"url": "https://h/track-user/"},
            {"url": "track-user\u20ac"},
            {"url": "\u20ac/track-use"},
            [("url", "track-user")],
            None,
            "track-user",
        ],
    )
    def test_what_is_no_impression_is_refused(self, owner: Owner, impression: Any) -> None:
        """Without a url that names an event nothing is guessed."""
        producer = _lane.Producer(owner, ROUTE, _lane.SHAPE_FULLSTACK, _lane.KIND_EVENT)
        assert producer.enqueue(impression) is False
        assert owner.refusals() == [_lane.REASON_BAD_IMPRESSION]

    def test_a_wide_url_still_names_its_event(self) -> None:
        """Characters outside Latin-1 before the last segment change nothing."""
        assert _lane.pack_fullstack({**GOAL, "url": "https://\u20ac/track-goal"}) == _lane.pack_fullstack(GOAL)

    def test_values_that_json_cannot_carry(self, owner: Owner) -> None:
        """They are refused with their place in the event."""
        producer = _lane.Producer(owner, ROUTE, _lane.SHAPE_FULLSTACK, _lane.KIND_EVENT)
        assert not producer.enqueue({**GOAL, "r": float("nan")})
        assert owner.heard[-1] == ("refused", _lane.REASON_NOT_JSON, "a float that is not finite at r")
        assert producer.enqueue({**GOAL, "account_id": object()})


class TestCheckValue:
    def test_it_depends_on_every_bit_and_on_the_length(self) -> None:
        """No flip of one bit, and no zero byte more, keeps it."""
        for size in (0, 1, 7, 8, 15, 16, 31, 32, 63, 64, 65, 200):
            data = bytes(range(size))
            values = {_lane.check_value(data), _lane.check_value(data + b"\x00")}
            for bit in range(8 * size):
                flipped = bytearray(data)
                flipped[bit // 8] ^= 1 << bit % 8
                values.add(_lane.check_value(flipped))
            assert len(values) == 8 * size + 2
