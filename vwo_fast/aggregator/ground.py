"""The ground that a life of the aggregator begins on: what the last one left by halves is finished, losses are counted.

Everything here may fail because of the spool, and nothing of it has to be undone then:
the same can be done again, with another spool or with none.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vwo_fast._lane import Control
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.journal import FILE_NAME, Journal, Ranges, redo
from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.aggregator.spool import Damaged, Spool
from vwo_fast.counters import ControlCounter, Reason

__all__ = ["Ground", "prepare"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a life begins with."""

    journal: Journal
    metrics: Metrics
    settled: Ranges
    """Lane records that need not be read again."""
    last_ordinal: int


def prepare(folder: Path, control: Control, spool: Spool) -> Ground:
    """Make the ground. Raises sqlite3.Error when the spool does not take part."""
    journal = Journal(folder / FILE_NAME)
    try:
        unfinished = journal.read()
        redone = redo(unfinished, control, spool, folder) if unfinished else {}
        reach("start: redone")
        journal.clear()
        metrics = Metrics(control, journal)
        metrics.start()
        reach("start: counters")
        _count_losses(control, metrics, spool, spool.seal_fragments())
        reach("start: fragments sealed")
        settled: Ranges = defaultdict(list, redone)
        for source in spool.sources():
            settled[source.lane].append((source.start, source.end))
        return Ground(journal=journal, metrics=metrics, settled=settled, last_ordinal=spool.last_ordinal())
    except sqlite3.Error:
        journal.close()
        raise


def _count_losses(control: Control, metrics: Metrics, spool: Spool, buried: Damaged) -> None:
    """Count what the spool has lost, and from now on keep in shared memory how much it holds."""
    if not spool.is_there:
        metrics.add(ControlCounter.SPOOL_FAILURES)
        return
    damaged = spool.salvaged.damaged_events + buried.events
    held = control.counter(ControlCounter.SPOOL_HOLDS)
    missing = max(0, held - spool.totals.events_held - damaged)
    add: dict[int, int] = {
        ControlCounter.DEAD: damaged,
        ControlCounter.BY_REASON + Reason.DAMAGED: missing,
        ControlCounter.SALVAGED: spool.salvaged.events,
        ControlCounter.QUARANTINED_SPOOLS: 0 if spool.put_aside is None else 1,
        ControlCounter.SPOOL_HOLDS: spool.totals.events_held - held,
    }
    with metrics.entry(add):
        pass
    if missing:
        logger.error("%d events that were in the spool cannot be read any more: they are lost", missing)
    spool.watch(partial(control.set, ControlCounter.SPOOL_HOLDS))
