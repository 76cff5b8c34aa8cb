"""The lanes of a queue, and how their space is given back.

Idea: a lane is read ahead and released behind.  What was read at once and settles
at once is a segment; segments of a lane form a queue in the order of their
positions.  Key invariant: the tail never passes a segment that is not settled,
and a settled segment that is not at the front has its records marked as done, so
that a restart, which reads from the tail, does not send them again.  Hard case: a
producer may write anything into its lane at any time; a lane whose header cannot
be true is put aside, and the others go on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vwo_fast._lane import Control, LaneReader, SegmentError
from vwo_fast.aggregator.aside import NAME_LENGTH, PREFIX, SUFFIX, Aside, lane_id_of, records_max
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.metrics import Metrics, Throttle
from vwo_fast.counters import ControlCounter, Reason
from vwo_fast.locks import LockFile
from vwo_fast.paths import is_another

__all__ = ["Lane", "LaneSet", "Segment"]

logger = logging.getLogger(__name__)

EVENT_PREFIX = "big-"
UNFINISHED = ".new"
"""What a file is called until it is whole."""

ORPHAN_SECONDS = 10.0
UNFINISHED_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Segment:
    """One run of records of a lane."""

    lane: Lane
    start: int
    end: int
    untranscodable: int = 0
    damaged: int = 0
    external: Path | None = None
    """File of the one event of this segment that was too large for the lane."""
    passed: int = 0
    """Records of the lane before it."""
    settled: bool = False

    def settle(self) -> None:
        """Its events are delivered, in the spool, dead letters or counted as dropped.

        What it lost is counted by whoever settles it (see Metrics.entry).
        """
        if not self.settled:
            self.lane.settle(self)


class Lane:
    """One lane and what has been read of it but not released."""

    def __init__(self, path: Path, reader: LaneReader, metrics: Metrics) -> None:
        self.path = path
        self.reader = reader
        self.id = reader.lane_id
        self.owner = reader.owner if reader.wants_reports else 0
        """Whom to report to; 0 when nobody asked."""
        self.read_to = reader.cursor
        """Everything before this position has been read."""
        self.predecessor = reader.predecessor
        """Lane of the same process that is to be read first; 0 once that has been done."""
        self.is_gone = False
        self.is_waiting = False
        """The next record needs a file that is not there now."""
        self._metrics = metrics
        self._segments: deque[Segment] = deque()
        self._damaged = 0

    @property
    def is_settled(self) -> bool:
        """Nothing read waits for its outcome."""
        return not self._segments

    def head(self) -> int:
        """Published position. Raises SegmentError when it cannot be true."""
        return self.reader.head

    def has_unread(self) -> bool:
        """Whether there is something behind what has been read; also while its head cannot be true."""
        try:
            return self.read_to != self.head()
        except SegmentError:
            return True

    def used(self) -> float:
        """How much of the lane is not released, 0 to 1. Raises SegmentError likewise."""
        return (self.reader.head - self.reader.tail) / self.reader.capacity

    def add(self, start: int, end: int) -> Segment:
        """Remember a run that was just read."""
        segment = Segment(self, start, end, passed=self.reader.run_passed)
        self._segments.append(segment)
        return segment

    def give_back(self, segment: Segment) -> None:
        """Forget the run that was just read: it is read again."""
        self._segments.remove(segment)
        self.reader.rewind(segment.start, segment.passed)

    def settle(self, segment: Segment) -> None:
        """Release the segment, or mark it as done while an earlier one is not settled."""
        segment.settled = True
        if not self.is_gone and self._segments[0] is not segment:
            # A head that cannot be true stops it; the next read of this lane puts it aside.
            with contextlib.suppress(ValueError, SegmentError):
                self.reader.mark_done(segment.start, segment.end)
            reach("settle: marked")
        self.advance()
        if segment.external is not None:
            _remove(segment.external)

    def advance(self) -> None:
        """Move the tail up to the first segment that is not settled."""
        while self._segments and self._segments[0].settled:
            self._segments.popleft()
        if not self.is_gone:
            first = self._segments[0] if self._segments else None
            position = first.start if first else self.reader.cursor
            if position != self.reader.tail:
                reach("release: before")
                self.reader.release(position, first.passed if first else self.reader.passed)
                reach("release: after")

    def drop(self, segment: Segment) -> None:
        """Settle a segment none of whose events is in a batch."""
        with self._metrics.entry({}, segments=[segment]):
            segment.settle()

    def count_damage(self) -> int:
        """Count the records that the reader has skipped since the last call. Returns how many."""
        more = self.reader.damaged - self._damaged
        if more:
            position, passed = self.reader.damage_end
            # Counted and noted together: whoever reads the lane after a kill counts on from there.
            with self._metrics.entry(
                {ControlCounter.BY_REASON + Reason.DAMAGED: more}, damage=(self.id, position, passed)
            ):
                self.reader.note_damage(position, passed)
            self._damaged += more
        return more

    def abandon(self) -> None:
        """Read no more of it; its process takes along what has not settled."""
        self.advance()
        with contextlib.suppress(ValueError, SegmentError):
            if self._segments:
                self.reader.rewind(self._segments[0].start, self._segments[0].passed)
            self.reader.abandon()

    def leave(self) -> None:
        """Unmap the lane; segments that are still on their way may settle later."""
        self.is_gone = True
        self.reader.close()


class LaneSet:
    """All lanes of the folder. ``spooled`` names, by lane, the ranges that the spool holds already."""

    def __init__(
        self,
        folder: Path,
        control: Control,
        users: LockFile,
        metrics: Metrics,
        spooled: Mapping[int, Iterable[tuple[int, int]]],
    ) -> None:
        self.lanes: dict[int, Lane] = {}
        self._folder = folder
        self._folder_inode = os.stat(folder).st_ino
        self._control = control
        self._users = users
        self._metrics = metrics
        self._spooled = spooled
        self.aside = Aside(folder, users, metrics)
        self._generation = -1
        self._throttle = Throttle()

    @property
    def has_news(self) -> bool:
        """Whether a lane or a route got its name since the last scan."""
        return self._control.generation != self._generation

    @property
    def is_folder_gone(self) -> bool:
        """Whether the folder was deleted, or made anew: nobody can find us in it any more."""
        return is_another(self._folder, self._folder_inode)

    def scan(self) -> None:
        """Attach the lanes that are new in the folder."""
        self._generation = self._control.generation
        if self.is_folder_gone:
            return
        for entry in os.scandir(self._folder):
            name = entry.name
            if name.endswith(UNFINISHED):
                if _age(Path(entry.path)) > UNFINISHED_SECONDS:
                    _remove(Path(entry.path))
                continue
            if name.startswith(EVENT_PREFIX):
                self._remove_orphan_event(Path(entry.path))
            if not name.startswith(PREFIX):
                continue
            lane_id = lane_id_of(name)
            if lane_id is None:
                if name.endswith(".tmp"):
                    self._remove_orphan(Path(entry.path))
                elif name.endswith(SUFFIX):
                    self.aside.find(Path(entry.path))
            elif len(name) == NAME_LENGTH and lane_id not in self.lanes:
                self._attach(Path(entry.path), lane_id)

    def _attach(self, path: Path, lane_id: int) -> None:
        try:
            reader = LaneReader.attach(str(path))
        except FileNotFoundError:
            return
        except SegmentError as exc:
            self.aside.put(path, str(exc), lane_id=lane_id)
            return
        except OSError as exc:
            # Out of descriptors or memory: the lane is fine and is tried again at the next scan.
            if self._throttle.allows("attach"):
                logger.error("lane %s cannot be mapped now: %s", path.name, exc.strerror)
            return
        if reader.lane_id != lane_id:
            reader.close()
            self.aside.put(path, "its name and its header disagree", lane_id=lane_id)
            return
        lane = Lane(path, reader, self._metrics)
        try:
            for start, end in self._spooled.get(lane_id, ()):
                if end > reader.tail:
                    reader.mark_done(max(start, reader.tail), end)
        except ValueError:
            # Not abandoned: nobody has counted what was read of it, so its process counts all of it.
            reader.close()
            self.aside.put(path, "its head lies before what was read of it", lane_id=lane_id)
            return
        self.lanes[lane_id] = lane
        logger.debug("lane %016x attached", lane_id)

    def quarantine(self, lane: Lane, reason: str) -> None:
        """Stop reading a lane that cannot be right. Its producer is told, and takes along what was not read."""
        self.lanes.pop(lane.id, None)
        self.aside.lost(lane.count_damage())
        reader = lane.reader
        reader.abandon()
        self._metrics.lane_put_aside(reader.counters(), reader.passed, records_max(reader))
        lane.is_gone = True
        self.aside.put(lane.path, reason, lane_id=lane.id, reader=reader)

    def _remove_orphan(self, path: Path) -> None:
        """A lane that its producer did not live to complete."""
        lane_id = lane_id_of(path.name[: -len(".tmp")])
        if _age(path) > ORPHAN_SECONDS and (lane_id is None or not self._users.is_held(lane_id)):
            _remove(path)

    def _remove_orphan_event(self, path: Path) -> None:
        """A large event whose lane is gone: its producer died before it published the record that names it."""
        lane_id = lane_id_of(PREFIX + path.name[len(EVENT_PREFIX) :][:16])
        if lane_id is None or lane_id in self.lanes or _age(path) <= ORPHAN_SECONDS:
            return
        if not self._users.is_held(lane_id) and not os.path.lexists(self._folder / f"{PREFIX}{lane_id:016x}"):
            _remove(path)

    def is_turn_of(self, lane: Lane) -> bool:
        """Whether all that its producer had written before, into a lane it outgrew, has been read."""
        if lane.predecessor:
            before = self.lanes.get(lane.predecessor)
            if before is None:
                # Not mapped for want of descriptors, say; what is retired or put aside has no such file.
                if (self._folder / f"{PREFIX}{lane.predecessor:016x}").exists():
                    return False
            elif before.has_unread():
                return False
            lane.predecessor = 0
        return True

    def is_alive(self, lane_id: int) -> bool:
        """Whether the producer of a lane lives."""
        return self._users.is_held(lane_id)

    def owners(self) -> set[int]:
        """Owners that have a lane here."""
        return {lane.owner for lane in self.lanes.values()}

    def retire(self) -> None:
        """Remove the lanes of producers that are gone and whose events have all been settled."""
        self.aside.look()
        for lane in list(self.lanes.values()):
            # The lock first: once it is free, the head moves no more.
            if not lane.is_settled or self._users.is_held(lane.id):
                continue
            try:
                if lane.head() != lane.read_to:
                    continue
            except SegmentError:
                continue
            lane.advance()
            counters, accepted = lane.reader.counters(), lane.reader.passed
            del self.lanes[lane.id]
            lane.leave()
            reach("retire: before")
            self._metrics.retire_lane(counters, self._folder, lane.id, accepted)
            reach("retire: after")
            logger.debug("lane %016x retired", lane.id)

    def close(self) -> None:
        """Unmap all lanes. Those of a folder that is gone will not be found again, so each process goes on without."""
        is_folder_gone = self.is_folder_gone
        for lane in self.lanes.values():
            if is_folder_gone:
                lane.abandon()
            lane.leave()
        self.lanes.clear()
        self.aside.close()


def _age(path: Path) -> float:
    """Seconds since it was written; 0 when it is gone."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    """Have a file gone. What cannot be removed, a folder in its place, is left to whoever put it there."""
    with contextlib.suppress(OSError):
        path.unlink()
