"""Meaning of each counter in shared memory. Indices are part of the layout: only append."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ControlCounter", "LaneCounter", "Reason"]


class Reason(IntEnum):
    """Why an event was not accepted by enqueue, or not delivered after it was accepted.

    The names in lower case are the keys of ``refused`` and ``dropped`` in statistics.
    1 to 15: refused by ``enqueue`` (it returned False).  16 to 31: dropped after acceptance.
    """

    LANE_FULL = 1
    TOO_LARGE = 2
    NOT_JSON = 3
    TOO_DEEP = 4
    BAD_IMPRESSION = 5
    NO_LANE = 6
    INTERNAL = 7
    DAMAGED = 16
    NOT_TRANSCODABLE = 17
    SPOOL_FULL = 18
    EXPIRED = 19
    PURGED = 20


class LaneCounter(IntEnum):
    """Counters in the header of a lane, written by its producer. Indices 1 to 15 are the refusals by Reason."""

    ACCEPTED = 0
    ACCEPTED_BYTES = 16
    DOORBELLS = 17
    HOOK_FAILURES = 18


class ControlCounter(IntEnum):
    """Counters in the control file, written by the aggregator alone but for the last.

    0 to 31 are gauges (valid while it runs, set anew at start), 32 to 95 totals since the
    queue's folder was made, 64 + Reason the totals by reason.  96 + Reason is added to by
    processes that refuse events and have no lane to count them in, or that lost some of a lane which was put aside.
    """

    GAUGE_OPEN_EVENTS = 0
    GAUGE_SEALED_EVENTS = 1
    GAUGE_IN_FLIGHT_REQUESTS = 3
    GAUGE_SPOOLED_EVENTS = 4
    GAUGE_SPOOLED_BATCHES = 5
    GAUGE_SPOOLED_BYTES = 6
    GAUGE_DEAD_EVENTS = 7
    GAUGE_LANES = 8
    GAUGE_HELD_ROUTES = 9
    GAUGE_NO_SPOOL = 10
    """1 while there is no spool that can be used."""

    DELIVERED = 32
    DELIVERED_BATCHES = 33
    DELIVERED_BYTES = 34
    REQUESTS = 35
    REQUESTS_FAILED = 36
    RETRIES = 37
    SPLITS = 38
    UNKNOWN_OUTCOME_EVENTS = 39
    DEAD = 40
    SPOOLED = 41
    STARTS = 42
    LANES_RETIRED = 43
    RETIRED_ACCEPTED = 44
    RETIRED_ACCEPTED_BYTES = 45
    QUARANTINED_LANES = 46
    REPORTS_SENT = 47
    WITHOUT_LANE = 96
    RETIRE_SEQUENCE = 48
    """Odd while a lane is being retired: a reader that adds up lanes reads again."""

    QUARANTINED_SPOOLS = 49
    UNANSWERED_EVENTS = 50
    """In requests that were handed out and have no answer yet. What an aggregator that was killed leaves here
    becomes UNKNOWN_OUTCOME_EVENTS at the next start."""
    SPOOL_FAILURES = 54
    """Times that the spool could not be opened, read or written."""

    SPOOL_HOLDS = 55
    """Events that the spool holds. Raised after they are on disk and lowered before they leave it, so a spool that
    holds fewer at the next start has lost some."""

    SALVAGED = 56
    """Events that were read out of damaged spools."""

    TOTALS_SEQUENCE = 57
    """Odd while totals that belong together are being changed: a reader reads them again."""

    UNTOLD_FAILURES = 58
    """Events that were lost or refused by VWO, and that no answer to a flush has told of yet."""

    RESCUE_LOSSES_SEEN = 59
    """Of what processes have lost of lanes that were put aside (WITHOUT_LANE + DAMAGED), what is among these."""

    BY_REASON = 64
