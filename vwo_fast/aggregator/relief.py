"""Relief of full lanes: what waits in them moves to the spool, so that producers keep their room."""

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

__all__ = ["Relief"]

SAVE_SECONDS = 0.05


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
        self._saves_always = settings.durable == "always"
        self._save_at = 0.0
        self._clock = clock

    def relieve(self) -> None:
        """Move what keeps a lane above the watermark to the spool.

        Sealed batches go first, so that of one route everything in the spool is older than what is not; then
        what was read into batches that are still open, which stay open.
        """
        full = self._above_watermark()
        if not full:
            return
        self._relieve(full)

    def save_lanes(self, lane_ids: set[int]) -> None:
        """Move all that was read of these lanes to the spool: they will not be read again."""
        for line in self._shipper.lines.values():
            if self._shipper.has_fresh_of(line, lane_ids):
                self._shipper.spill(line)
        for key in self._batcher.routes_holding(lane_ids):
            self.save_open(key)

    def _relieve(self, full: set[int]) -> None:
        for line in self._shipper.lines.values():
            # A lane that is not read for want of room is relieved by whatever takes the room.
            if not self._shipper.has_room or self._shipper.has_fresh_of(line, full):
                self._shipper.spill(line)
        full = self._above_watermark()
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
        """When something open is to be saved."""
        return self._save_at if self._saves_always and self._batcher.unsaved_routes() else None

    def _above_watermark(self) -> set[int]:
        full = set()
        for lane in self._lanes.lanes.values():
            try:
                if lane.used() > self._watermark:
                    full.add(lane.id)
            except SegmentError:
                # The next read of this lane puts it aside.
                continue
        return full

    def save_open(self, key: int) -> None:
        """Keep what an open batch has so far, so that its lane space can go."""
        line = self._shipper.lines.get(key)
        if line is not None and not self._shipper.spill(line):
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
