"""Lanes that were put aside: nobody reads them any more, and their processes may not know of it yet.

Idea: the name of such a file tells whose lane it was, and the lock of that lane
tells whether its process still has it; both outlive an aggregator.  Key invariant:
from the moment that the lane of a living process is put aside until that process
has taken along what was not read, no flush is True, whichever aggregator answers.
Hard case: the process ends before it notices.  What it leaves behind is lost: it is
counted as far as the header tells, and the next flush tells it even if nobody knows
how much it was, or another aggregator has to tell.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from vwo_fast._lane import LaneReader, SegmentError
from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.counters import ControlCounter, LaneCounter
from vwo_fast.locks import LockFile

__all__ = ["KEPT", "NAME_LENGTH", "PREFIX", "SUFFIX", "Aside", "lane_id_of", "records_max"]

logger = logging.getLogger(__name__)

PREFIX = "lane-"
NAME_LENGTH = len(PREFIX) + 16
SUFFIX = ".bad"
KEPT = 8
"""Files that are kept, the latest ones; and all whose process may still take something along."""


@dataclass(slots=True, eq=False)
class _Awaited:
    """A lane whose process has it still."""

    reader: LaneReader | None
    """None when what lies there cannot be mapped."""
    is_noted: bool
    """Whether this life has noted a loss that there may be, so that a later one tells of it."""


class Aside:
    """All lanes of a folder that were put aside. One thread."""

    def __init__(self, folder: Path, users: LockFile, metrics: Metrics) -> None:
        self._folder = folder
        self._users = users
        self._metrics = metrics
        self._awaited: dict[int, _Awaited] = {}
        self._lost = 0

    # ---- what comes

    def put(self, path: Path, reason: str, *, lane_id: int, reader: LaneReader | None = None) -> None:
        """Rename what lies in the place of a lane. ``reader``: one that abandoned it just now, ours from now on."""
        is_over = not self._users.is_held(lane_id)
        aside = path.with_name(f"{path.name}.{time.time_ns()}{SUFFIX}")
        with contextlib.suppress(OSError):
            os.rename(path, aside)
        self._metrics.add(ControlCounter.QUARANTINED_LANES)
        logger.error("lane %s is put aside as %s: %s", path.name, aside.name, reason)
        reader = reader or _attach(aside)
        if not is_over:
            # Also for the case that neither this process nor that one lives to tell of it.
            self._metrics.untold(1)
            self._awaited[lane_id] = _Awaited(reader, is_noted=True)
        elif reader is not None:
            # Something that only has the name of a lane held no events.
            if reader.lane_id == lane_id:
                self._give_up(reader)
            reader.close()
        self._remove_old()

    def find(self, path: Path) -> None:
        """A file that was put aside lies in the folder, perhaps since the time of another aggregator."""
        lane_id = lane_id_of(path.name[:NAME_LENGTH])
        if lane_id is not None and lane_id not in self._awaited and self._users.is_held(lane_id):
            self._awaited[lane_id] = _Awaited(_attach(path), is_noted=False)

    def _remove_old(self) -> None:
        # Each takes shared memory that the living need.
        found = sorted(self._folder.glob(f"{PREFIX}*{SUFFIX}"), key=_time_put_aside)
        for old in found[:-KEPT]:
            if lane_id_of(old.name[:NAME_LENGTH]) not in self._awaited:
                with contextlib.suppress(OSError):
                    old.unlink()

    # ---- what becomes of them

    @property
    def is_awaited(self) -> bool:
        """Whether a process may still have events in a lane that is read no more."""
        self.look()
        return bool(self._awaited)

    def look(self) -> None:
        """See which processes have taken along what was not read, and which have ended without."""
        for lane_id, awaited in list(self._awaited.items()):
            # The lock first: once it is free, nobody will take anything along.
            is_over = not self._users.is_held(lane_id)
            reader = awaited.reader
            if not is_over and not (reader is not None and reader.is_claimed):
                continue
            del self._awaited[lane_id]
            self._give_up(reader)
            if awaited.is_noted:
                self._metrics.told(1)
            if reader is not None:
                reader.close()
        self._lost += self._metrics.take_rescue_losses()

    def _give_up(self, reader: LaneReader | None) -> None:
        """Count what the process of a lane, which is gone, has not taken along."""
        if reader is not None and reader.is_claimed:
            return
        lost = None
        if reader is not None and reader.passed is not None:
            lost = reader.counters()[LaneCounter.ACCEPTED] - reader.passed
        if lost and reader is not None and reader.is_abandoned and 0 < lost <= records_max(reader):
            self._metrics.lane_given_up(lost)
        elif lost != 0:
            # It may have been one, or many, or all were settled that lie behind the tail.
            lost = 1
            self._metrics.untold(lost)
        self._lost += lost

    def lost(self, events: int) -> None:
        """Events were lost with a lane, and are counted."""
        self._lost += events

    def take_lost(self) -> int:
        """Events that were lost, since the last call."""
        lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        for awaited in self._awaited.values():
            if awaited.reader is not None:
                awaited.reader.close()
        self._awaited.clear()


def records_max(reader: LaneReader) -> int:
    """More records than a lane can hold at once."""
    return reader.capacity // 32


def lane_id_of(name: str) -> int | None:
    """The id in the name of a lane; None when there is none."""
    digits = name[len(PREFIX) :]
    if len(digits) != 16:
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return None


def _attach(path: Path) -> LaneReader | None:
    try:
        return LaneReader.attach_aside(str(path))
    except (OSError, SegmentError):
        return None


def _time_put_aside(path: Path) -> str:
    return path.name.split(".")[-2].rjust(20)
