"""The journal: what is about to change in several files at once, so that a kill in between changes nothing by half.

Idea: when an outcome is final, lane records are released, a row leaves the spool and
totals grow.  They lie in different files, so a kill can come between any two of
them.  Therefore an entry is written first, with the new totals as absolute
numbers; then everything is changed; then the entry is cleared.  Key invariant:
whatever an entry says can be done again without harm, and the next start does what
it finds.  Hard case: what the spool may refuse (a full disk) is decided by its
transaction alone, so such an entry names the rows that prove that it was kept, and
without them it is void.

The journal lies in the queue's folder in shared memory, because lanes and counters
do: what a power loss takes, it takes from all three.  An entry that cannot be
written, for want of shared memory, stops nothing; then a kill may leave totals short.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack

from vwo_fast import _lane
from vwo_fast._lane import Control, LaneReader, SegmentError
from vwo_fast.aggregator.spool import Spool
from vwo_fast.counters import ControlCounter

__all__ = ["FILE_NAME", "Entry", "Journal", "Proof", "Ranges", "redo", "remove_lane"]

logger = logging.getLogger(__name__)

FILE_NAME = "journal"
SIZE = 1 << 18
"""More than an entry for 5000 events from as many places in the lanes."""

_HEAD = struct.Struct("=QQ")
_CLEARED = bytes(_HEAD.size)

Ranges = dict[int, list[tuple[int, int]]]
"""Lane records that need not be read again, by lane."""


@dataclass(frozen=True, slots=True)
class Proof:
    """At least ``count`` rows of ``table`` with this key."""

    table: str
    key: str | int
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What changes together."""

    totals: dict[int, int]
    """New values of counters, by index."""
    done: tuple[tuple[int, int, int], ...] = ()
    """(lane, start, end) of records that have settled."""
    rows: tuple[tuple[int, str], ...] = ()
    """Row and id of each batch that leaves the spool."""
    open_ids: tuple[int, ...] = ()
    """Whose fragments leave the spool."""
    lane: int | None = None
    """A lane that is removed."""
    damage: tuple[int, int, int | None] | None = None
    """(lane, position, records before it): damage before that is counted."""
    proof: Proof | None = None

    def encode(self) -> bytes:
        proof = None if self.proof is None else (self.proof.table, self.proof.key, self.proof.count)
        fields = (self.totals, self.done, self.rows, self.open_ids, self.lane, self.damage, proof)
        encoded: bytes = msgpack.packb(fields)
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """The inverse of :meth:`encode`. Raises ValueError or TypeError."""
        fields: Any = msgpack.unpackb(data, use_list=False, strict_map_key=False)
        totals, done, rows, open_ids, lane, damage, proved = fields
        proof = None if proved is None else Proof(*proved)
        return cls(totals=totals, done=done, rows=rows, open_ids=open_ids, lane=lane, damage=damage, proof=proof)


class Journal:
    """One entry at a time, in a mapped file of the queue's folder: once it is open, nothing about it can fail."""

    def __init__(self, path: Path) -> None:
        """Map the file, and make it if it is not there. Without room for it nothing is kept."""
        self._map: mmap.mmap | None = None
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # A page that is not allocated would be a SIGBUS when it is touched.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, SIZE)
            elif os.fstat(fd).st_size < SIZE:
                os.ftruncate(fd, SIZE)
            self._map = mmap.mmap(fd, SIZE)
        except OSError as exc:
            logger.error("no journal for now (%s): totals may be short after a kill", exc.strerror)
        finally:
            os.close(fd)

    def read(self) -> Entry | None:
        """The entry that was not cleared; None when there is none, or only a part of one."""
        if self._map is None:
            return None
        size, check = _HEAD.unpack_from(self._map)
        data = self._map[_HEAD.size : _HEAD.size + min(size, SIZE)]
        if not size or len(data) != size or _lane.check_value(data) != check:
            return None
        try:
            return Entry.decode(data)
        except (ValueError, TypeError):
            return None

    def write(self, entry: Entry) -> None:
        """Write an entry in the place of the last one."""
        data = entry.encode()
        if self._map is not None and len(data) <= SIZE - _HEAD.size:
            self._map[_HEAD.size : _HEAD.size + len(data)] = data
            self._map[: _HEAD.size] = _HEAD.pack(len(data), _lane.check_value(data))

    def clear(self) -> None:
        """The entry has been done."""
        if self._map is not None:
            self._map[: _HEAD.size] = _CLEARED

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None


def redo(entry: Entry, control: Control, spool: Spool, folder: Path) -> Ranges:
    """Do what an entry says, from its beginning. Returns the records that must not be read again.

    They are marked as well, because the next kill may come before anybody has attached their lanes.
    """
    ranges: Ranges = defaultdict(list)
    if entry.proof is not None and spool.count_rows(entry.proof.table, entry.proof.key) < entry.proof.count:
        return ranges
    for lane, start, end in entry.done:
        ranges[lane].append((start, end))
    for lane, done in ranges.items():
        _amend(folder, lane, partial(_mark_done, done=done))
    if entry.lane is not None:
        remove_lane(folder, entry.lane)
    if entry.damage is not None:
        lane, position, passed = entry.damage
        _amend(folder, lane, lambda reader: reader.note_damage(position, passed))
    if entry.rows or entry.open_ids:
        # Told before it is removed, as ever: what is missing without having been told is lost.
        holds = control.counter(ControlCounter.SPOOL_HOLDS) - spool.events_of(entry.rows, entry.open_ids)
        control.set(ControlCounter.SPOOL_HOLDS, max(0, holds))
        spool.forget_again(entry.rows, entry.open_ids)
    for index, value in entry.totals.items():
        control.set(index, value)
    return ranges


def remove_lane(folder: Path, lane_id: int) -> None:
    """Remove a lane's file, and before it the large events that belong to it.

    Those that are left are of a producer that died before it published the record that names them.
    """
    for leftover in folder.glob(f"big-{lane_id:016x}-*"):
        _remove(leftover)
    _remove(folder / f"lane-{lane_id:016x}")


def _amend(folder: Path, lane_id: int, change: Callable[[LaneReader], object]) -> None:
    # A lane that is gone, or that cannot be one, is not read again: nothing need be written into it.
    with (
        contextlib.suppress(OSError, SegmentError, ValueError),
        contextlib.closing(LaneReader.attach(str(folder / f"lane-{lane_id:016x}"))) as reader,
    ):
        change(reader)


def _mark_done(reader: LaneReader, done: list[tuple[int, int]]) -> None:
    for start, end in done:
        if end > reader.tail:
            reader.mark_done(max(start, reader.tail), end)


def _remove(path: Path) -> None:
    # A folder in the place of a file is left to whoever put it there.
    with contextlib.suppress(OSError):
        path.unlink()
