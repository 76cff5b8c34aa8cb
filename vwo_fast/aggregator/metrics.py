"""Counters in the control file, as the aggregator writes them, and the messages about what they count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vwo_fast._lane import Control
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.journal import Entry, Journal, Proof, remove_lane
from vwo_fast.counters import ControlCounter, LaneCounter, Reason

if TYPE_CHECKING:
    from vwo_fast.aggregator.lanes import Segment
    from vwo_fast.aggregator.sealed import Sealed

__all__ = ["Metrics", "Throttle"]

LOG_INTERVAL_SECONDS = 60.0
FIRST_DROP_REASON = 16
LANE_REASONS = range(1, FIRST_DROP_REASON)


_NOT_TRANSCODABLE = int(ControlCounter.BY_REASON + Reason.NOT_TRANSCODABLE)
_DAMAGED = int(ControlCounter.BY_REASON + Reason.DAMAGED)
_FAILURES = (
    ControlCounter.DEAD,
    *(ControlCounter.BY_REASON + reason for reason in Reason if reason >= FIRST_DROP_REASON),
)
"""What grows when a flush cannot be True. A dead letter that is dropped moves from one to another."""

_RESCUE_LOSSES = ControlCounter.WITHOUT_LANE + Reason.DAMAGED


class Metrics:
    """Totals and gauges. Every event that is lost is counted by :meth:`entry`, with its reason."""

    def __init__(self, control: Control, journal: Journal | None = None) -> None:
        """Without a journal a kill may leave totals short."""
        self._control = control
        self._journal = journal
        self._gauges: dict[ControlCounter, int] = {}

    def start(self) -> None:
        """Begin a new life: gauges are set anew, and what the last one left by halves is closed."""
        # First: what is odd already would look even, and so at rest, while the totals below change.
        for sequence in (ControlCounter.RETIRE_SEQUENCE, ControlCounter.TOTALS_SEQUENCE):
            if self._control.counter(sequence) % 2:
                self._control.add(sequence, 1)
        unanswered = self._control.counter(ControlCounter.UNANSWERED_EVENTS)
        if unanswered:
            with self.entry(
                {ControlCounter.UNKNOWN_OUTCOME_EVENTS: unanswered, ControlCounter.UNANSWERED_EVENTS: -unanswered}
            ):
                pass
        for counter in ControlCounter:
            if counter < ControlCounter.DELIVERED:
                self._control.set(counter, 0)

    def add(self, counter: ControlCounter, amount: int = 1) -> None:
        """Add to a total."""
        self._control.add(counter, amount)

    @contextmanager
    def entry(
        self,
        add: Mapping[int, int],
        *,
        segments: Iterable[Segment] = (),
        forget: Sequence[Sealed] = (),
        lane: int | None = None,
        damage: tuple[int, int, int | None] | None = None,
        proof: Proof | None = None,
        unspooled: int = 0,
    ) -> Iterator[None]:
        """Add to totals together with what the body does: both happen, also when this process is killed in between.

        ``segments``: lane records that the body releases; what they lost is counted with it.  ``forget``: batches
        that the body takes out of the spool.  ``lane``: a lane whose file it removes.  ``damage``: what it
        notes of a lane (see Entry).  ``proof``: what the body puts into the spool; without it nothing of this has
        happened.  ``unspooled``: events that are no longer shown as spooled from the moment of the count.  When the
        body raises, nothing is counted.
        """
        segments = tuple(segments)
        amounts = dict(add)
        for segment in segments:
            for reason, lost in ((_NOT_TRANSCODABLE, segment.untranscodable), (_DAMAGED, segment.damaged)):
                if lost:
                    amounts[reason] = amounts.get(reason, 0) + lost
        # Together with the loss, so that the next aggregator tells of it if this one cannot.
        failures = sum(amounts.get(index, 0) for index in _FAILURES)
        if failures > 0:
            amounts[ControlCounter.UNTOLD_FAILURES] = failures
        totals = {
            int(index): max(0, self._control.counter(index) + amount) for index, amount in amounts.items() if amount
        }
        if self._journal is not None and totals:
            self._journal.write(_entry(totals, segments, forget, lane, damage, proof))
            reach("entry: written")
        try:
            yield
            reach("entry: done, not counted")
            with self._changing():
                for index, value in totals.items():
                    self._control.set(index, value)
                    reach("entry: counted in part")
                self._show_fewer_spooled(unspooled)
        finally:
            if self._journal is not None and totals:
                reach("entry: counted, not cleared")
                self._journal.clear()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep readers from adding up totals of which some have changed and others have not yet."""
        self._control.add(ControlCounter.TOTALS_SEQUENCE, 1)
        try:
            yield
        finally:
            self._control.add(ControlCounter.TOTALS_SEQUENCE, 1)

    def handed_out(self, events: int, spooled: int) -> None:
        """Events are in a request from now on, so many of them no longer in the spool alone."""
        with self._changing():
            self._control.add(ControlCounter.UNANSWERED_EVENTS, events)
            self._show_fewer_spooled(spooled)

    def unreadable(self, events: int) -> None:
        """Events that were spooled are dead letters from now on, since their batch cannot be read.

        Until then the spool is said to hold them, so after a kill they are missing there, and counted as lost.
        """
        with self.entry({ControlCounter.DEAD: events, ControlCounter.SPOOL_HOLDS: -events}, unspooled=events):
            pass

    def _show_fewer_spooled(self, events: int) -> None:
        if events:
            shown = self._control.counter(ControlCounter.GAUGE_SPOOLED_EVENTS)
            self.gauge(ControlCounter.GAUGE_SPOOLED_EVENTS, max(0, shown - events))

    def letters_left(self, events: int, reason: Reason | None) -> None:
        """Dead letters are dropped for a reason; None: they are to be sent again."""
        # Those of a folder that is gone were never counted in this one.
        counted = min(events, self._control.counter(ControlCounter.DEAD))
        add: dict[int, int] = {ControlCounter.DEAD: -counted}
        if reason is not None:
            add[ControlCounter.BY_REASON + reason] = counted
        with self.entry(add):
            pass

    def gauge(self, counter: ControlCounter, value: int) -> None:
        """Set a gauge; unchanged ones are not written, so that readers keep the cache line."""
        if self._gauges.get(counter) != value:
            self._gauges[counter] = value
            self._control.set(counter, value)

    def lane_put_aside(self, counters: list[int], passed: int | None, records_max: int) -> None:
        """Take over what a lane that is read no more has counted, if that can be true; its header may be wrong.

        ``passed``: records that were read.
        """
        read = passed or 0
        add: dict[int, int] = {ControlCounter.RETIRED_ACCEPTED: read}
        if 0 <= counters[LaneCounter.ACCEPTED] - read <= records_max:
            add.update({ControlCounter.BY_REASON + reason: counters[reason] for reason in LANE_REASONS})
        with self.entry(add):
            pass

    def lane_given_up(self, events: int) -> None:
        """The producer of such a lane has ended, and nobody has read these."""
        with self.entry({ControlCounter.RETIRED_ACCEPTED: events, _DAMAGED: events}):
            pass

    # ---- what the next flush has to tell

    @property
    def failures_untold(self) -> int:
        """Events lost or refused, in this life or an earlier one, that no answer has told of."""
        return self._control.counter(ControlCounter.UNTOLD_FAILURES)

    def untold(self, events: int) -> None:
        """Events are lost, or may be: an answer has to tell of it."""
        self._control.add(ControlCounter.UNTOLD_FAILURES, events)

    def told(self, events: int) -> None:
        """An answer has told of so many, or they are not lost after all."""
        if events:
            self._control.set(ControlCounter.UNTOLD_FAILURES, max(0, self.failures_untold - events))

    def take_rescue_losses(self) -> int:
        """How many events processes could not take along from lanes that were put aside, since the last call."""
        losses = self._control.counter(_RESCUE_LOSSES) - self._control.counter(ControlCounter.RESCUE_LOSSES_SEEN)
        if losses > 0:
            with self.entry(
                {ControlCounter.RESCUE_LOSSES_SEEN: losses, ControlCounter.UNTOLD_FAILURES: losses},
            ):
                pass
        return max(0, losses)

    def retire_lane(self, counters: list[int], folder: Path, lane: int, accepted: int | None) -> None:
        """Take over the counters of a lane while its file goes away, so that sums over both stay right.

        ``accepted``: how many records the lane has held, None when that is not known.  It is asked first, because a
        producer that was killed between the publication of its last record and the count of it has counted one less.
        """
        control = self._control
        add: dict[int, int] = {
            ControlCounter.RETIRED_ACCEPTED: counters[LaneCounter.ACCEPTED] if accepted is None else accepted,
            ControlCounter.RETIRED_ACCEPTED_BYTES: counters[LaneCounter.ACCEPTED_BYTES],
            ControlCounter.LANES_RETIRED: 1,
        }
        for reason in LANE_REASONS:
            add[ControlCounter.BY_REASON + reason] = counters[reason]
        control.add(ControlCounter.RETIRE_SEQUENCE, 1)
        try:
            with self.entry(add, lane=lane):
                remove_lane(folder, lane)
        finally:
            control.add(ControlCounter.RETIRE_SEQUENCE, 1)


def _entry(
    totals: dict[int, int],
    segments: tuple[Segment, ...],
    forget: Sequence[Sealed],
    lane: int | None,
    damage: tuple[int, int, int | None] | None,
    proof: Proof | None,
) -> Entry:
    done: list[tuple[int, int, int]] = []
    # What is in the spool names its lane records itself.
    for segment in segments if proof is None else ():
        if done and done[-1][0] == segment.lane.id and done[-1][2] == segment.start:
            done[-1] = (segment.lane.id, done[-1][1], segment.end)
        else:
            done.append((segment.lane.id, segment.start, segment.end))
    return Entry(
        totals=totals,
        done=tuple(done),
        rows=tuple((sealed.row, sealed.id) for sealed in forget if sealed.row is not None),
        open_ids=tuple(sealed.open_id for sealed in forget if sealed.open_id is not None),
        lane=lane,
        damage=damage,
        proof=proof,
    )


class Throttle:
    """Lets one message per subject and interval through."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, interval: float = LOG_INTERVAL_SECONDS) -> None:
        self._clock = clock
        self._interval = interval
        self._last: dict[object, float] = {}

    def allows(self, subject: object) -> bool:
        """Whether to log now; then not again for the interval."""
        now = self._clock()
        last = self._last.get(subject)
        if last is not None and now - last < self._interval:
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[subject] = now
        return True
