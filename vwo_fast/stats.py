"""A snapshot of a queue, read from shared memory: it needs no aggregator.

The ledger: ``accepted = delivered + queued + in_flight + spooled + dead + sum(dropped)``.
``queued`` is what the other figures leave over, so it holds while events move
between the lanes and the aggregator.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from vwo_fast._lane import Control, LaneReader, SegmentError
from vwo_fast._value import Value
from vwo_fast.counters import ControlCounter, LaneCounter, Reason
from vwo_fast.locks import AGGREGATOR_LOCK, lock_file

__all__ = ["HUNG_SECONDS", "Stats", "heartbeat_age", "read_stats"]

FIRST_DROP_REASON = 16
READ_ATTEMPTS = 50
READ_RETRY_SECONDS = 0.0005

HUNG_SECONDS = 10.0
"""An aggregator shows about once a second that it works; one that has not for so long hangs, or was stopped."""


class Stats(Value):
    """Events, unless the name says otherwise. Totals count from the making of the queue's folder."""

    aggregator_pid: int | None
    """Process id of the aggregator that lives, or None."""
    heartbeat_age: float | None
    """Seconds since it last showed that it works, usually less than one; None when none lives."""
    accepted: int
    """``enqueue`` returned True."""
    delivered: int
    """VWO answered 2xx."""
    queued: int
    """In lanes and in open or sealed batches, not yet sent."""
    in_flight: int
    """In requests that wait for their answer."""
    spooled: int
    """On disk, to be sent when VWO answers."""
    dead: int
    """Refused by VWO one by one, kept on disk as dead letters."""
    dropped: dict[str, int]
    """Lost after acceptance, by reason."""
    refused: dict[str, int]
    """``enqueue`` returned False, by reason."""
    lanes: int
    """Lanes in the folder."""
    delivered_batches: int
    """Requests that were answered 2xx."""
    delivered_bytes: int
    """Bytes of body in them."""
    requests: int
    """Requests sent, whatever the outcome."""
    retries: int
    """Requests sent for events that had been sent before."""
    unknown_outcome: int
    """Events of requests that were sent and had no answer, or that of a gateway which had none (502, 504):
    a duplicate is possible for these."""

    @property
    def is_hung(self) -> bool:
        """Whether the aggregator holds the queue and does nothing."""
        return self.heartbeat_age is not None and self.heartbeat_age > HUNG_SECONDS

    def to_json_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return self._as_dict()


def read_stats(folder: Path) -> Stats:
    """Read the statistics of the queue in ``folder``.

    Raises FileNotFoundError when there is no queue, SegmentError when its files are of another version.
    """
    control = Control.attach(str(folder / "control"))
    try:
        return _read(folder, control)
    finally:
        control.close()


def heartbeat_age(control: Control) -> float:
    """Seconds since an aggregator last showed that it works."""
    return max(0.0, (time.monotonic_ns() - control.heartbeat_ns) / 1e9)


def _read(folder: Path, control: Control) -> Stats:
    for attempt in range(READ_ATTEMPTS):
        if attempt:
            time.sleep(READ_RETRY_SECONDS)
        totals = _totals(control)
        # After the totals: an event that was delivered by then had been accepted.
        lanes = _lane_counters(folder)
        retired = totals[ControlCounter.RETIRE_SEQUENCE]
        if retired % 2 == 0 and retired == control.counter(ControlCounter.RETIRE_SEQUENCE):
            break
    accepted = totals[ControlCounter.RETIRED_ACCEPTED] + sum(lane[LaneCounter.ACCEPTED] for lane in lanes)
    refused: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for reason in Reason:
        amount = totals[ControlCounter.BY_REASON + reason] + totals[ControlCounter.WITHOUT_LANE + reason]
        if reason < FIRST_DROP_REASON:
            amount += sum(lane[reason] for lane in lanes)
        if amount:
            (refused if reason < FIRST_DROP_REASON else dropped)[reason.name.lower()] = amount
    alive = lock_file(folder / AGGREGATOR_LOCK).is_held(0)
    settled = totals[ControlCounter.DELIVERED] + totals[ControlCounter.DEAD] + sum(dropped.values())
    in_flight = totals[ControlCounter.UNANSWERED_EVENTS] if alive else 0
    spooled = totals[ControlCounter.GAUGE_SPOOLED_EVENTS]
    return Stats(
        aggregator_pid=(control.aggregator_pid or None) if alive else None,
        heartbeat_age=heartbeat_age(control) if alive else None,
        accepted=accepted,
        delivered=totals[ControlCounter.DELIVERED],
        queued=max(0, accepted - settled - in_flight - spooled),
        in_flight=in_flight,
        spooled=spooled,
        dead=totals[ControlCounter.DEAD],
        dropped=dropped,
        refused=refused,
        lanes=len(lanes),
        delivered_batches=totals[ControlCounter.DELIVERED_BATCHES],
        delivered_bytes=totals[ControlCounter.DELIVERED_BYTES],
        requests=totals[ControlCounter.REQUESTS],
        retries=totals[ControlCounter.RETRIES],
        unknown_outcome=totals[ControlCounter.UNKNOWN_OUTCOME_EVENTS]
        + (0 if alive else totals[ControlCounter.UNANSWERED_EVENTS]),
    )


def _totals(control: Control) -> list[int]:
    """All counters of the control file as they were at one moment."""
    for _ in range(READ_ATTEMPTS):
        before = control.counter(ControlCounter.TOTALS_SEQUENCE)
        totals = control.counters()
        if before % 2 == 0 and before == control.counter(ControlCounter.TOTALS_SEQUENCE):
            break
        time.sleep(READ_RETRY_SECONDS)
    return totals


def _lane_counters(folder: Path) -> list[list[int]]:
    found = []
    for path in folder.glob("lane-" + "[0-9a-f]" * 16):
        try:
            lane = LaneReader.attach(str(path))
        except (FileNotFoundError, SegmentError):
            continue  # retired since the listing, or damaged: the aggregator counts and names those
        try:
            found.append(lane.counters())
        finally:
            lane.close()
    return found
