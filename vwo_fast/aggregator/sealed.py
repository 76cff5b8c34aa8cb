"""A sealed batch, or one request that travels alone: what the shipper sends and the spool keeps.

A batch is whole: its body never changes, its id is made once, and it knows which
lane records it came from until it is either delivered or safe in the spool.
"""

from __future__ import annotations

import os
import uuid
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from vwo_fast.aggregator.lanes import Segment

__all__ = [
    "ALL_VISITORS",
    "BODY_END",
    "BODY_START",
    "NOBODY",
    "RequestHead",
    "Sealed",
    "Source",
    "new_batch_id",
    "pack_sources",
    "pack_visitors",
    "unpack_sources",
    "unpack_visitors",
]

IDS_AT_ONCE = 64
VISITOR_FILTER_BYTES = 16384
ALL_VISITORS = b"\xff" * VISITOR_FILTER_BYTES
"""The filter of a batch whose visitors are not known: it may hold anybody."""
NOBODY = b""
"""The filter of what waits for nobody and holds nobody back."""

BODY_START = b'{"ev":['
BODY_END = b"]}"

REFUSALS_PATIENCE = 5
"""A batch that VWO refused this often, while it took others of the same route, no longer holds others back."""


@dataclass(frozen=True, slots=True)
class Source:
    """Consecutive events of a batch that came from one run of one lane. ``owner`` is 0 when nobody wants reports."""

    lane: int
    owner: int
    start: int
    end: int
    count: int


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Everything of a single request but its body. A batch has none: its route says it all."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    sends_body: bool

    def encode(self) -> bytes:
        encoded: bytes = msgpack.packb([self.method, self.path, self.query, self.headers, self.sends_body])
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> RequestHead:
        method, path, query, headers, sends_body = msgpack.unpackb(data, use_list=False)
        return cls(method, path, query, headers, sends_body)


@dataclass(slots=True, eq=False, kw_only=True)
class Sealed:
    """One batch or one request on its way.

    ``ordinal`` and ``part`` order everything of a queue as it was sealed; the halves of a
    split batch keep its ordinal, and their part is the index of their first event in it.
    Event i is ``body[offsets[i] : offsets[i + 1] - 1]``.
    """

    id: str
    route_key: int
    ordinal: int
    body: bytes
    offsets: bytes
    events: int
    visitors: bytes = field(repr=False)
    sources: tuple[Source, ...]
    created: float
    part: int = 0
    head: RequestHead | None = None
    segments: list[Segment] = field(default_factory=list)
    """Lane records that are released when this batch settles; empty once it is in the spool."""
    open_id: int | None = None
    """Names the fragments in the spool that hold a part of this batch until it settles."""
    row: int | None = None
    """Its row in the spool."""
    attempts: int = 0
    first_try: float | None = None
    last_error: str | None = None
    is_uncertain: bool = False
    """One of its attempts had an unknown outcome, so VWO may have its events whatever comes later."""
    due: float = 0.0
    failed_at: float = 0.0
    refusals: int = 0
    in_flight: bool = False
    company: int = 0
    """Only batches of the same company travel in one request; 0 until a request that carried it was refused."""

    @property
    def key(self) -> tuple[int, int]:
        """Place in the order of sealing."""
        return self.ordinal, self.part

    @property
    def size(self) -> int:
        """Bytes of body."""
        return len(self.body)

    @property
    def memory(self) -> int:
        """Bytes that it takes in memory, its visitors included."""
        return len(self.body) + VISITOR_FILTER_BYTES

    @property
    def holds_back(self) -> bool:
        """Whether later events of its visitors wait for it."""
        return self.refusals < REFUSALS_PATIENCE

    def owners(self) -> set[int]:
        """The owners that want to know what became of it."""
        return {source.owner for source in self.sources if source.owner}

    def events_of(self, owner: int) -> list[bytes]:
        """The events of one owner, in order, as JSON."""
        bounds = memoryview(self.offsets).cast("I")
        found: list[bytes] = []
        index = 0
        for source in self.sources:
            if source.owner == owner:
                found += [self.body[bounds[i] : bounds[i + 1] - 1] for i in range(index, index + source.count)]
            index += source.count
        return found

    def split(self) -> tuple[Sealed, Sealed]:
        """The two halves of a batch of at least two events, each with an id of its own."""
        middle = self.events // 2
        return self._slice(0, middle), self._slice(middle, self.events)

    def _slice(self, first: int, last: int) -> Sealed:
        bounds = memoryview(self.offsets).cast("I")
        shift = bounds[first] - len(BODY_START)
        offsets = array("I", (bounds[i] - shift for i in range(first, last + 1)))
        return Sealed(
            id=new_batch_id(),
            route_key=self.route_key,
            ordinal=self.ordinal,
            part=self.part + first,
            body=BODY_START + self.body[bounds[first] : bounds[last] - 1] + BODY_END,
            offsets=offsets.tobytes(),
            events=last - first,
            visitors=self.visitors,
            sources=tuple(_slice_sources(self.sources, first, last)),
            created=self.created,
            attempts=self.attempts,
            first_try=self.first_try,
            last_error=self.last_error,
            is_uncertain=self.is_uncertain,
            failed_at=self.failed_at,
        )


def _slice_sources(sources: tuple[Source, ...], first: int, last: int) -> Iterable[Source]:
    index = 0
    for source in sources:
        count = min(last, index + source.count) - max(first, index)
        if count > 0:
            yield Source(source.lane, source.owner, source.start, source.end, count)
        index += source.count


_random = bytearray()
"""Random bytes for ids to come: a system call for each would take as long as a batch's way through the journal."""

os.register_at_fork(after_in_child=_random.clear)


def new_batch_id() -> str:
    """A UUID; it never changes, however often the batch is sent. One thread."""
    if not _random:
        _random.extend(os.urandom(16 * IDS_AT_ONCE))
    number = bytes(_random[-16:])
    del _random[-16:]
    return uuid.UUID(bytes=number, version=4).hex


def pack_visitors(visitors: bytes) -> bytes:
    """The filter for the spool; it is mostly zeros."""
    return zlib.compress(visitors or bytes(VISITOR_FILTER_BYTES), 1)


def unpack_visitors(data: bytes | None) -> bytes:
    """The inverse of :func:`pack_visitors`; None stands for visitors that are not known.

    Raises ValueError when it is no filter, zlib.error when it was not packed.
    """
    if data is None:
        return ALL_VISITORS
    visitors = zlib.decompress(data)
    if len(visitors) != VISITOR_FILTER_BYTES:
        raise ValueError("filter of visitors")
    return NOBODY if visitors == bytes(VISITOR_FILTER_BYTES) else visitors


def pack_sources(sources: Iterable[Source]) -> bytes:
    """The sources for the spool."""
    packed: bytes = msgpack.packb([(s.lane, s.owner, s.start, s.end, s.count) for s in sources])
    return packed


def unpack_sources(data: bytes) -> tuple[Source, ...]:
    """The inverse of :func:`pack_sources`."""
    rows: list[Any] = msgpack.unpackb(data)
    return tuple(Source(*row) for row in rows)
