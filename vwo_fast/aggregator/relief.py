"""Relief of full lanes: what waits in them moves to the spool, so that producers keep their room.

Idea: answers give lane space back too, and cost nothing.  So a lane above the watermark whose tail moves is
left to them, and only one whose tail stands for a while goes over the disk.  Hard case: answers come, but not
as fast as events; the urgent mark, half way from the watermark to a full lane, is for those.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from vwo_fast._lane import SegmentError
from vwo_fast.aggregator.batcher import Batcher
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.journal import Proof
from vwo_fast.aggregator.lanes import LaneSet
from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.aggregator.shipper import Shipper
from vwo_fast.aggregator.spool import Spool
from vwo_fast.config import Settings

__all__ = ["PATIENCE_SECONDS", "Relief"]

SAVE_SECONDS = 0.05
PATIENCE_SECONDS = 1.0
"""How long a lane above the watermark waits for an answer that moves its tail."""


class Relief:
    """Watches the lanes. One thread."""

    def __init__(
        self,
        lanes: LaneSet,
        batcher: Batcher,
        shipper: Shipper,
        spool: Spool,
        metrics: Metrics,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes = lanes
        self._batcher = batcher
        self._shipper = shipper
        self._spool = spool
        self._metrics = metrics
        self._watermark = settings.lane_watermark
        self._urgent = (1.0 + settings.lane_watermark) / 2.0
        self._stands: dict[int, tuple[int, float]] = {}
        """Of each lane above the watermark: its tail, and since when it has been there."""
        self._saves_always = settings.durable == "always"
        self._save_at = 0.0
        self._clock = clock

    def relieve(self) -> None:
        """Move what keeps a lane above the watermark to the spool, unless it goes by itself.

        Sealed batches go first, so that of one route everything in the spool is older than what is not; then
        what was read into batches that are still open, which stay open.
        """
        over = self._over()
        if over:
            self._relieve(over)

    def save_lanes(self, lane_ids: set[int]) -> None:
        """Move all that was read of these lanes to the spool: they will not be read again."""
        for line in self._shipper.lines.values():
            if self._shipper.fresh.keep_space_of(line, lane_ids):
                self._shipper.fresh.spill(line)
        for key in self._batcher.routes_holding(lane_ids):
            self.save_open(key)

    def _relieve(self, full: set[int]) -> None:
        for line in self._shipper.lines.values():
            # A lane that is not read for want of room is relieved by whatever takes the room.
            if not self._shipper.has_room or self._shipper.fresh.keep_space_of(line, full):
                self._shipper.fresh.spill(line)
        full = {lane_id for lane_id in full if self._used(lane_id) > self._watermark}
        for key in self._batcher.routes_holding(full) if full else ():
            self.save_open(key)

    def save_often(self, now: float) -> None:
        """With ``durable="always"``: what is open goes to the disk, in parts of what came within a short time."""
        if not self._saves_always or now < self._save_at:
            return
        for key in self._batcher.unsaved_routes():
            self.save_open(key)
            self._save_at = self._clock() + SAVE_SECONDS

    def next_due(self) -> float | None:
        """When something open is to be saved, or a lane that stands is to be relieved."""
        dues = [since + PATIENCE_SECONDS for _, since in self._stands.values()]
        if self._saves_always and self._batcher.unsaved_routes():
            dues.append(self._save_at)
        return min(dues, default=None)

    def _over(self) -> set[int]:
        """Lanes that need help: those in which little room is left, and those that stand above the watermark."""
        over, stands, now = set(), {}, self._clock()
        for lane in self._lanes.lanes.values():
            used = self._used(lane.id)
            if used <= self._watermark:
                continue
            tail, since = self._stands.get(lane.id, (-1, now))
            if tail != lane.reader.tail:
                since = now
            if used > self._urgent or now - since >= PATIENCE_SECONDS:
                over.add(lane.id)
            else:
                stands[lane.id] = (lane.reader.tail, since)
        self._stands = stands
        return over

    def _used(self, lane_id: int) -> float:
        try:
            return self._lanes.lanes[lane_id].used()
        except SegmentError:
            # The next read of this lane puts it aside.
            return 0.0

    def save_open(self, key: int) -> None:
        """Keep what an open batch has so far, so that its lane space can go."""
        line = self._shipper.lines.get(key)
        if line is not None and not self._shipper.fresh.spill(line):
            return
        found = self._batcher.fragment(key)
        if found is None:
            return
        fragment, route = found
        if not self._shipper.bounds.make_room(len(fragment.json)):
            return
        try:
            proof = Proof("fragment", fragment.open_id, self._spool.count_rows("fragment", fragment.open_id) + 1)
            with self._metrics.entry({}, segments=self._batcher.segments_of(key), proof=proof):
                reach("fragment: before")
                self._spool.save_fragment(fragment, [(key, route.encode())])
                reach("fragment: saved")
                self._batcher.fragment_saved(key)
        except sqlite3.Error as exc:
            self._shipper.complain(exc)
