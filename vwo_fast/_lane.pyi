"""Compiled access to the shared memory of a queue: control file, lanes, packing.

A lane has one producer (the process that created it) and one consumer (the
aggregator).  The bytes are drawn in ``csrc/vf_layout.h``.
"""

from __future__ import annotations

from typing import Any, Final

from vwo_fast._batch import Batch
from vwo_fast.errors import VwoFastError

LAYOUT_VERSION: Final[int]
KIND_EVENT: Final[int]
KIND_IMPRESSION: Final[int]
KIND_REQUEST: Final[int]
KIND_EXTERNAL: Final[int]
"""Or-ed into the kind of a record whose payload lies in a file of its own."""
SHAPE_PLAIN: Final[int]
"""Pack the object as it is."""
SHAPE_FULLSTACK: Final[int]
"""Pack what ``/server-side/batch-events`` takes of a FullStack impression."""

REASON_LANE_FULL: Final[int]
REASON_TOO_LARGE: Final[int]
REASON_NOT_JSON: Final[int]
REASON_TOO_DEEP: Final[int]
REASON_BAD_IMPRESSION: Final[int]
REASON_NO_LANE: Final[int]
REASON_INTERNAL: Final[int]

class SegmentError(VwoFastError):
    """A mapped file is not what it should be (magic, version, sizes, owner); the text says which."""

class Control:
    """The small file that all processes of a queue map."""

    @classmethod
    def create(cls, path: str) -> Control:
        """Make the file (0600, allocated before it is mapped, complete before it gets its name).

        The caller holds the queue's lock. Raises FileExistsError when there is one already.
        """
    @classmethod
    def attach(cls, path: str) -> Control:
        """Map an existing file. Raises SegmentError, naming both versions when they differ."""
    @property
    def sleeping(self) -> bool: ...
    def set_sleeping(self) -> None:
        """Aggregator: announce sleep (with a full fence); it must look at the lanes once more before it sleeps."""
    def set_dozing(self) -> None:
        """Aggregator: announce a nap that only a producer whose lane is half full is to end."""
    def set_awake(self) -> None: ...
    def take_doorbell(self) -> bool:
        """Producer, after publishing: True when the aggregator sleeps and this caller is the one to wake it."""
    @property
    def generation(self) -> int: ...
    def bump_generation(self) -> None: ...
    @property
    def path(self) -> str: ...
    def claim_launch(self, now_ns: int, interval_ns: int) -> bool:
        """True for exactly one caller per interval, over all processes."""
    def clear_launch(self) -> None:
        """Aggregator, once it runs: whoever finds it gone may launch at once."""
    aggregator_pid: int
    heartbeat_ns: int
    def counter(self, index: int) -> int: ...
    def add(self, index: int, amount: int) -> None: ...
    def set(self, index: int, value: int) -> None: ...
    def counters(self) -> list[int]: ...
    def close(self) -> None: ...

class LaneOwner:
    """What a process holds of one queue: its lane and the way to get one.

    ``queue.py`` subclasses it and overrides the hooks; the hot path below calls
    them only when something is not as usual.  Hooks may run on several threads
    at once, and an enqueue may be made inside any of them.
    """

    def __init__(self, control: Control) -> None: ...
    def open_lane(
        self,
        path: str,
        lane_id: int,
        owner: int,
        capacity: int,
        wants_reports: bool,
        predecessor: int = 0,
        *,
        keep_old: bool = False,
    ) -> None:
        """Create this process's lane file under ``path + ".tmp"`` and map it. The caller locks, renames and announces.

        ``predecessor``: the lane it takes the place of, which is read to its end before this one.  ``keep_old``:
        nobody reads that one any more, and a call of ``rescue_old`` follows.
        Raises OSError (ENOSPC when shared memory is full).
        """
    @property
    def lane_id(self) -> int:
        """0 when this process (as seen by its pid now) has no lane."""
    @property
    def capacity(self) -> int:
        """Bytes of the lane's ring; 0 without a lane."""
    body_bytes_max: int
    """An event whose request, with it alone, is larger than this is refused (default 10,000,000)."""
    @property
    def used_bytes(self) -> int:
        """Bytes of the ring that have not been released."""
    @property
    def is_abandoned(self) -> bool:
        """Whether the aggregator says that it reads this lane no more."""
    def attach_now(self) -> bool:
        """Have a lane, as for an event; False: this process gets none."""
    def move_to(self, control: Control) -> None:
        """Leave the lane, and count in another control file from now on.

        This process has no lane then; once ``open_lane`` has given it one, a call of ``rescue_old`` follows.
        """
    def rescue_old(self, *, is_counted: bool = True) -> tuple[int, int]:
        """Move what nobody has read of the lane that was left into the present one, and count it.

        ``is_counted``: what had been read of it is counted in the same control file.
        Returns how many records are moved, and how many are lost, because they are damaged or do not fit.
        """
    def close_lane(self) -> None:
        """Unmap the lane; what is in it stays in its file."""
    def lane_counters(self) -> list[int]:
        """The lane's counters; without a lane, what this process counted and will carry into its next one."""
    def refuse(self, reason: int, detail: str) -> None:
        """Count an event that was refused before it reached ``enqueue``, and tell hook_refused."""
    def watch_aggregator(self, fd: int) -> None:
        """The descriptor of a file whose first byte is locked by the aggregator as long as it lives."""
    def set_external_limit(self, external_bytes: int) -> None:
        """Payloads above this many bytes are handed to hook_external instead of the lane."""

    # hooks, called with the GIL, never on the usual path; an Exception they raise is swallowed and counted
    # (LaneCounter.HOOK_FAILURES), only KeyboardInterrupt, SystemExit and their like pass
    def hook_attach(self) -> bool:
        """First enqueue of this process, or the first after a fork: open a lane. False: none can be had.

        When it fails after open_lane, that lane is closed again.  Threads that enqueue at the same
        time all come here until there is a lane; an enqueue inside the hook is refused.
        """
    def hook_ring(self) -> None:
        """The aggregator sleeps and this caller took the doorbell."""
    def hook_tick(self) -> None:
        """Is the aggregator alive?  At the first enqueue of each period of about 17 ms.

        While the lock given to ``watch_aggregator`` is held, only of each period of about a second.
        """
    def hook_full(self, needed_bytes: int, waited: float) -> bool:
        """The lane is full. True: try again (the hook has slept, say); asked until there is room or it says False.

        ``waited``: seconds since this event was first found to have no room.
        """
    def hook_external(self, seq: int, payload: bytes) -> bool:
        """A payload too large for the lane: keep it in a file of its own.

        ``seq`` is taken: the record that follows has it, and when there is none, no other has.
        """
    def hook_unused(self, lane_id: int, seq: int) -> None:
        """What hook_external kept has no record after all: the event was refused."""
    def hook_adopted(self, lane_id: int, seq: int, new_seq: int) -> bool:
        """The record of what hook_external kept moves from that lane into the present one. False: it cannot be had."""
    def hook_refused(self, reason: int, detail: str) -> None:
        """An event was refused; it has been counted in the lane already (index = reason)."""

class Producer:
    """Packs into the owner's lane. One route each; any thread of the process may call it."""

    def __init__(self, owner: LaneOwner, route_key: int, shape: int, kind: int) -> None: ...
    def enqueue(self, event: Any, /) -> bool:
        """Accept one event. Never raises, never blocks. False: refused, counted, and told to hook_refused.

        The one exception is what is not an Exception: a KeyboardInterrupt or SystemExit that a signal
        handler raises inside a hook passes through.
        """

class LaneReader:
    """The consumer's side of one lane; one thread at a time.

    Everything that looks at the head raises SegmentError when it cannot be true.
    """

    @classmethod
    def attach(cls, path: str) -> LaneReader:
        """Map a lane. Raises SegmentError."""
    @classmethod
    def attach_aside(cls, path: str) -> LaneReader:
        """Map what was put aside, whatever its header says: for what is known of it, never for its records.

        Raises SegmentError when it has not the size of a lane.
        """
    @property
    def path(self) -> str: ...
    @property
    def lane_id(self) -> int: ...
    @property
    def owner(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def predecessor(self) -> int:
        """Id of the lane that its producer outgrew and that is to be read to its end before this one; 0: none."""
    @property
    def wants_reports(self) -> bool: ...
    @property
    def capacity(self) -> int: ...
    @property
    def head(self) -> int:
        """Published position, checked against tail and capacity."""
    @property
    def cursor(self) -> int:
        """Position read so far. It also passes padding, done records and damage, which belong to no run."""
    @property
    def tail(self) -> int: ...
    @property
    def damaged(self) -> int:
        """Records skipped so far because they did not certify themselves, as far as it can be told how many.

        Those that a reader before this one has counted, and noted, are not among them.
        """
    @property
    def damage_end(self) -> tuple[int, int | None]:
        """Where the last damage ends that has been counted, and how many records lie before that; None: not known."""
    def note_damage(self, position: int, passed: int | None = None) -> None:
        """Write down that damage before ``position`` has been counted: a later reader does not count it again."""
    @property
    def passed(self) -> int | None:
        """Records before the cursor since the lane was made, lost ones included; None when it is not known."""
    @property
    def run_passed(self) -> int:
        """Records before the first one that the last drain or take moved."""
    def peek(self) -> tuple[int, int] | None:
        """(kind, route) of the next record that is whole and not done, or None. Skips padding, done and damage."""
    def drain(self, batch: Batch, route: int, until: int) -> tuple[int, int, int, int, int, int]:
        """Move consecutive KIND_EVENT records of ``route`` that begin before position ``until`` into ``batch``.

        Returns (status, count, start, end, first_seq, invalid).  status: EMPTY nothing more before
        ``until``; FULL seal first; OTHER the next record has another route or kind, or does not follow
        in sequence, or is left to the next call (peek tells which; then drain or take).  ``start`` and
        ``end`` are positions, ``first_seq`` the sequence of the first record moved, ``invalid`` how many
        records of this run could not become JSON (they are passed over and count as read).  The run has
        every sequence from ``first_seq`` to ``first_seq + count + invalid - 1``.
        """
    def take(self) -> tuple[int, int, int, int, int, bytes] | None:
        """Read one record of any kind: (kind, route, seq, start, end, payload); advances the cursor.

        With KIND_EXTERNAL in ``kind`` the payload is u64 size, u64 check_value of the file
        ``big-<lane id>-<seq>``.
        """
    def rewind(self, position: int, passed: int | None = None) -> None:
        """Put the cursor back to a position it has passed.

        ``passed``: how many records lie before that; without it that is not known from then on.
        """
    def mark_done(self, start: int, end: int) -> int:
        """Mark the records between two positions as done, so that a restart skips them. Returns how many.

        Only needed where records before them are not done: else release is enough.
        """
    def mark_done_seq(self, first_seq: int, last_seq: int) -> int:
        """The same by sequence; reads forward from the tail."""
    def release(self, position: int, passed: int | None = None) -> None:
        """Give the space before ``position``, at most the cursor, back to the producer.

        ``passed``: how many records lie before it since the lane was made; a later reader of the lane starts there.
        """
    def abandon(self) -> None:
        """Say to its producer that nothing behind the cursor will be read."""
    @property
    def is_abandoned(self) -> bool:
        """Whether that was said."""
    @property
    def is_claimed(self) -> bool:
        """Whether the producer has taken along what was not read."""
    def counters(self) -> list[int]: ...
    def close(self) -> None: ...

def pack(event: Any) -> bytes:
    """The msgpack bytes that a producer would write. Raises ValueError with the reason it would be refused for."""

def pack_fullstack(impression: dict[str, Any]) -> bytes:
    """The same with SHAPE_FULLSTACK."""

def check_value(data: bytes | bytearray | memoryview) -> int:
    """64-bit check value of an external payload; it finds damage and is not cryptographic."""
