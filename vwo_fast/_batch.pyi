"""Compiled batch building: msgpack events in, one JSON body out.

Everything here runs on bytes that may come from another process, so nothing is
believed before it is checked.  One event is transcoded with the GIL held, in
nanoseconds; ``LaneReader.drain``, which moves many, releases it.
"""

from __future__ import annotations

from typing import Final

OK: Final[int]
FULL: Final[int]
TOO_LARGE: Final[int]
EMPTY: Final[int]
OTHER: Final[int]
INVALID: Final[int]
DEPTH: Final[int]
EVENTS_MAX: Final[int]
"""Events that VWO accepts in one request (5000)."""
BYTES_MAX: Final[int]
"""Bytes of body that VWO accepts in one request (10,000,000)."""

class Batch:
    """The open batch of one route. One thread at a time: ``LaneReader.drain`` fills it without the GIL.

    ``events_max``: 1 to 5000; ``bytes_max``: 16 to 10,000,000 bytes of body, the
    closing brackets included.  Raises ValueError outside these ranges.
    """

    def __init__(self, events_max: int = ..., bytes_max: int = ...) -> None: ...
    @property
    def count(self) -> int:
        """Events in the batch."""
    @property
    def size(self) -> int:
        """Exact size of the body in bytes, as it would be sent now."""
    @property
    def events_max(self) -> int: ...
    @property
    def bytes_max(self) -> int: ...
    def append(self, payload: bytes | bytearray | memoryview) -> int:
        """Append one msgpack event: OK, FULL (seal first), TOO_LARGE, INVALID or DEPTH. Only OK changes the batch."""
    def append_json(self, event: bytes, visitor: int = 0) -> int:
        """Append one event that is compact JSON already (it is not checked): OK, FULL or TOO_LARGE."""
    def snapshot(self, start: int = 0) -> tuple[bytes, bytes]:
        """Copy the events from ``start`` on.

        Returns (events, offsets): the JSON of each with commas between; and a native uint32
        for each and one more, where event i is ``events[offsets[i] : offsets[i + 1] - 1]``.
        """
    def seal(self) -> tuple[bytes, bytes, bytes]:
        """Close the body and empty the batch.

        Returns (body, offsets, visitors): the JSON body; ``count + 1`` native
        uint32, where event i is ``body[offsets[i] : offsets[i + 1] - 1]``; and the
        visitor filter, 16,384 bytes.
        """
    def clear(self) -> None: ...

def to_json(payload: bytes | bytearray | memoryview) -> bytes:
    """Transcode one msgpack value to compact JSON. Raises ValueError when it is not exactly one such value."""

def json_size(payload: bytes | bytearray | memoryview) -> int:
    """Length of ``to_json(payload)`` without making it. Raises ValueError likewise."""

def visitor(payload: bytes | bytearray | memoryview) -> int:
    """64-bit hash of the event's visitor ("u", or "d"."visId"); 0 when there is none."""

def visitor_filter(visitors: list[int]) -> bytes:
    """The filter (16,384 bytes) of these visitor hashes; 0 stands for none and sets no bit."""

def visitors_meet(first: bytes, second: bytearray) -> bool:
    """Whether two filters may hold the same visitor. An empty one holds nobody."""

def visitors_join(visitors: bytearray, others: bytes) -> None:
    """Add the visitors of another filter to one, which may be empty."""

def keep_memory() -> None:
    """From now on the allocator of this process keeps up to 16 MB of what it is given back, for the next bodies.

    Without effect where the C library is not glibc.
    """

def return_memory() -> None:
    """Give what the allocator keeps back to the system."""
