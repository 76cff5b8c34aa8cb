"""How long the loop sleeps without being woken while events come.

Idea: a turn costs the same for one event as for a thousand, so turns are as rare
as the lanes allow.  While little of any lane is written between two turns the nap
grows to its longest; when much is, it shrinks to what that rate needs.  Hard case:
a burst that comes during a long nap fills a lane sooner than the nap ends.  So a long
nap is a doze, announced in the control file: who finds his lane half full ends it.
"""

from __future__ import annotations

__all__ = ["NAP_SECONDS_MAX", "NAP_SECONDS_MIN", "Nap", "fill_of"]

NAP_SECONDS_MIN = 0.002
NAP_SECONDS_MAX = 0.05
"""A turn whose caches others have used takes a quarter of a millisecond: at 20 turns a second half a percent of a
core, at 500 more than a tenth of it."""

FILL_WANTED = 1 / 16
"""Share of a lane that may be written during a nap."""

LANE_BYTES = 1 << 21
"""Of a larger lane no more is wanted: what was written long ago is no longer in the cache when it is read."""


def fill_of(unread: int, capacity: int) -> float:
    """The share of a lane that these bytes are."""
    return unread / min(capacity, LANE_BYTES)


class Nap:
    """The length of the next nap.

    ``is_short``: always the shortest, because events are to be sent at once, or to be on the disk soon, and in a
    lane they are on none.
    """

    __slots__ = ("_seconds_max", "seconds")

    def __init__(self, *, is_short: bool = False) -> None:
        self.seconds = NAP_SECONDS_MIN
        self._seconds_max = NAP_SECONDS_MIN if is_short else NAP_SECONDS_MAX

    @property
    def is_long(self) -> bool:
        """Whether it is longer than a lane that is read in time needs."""
        return self.seconds > NAP_SECONDS_MIN

    def after(self, fill: float) -> None:
        """Adapt it to the largest share of a lane that was found unread after the last one."""
        longer = self.seconds * (min(2.0, FILL_WANTED / fill) if fill else 2.0)
        self.seconds = min(self._seconds_max, max(NAP_SECONDS_MIN, longer))

    def reset(self) -> None:
        """Nothing comes any more: what comes next may be much."""
        self.seconds = NAP_SECONDS_MIN
