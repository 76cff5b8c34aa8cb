"""The rooms of the aggregator for unit tests: real lanes and spool, fake time, senders that only remember."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.engine import SDK_KEY
from vwo_fast import _batch, _lane
from vwo_fast._lane import Control
from vwo_fast.aggregator.lanes import LaneSet
from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.aggregator.outcome import Reply
from vwo_fast.aggregator.routes import Routes
from vwo_fast.aggregator.sealed import Sealed, Source, new_batch_id
from vwo_fast.aggregator.shipper import Flight, Shipper
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.transport import HttpRequest
from vwo_fast.config import Settings, load_settings
from vwo_fast.folder import write_private
from vwo_fast.locks import lock_file, random_id
from vwo_fast.route import Route

__all__ = ["Clock", "LaneWriter", "Rooms", "Senders", "event", "sealed"]

ROUTE = Route.fullstack(account_id=1, sdk_key=SDK_KEY, sdk_version="1.68.2")


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Senders:
    """Takes requests and gives back the replies that a test puts in."""

    def __init__(self) -> None:
        self.sent: list[tuple[Flight, HttpRequest]] = []
        self._replies: list[tuple[Flight, Reply]] = []

    def submit(self, token: Flight, request: HttpRequest) -> None:
        self.sent.append((token, request))

    def reply(self, index: int = 0, **reply: Any) -> Sealed:
        """Answer one of the requests on their way. Gives back the first of its batches."""
        flight, _ = self.sent.pop(index)
        self._replies.append((flight, Reply(**reply)))
        return flight.batches[0]

    def results(self) -> list[tuple[Flight, Reply]]:
        found, self._replies = self._replies, []
        return found


class LaneWriter(_lane.LaneOwner):
    """A producer's lane in a folder, its lock held by nobody but this process."""

    def __init__(self, folder: Path, control: Control, *, capacity: int = 1 << 16, wants_reports: bool = False) -> None:
        super().__init__(control)
        self.id = random_id()
        self.owner_id = random_id()
        self.folder = folder
        self.path = folder / f"lane-{self.id:016x}"
        self.users = lock_file(folder / "users.lock")
        self.users.acquire(self.id)
        self.open_lane(str(self.path), self.id, self.owner_id, capacity, wants_reports)
        Path(f"{self.path}.tmp").rename(self.path)
        control.bump_generation()

    def hook_external(self, seq: int, payload: bytes) -> bool:
        write_private(self.folder / f"big-{self.id:016x}-{seq:016x}", payload)
        return True

    def producer(self, key: int, kind: int = _lane.KIND_EVENT) -> _lane.Producer:
        return _lane.Producer(self, key, _lane.SHAPE_PLAIN, kind)

    def die(self) -> None:
        """As the kernel would: the lock goes, the lane stays."""
        self.close_lane()
        self.users.release(self.id)


class Rooms:
    """A folder with a control file, and the rooms on it that a test asks for."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.folder = root / "run"
        self.folder.mkdir(mode=0o700)
        options = {"retry_delay_min": 1.0, "retry_delay_max": 8.0, **options}
        self.settings: Settings = load_settings(
            "shop",
            environ={},
            run_dir=root,
            spool_dir=root / "spool",
            base_url="http://vwo.test",
            **options,
        )
        self.clock = Clock()
        self.control = Control.create(str(self.folder / "control"))
        self.metrics = Metrics(self.control)
        self.routes = Routes(self.folder, self.control, self.clock)
        self.spool = Spool(root / "spool.sqlite", bytes_max=self.settings.spool_max_bytes)
        self.senders = Senders()
        self.outcomes: list[tuple[str, bool]] = []
        self.lost_events = 0
        self.shipper = self.new_shipper()
        self.lanes = self.new_lanes()

    def new_shipper(self) -> Shipper:
        return Shipper(
            self.settings,
            routes=self.routes,
            spool=self.spool,
            senders=self.senders,  # type: ignore[arg-type]
            metrics=self.metrics,
            observer=self,
            clock=self.clock,
            rng=lambda: 1.0,
        )

    def new_lanes(self, spooled: dict[int, list[tuple[int, int]]] | None = None) -> LaneSet:
        return LaneSet(self.folder, self.control, lock_file(self.folder / "users.lock"), self.metrics, spooled or {})

    def settled(self, sealed: Sealed, *, delivered: bool, reply: Reply) -> None:
        self.outcomes.append((sealed.id, delivered))

    def lost(self, events: int) -> None:
        self.lost_events += events

    def add_route(self, route: Route = ROUTE) -> int:
        """Write the route's file, as a producer does."""
        write_private(self.folder / f"route-{route.key:016x}", route.encode())
        self.control.bump_generation()
        return route.key

    def close(self) -> None:
        self.lanes.close()
        self.spool.close()


def event(number: int, visitor: str | None = None) -> dict[str, Any]:
    return {"u": visitor or f"V{number}", "n": number}


def sealed(
    ordinal: int,
    *,
    events: int = 1,
    visitors: Sequence[str] | None = None,
    route: Route = ROUTE,
    owner: int = 0,
    size: int = 0,
) -> Sealed:
    """A batch whose events are numbered; each of another visitor unless ``visitors`` names them."""
    batch = _batch.Batch(max(1, events))
    for index in range(events):
        visitor = visitors[index] if visitors else f"{ordinal}-{index}"
        made = {**event(ordinal * 1000 + index, visitor), "pad": "x" * size}
        assert batch.append(_lane.pack(made)) == _batch.OK
    body, offsets, bits = batch.seal()
    return Sealed(
        id=new_batch_id(),
        route_key=route.key,
        ordinal=ordinal,
        body=body,
        offsets=offsets,
        events=events,
        visitors=bits,
        sources=(Source(7, owner, ordinal * 1000, ordinal * 1000 + 900, events),),
        created=1.0,
    )


def offsets_of(sealed: Sealed) -> list[int]:
    return list(array("I", sealed.offsets))
