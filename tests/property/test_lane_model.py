"""A lane against a list: whatever is written, read, marked, released and restarted in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vwo_fast import _batch, _lane

from ..support.lanes import CAPACITY, Owner

ROUTES = (11, 12)
HEADER = 32


class LaneMachine(RuleBasedStateMachine):
    """The model: records in order, each with its positions, and how far they are read and released."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="vf-model-"))
        self.owner = Owner(_lane.Control.create(str(self.folder / "control")), self.folder)
        assert self.owner.make_lane()
        self.producers = [_lane.Producer(self.owner, route, _lane.SHAPE_PLAIN, _lane.KIND_EVENT) for route in ROUTES]
        self.reader = _lane.LaneReader.attach(self.owner.path())
        self.records: list[tuple[int, str]] = []
        self.ends: dict[int, int] = {}
        self.done: set[int] = set()
        self.read = 0
        self.released = 0

    def teardown(self) -> None:
        self.reader.close()
        self.owner.close_lane()
        shutil.rmtree(self.folder)

    @rule(route=st.integers(0, 1), size=st.sampled_from([0, 1, 23, 100, 4000, 16_300]), count=st.integers(1, 6))
    def write(self, route: int, size: int, count: int) -> None:
        for _ in range(count):
            text = f"{len(self.records)}:" + "x" * size
            free = CAPACITY - (self.reader.head - self.reader.tail)
            accepted = self.producers[route].enqueue(text)
            if accepted:
                self.records.append((route, text))
            else:
                # A gap at the end of the ring can be as long as the record itself.
                assert free < 2 * (len(text) + 5 + HEADER + 8)

    @rule(route=st.integers(0, 1), events=st.integers(1, 5))
    def drain(self, route: int, events: int) -> None:
        batch = _batch.Batch(events)
        status, count, start, end, first_seq, invalid = self.reader.drain(batch, ROUTES[route], self.reader.head)
        self.skip_done()
        expected: list[str] = []
        while self.read < len(self.records) and len(expected) < events:
            if self.read in self.done or self.records[self.read][0] != route:
                break
            expected.append(self.records[self.read][1])
            self.read += 1
            self.ends[self.read - 1] = -1
        assert (count, invalid) == (len(expected), 0)
        assert status in (_batch.EMPTY, _batch.FULL, _batch.OTHER)
        if expected:
            assert first_seq == self.read - count + 1
            assert start < end <= self.reader.cursor
            self.ends[self.read - 1] = end
        body = ",".join(f'"{text}"' for text in expected)
        assert batch.seal()[0].decode() == '{"ev":[' + body + "]}"

    @rule()
    def take(self) -> None:
        record = self.reader.take()
        self.skip_done()
        if record is None:
            assert self.read == len(self.records)
            return
        kind, route, seq, _start, end, payload = record
        expected_route, text = self.records[self.read]
        self.read += 1
        assert (kind, route, seq) == (_lane.KIND_EVENT, ROUTES[expected_route], self.read)
        assert _batch.to_json(payload).decode() == f'"{text}"'
        self.ends[self.read - 1] = end

    def skip_done(self) -> None:
        while self.read in self.done:
            self.read += 1

    @precondition(lambda self: self.read > self.released)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        known = [index for index, end in self.ends.items() if end >= 0 and index >= self.released]
        if known:
            index = data.draw(st.sampled_from(known))
            self.reader.release(self.ends[index])
            self.released = index + 1

    @precondition(lambda self: self.read > self.released)
    @rule(data=st.data())
    def mark(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(self.released, self.read - 1))
        last = data.draw(st.integers(first, self.read - 1))
        assert self.reader.mark_done_seq(first + 1, last + 1) == last - first + 1
        self.done.update(range(first, last + 1))

    @rule()
    def restart(self) -> None:
        """Another aggregator begins at the tail and sees the marks."""
        self.reader.close()
        self.reader = _lane.LaneReader.attach(self.owner.path())
        self.read = self.released
        self.ends.clear()

    @invariant()
    def nothing_is_damaged(self) -> None:
        assert self.reader.damaged == 0
        assert self.reader.tail <= self.reader.cursor <= self.reader.head <= self.reader.tail + CAPACITY
        assert self.owner.lane_counters()[0] == len(self.records)
        assert os.path.getsize(self.owner.path()) == 4096 + CAPACITY


TestLane = LaneMachine.TestCase
TestLane.settings = settings(max_examples=60, stateful_step_count=60)
