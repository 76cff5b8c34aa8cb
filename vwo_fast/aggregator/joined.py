"""Several batches of one route in one request.

After an outage the spool may hold thousands of small batches, each of which was sealed by its
interval, a flush or an end.  Sent one by one they would cost as many requests; so those that
follow one another are put into the body of one request, as many as fit.  They stay batches: each
keeps its id, its row and its records, and gets the outcome of the request that carried it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vwo_fast.aggregator.sealed import BODY_END, BODY_START, Sealed

__all__ = ["Joint", "Load", "body_of", "part_ways", "size_of"]

_COVER = len(BODY_START) + len(BODY_END)
_companies = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one request may carry."""

    events_max: int
    bytes_max: int

    def lighter(self, size: int) -> Load:
        """After a body of ``size`` bytes was too large for the server."""
        return Load(events_max=self.events_max, bytes_max=min(self.bytes_max, max(1, size // 2)))


class Joint:
    """The batches of one request, while they are chosen, in the order of sealing."""

    def __init__(self, load: Load) -> None:
        self.batches: list[Sealed] = []
        self._load = load
        self._events = 0
        self._size = _COVER - 1

    def add(self, sealed: Sealed) -> bool:
        """Take one more. False when it does not go with those that were taken, or does not fit."""
        events, size = self._events + sealed.events, self._size + len(sealed.body) - _COVER + 1
        if self.batches and not (
            _may_join(sealed)
            and _may_join(self.batches[0])
            and sealed.company == self.batches[0].company
            and events <= self._load.events_max
            and size <= self._load.bytes_max
        ):
            return False
        self.batches.append(sealed)
        self._events, self._size = events, size
        return True

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be taken."""
        return bool(self.batches) and (self._events >= self._load.events_max or not _may_join(self.batches[0]))


def _may_join(sealed: Sealed) -> bool:
    # What is only in the lanes is as large as the settings want it.
    return sealed.row is not None and sealed.head is None


def body_of(batches: Sequence[Sealed]) -> bytes:
    """The body of a request that carries them, byte by byte what one batch of all their events would have."""
    if len(batches) == 1:
        return batches[0].body
    return BODY_START + b",".join(sealed.body[len(BODY_START) : -len(BODY_END)] for sealed in batches) + BODY_END


def size_of(batches: Sequence[Sealed]) -> int:
    """Bytes of that body."""
    return sum(len(sealed.body) for sealed in batches) - (len(batches) - 1) * (_COVER - 1)


def part_ways(batches: Sequence[Sealed]) -> None:
    """From now on each half of these travels without the other: one of them is not wanted, and it has to be found."""
    middle = len(batches) // 2
    for half in (batches[:middle], batches[middle:]):
        _keep_apart(half, next(_companies))


def _keep_apart(batches: Iterable[Sealed], company: int) -> None:
    for sealed in batches:
        sealed.company = company
