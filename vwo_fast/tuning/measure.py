"""The measurements of this machine: lanes, HTTP, a whole aggregator, the disk.

Each uses the parts that a queue uses, in folders of its own; nothing is estimated
that can be measured in a second.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vwo_fast import _lane
from vwo_fast._batch import Batch
from vwo_fast.aggregator.outcome import Reply, Verdict, judge
from vwo_fast.aggregator.sealed import Sealed, Source, new_batch_id
from vwo_fast.aggregator.spool import FILE_NAME
from vwo_fast.aggregator.spool import Spool as SpoolFile
from vwo_fast.aggregator.transport import HttpRequest, Senders, Transport
from vwo_fast.config import Settings
from vwo_fast.errors import QueueError
from vwo_fast.tuning.children import Folders, private_folders, undisturbed
from vwo_fast.tuning.engine import Burst, running
from vwo_fast.tuning.events import impression, route
from vwo_fast.tuning.figures import Drain, Engine, Figures, Http, Lane, Spool, events_max, sizes_for, spread
from vwo_fast.tuning.sink import local_sink

__all__ = ["Effort", "measure", "steps_of"]

LANE_BYTES = 1 << 24
LANE_BYTES_MIN = 1 << 16
ROUND_BYTES = 4 << 20
ROUND_EVENTS_MAX = 5000
ENGINE_LANE_BYTES = 1 << 26
SPOOL_BYTES = 16 << 20
ANSWER_SECONDS = 60.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure. ``windows``: requests in flight that are tried."""

    rounds: int
    seconds: float
    burst_events: int
    bursts: int
    windows: tuple[int, ...]

    @classmethod
    def full(cls) -> Effort:
        """About half a minute."""
        return cls(rounds=60, seconds=2.0, burst_events=60_000, bursts=5, windows=(1, 4, 16))

    @classmethod
    def quick(cls) -> Effort:
        """A few seconds."""
        return cls(rounds=12, seconds=0.25, burst_events=20_000, bursts=3, windows=(1, 4))


def steps_of(effort: Effort, event_bytes: int) -> int:
    """How often ``measure`` tells what it does next."""
    return 3 + len(sizes_for(event_bytes)) * len(effort.windows)


def measure(effort: Effort, event_bytes: int, *, places: Settings, server: Settings | None, tell: Tell) -> Figures:
    """Measure this machine with events of one size. Raises QueueError or OSError when it cannot be done.

    ``places``: its run_dir and spool_dir are where folders are made; in a queue that is there nothing is touched.
    ``server``: where the HTTP part sends to and how; None takes a sink of our own.
    """
    with undisturbed(), private_folders(places.run_dir, places.spool_dir) as folders:
        # Before our own lanes and batches take some of it.
        shared, disk = os.statvfs(folders.run_dir), os.statvfs(folders.spool_dir)
        tell("lanes: enqueue and drain")
        lane, drains, bodies = _lanes(effort, event_bytes, folders)
        with local_sink() as sink:
            base = Settings.from_json_dict(
                {
                    "queue": "bench",
                    "run_dir": str(folders.run_dir),
                    "spool_dir": str(folders.spool_dir),
                    "base_url": sink,
                }
            )
            cells = []
            for events, body in bodies.items():
                for window in effort.windows:
                    tell(f"HTTP: {events} events per request, {window} in flight")
                    settings = (server or base).replace(in_flight_max=window)
                    cells.append(_http(effort, settings, events, body[0], window))
            tell("aggregator: what an event and a request cost it")
            engine = _engine(effort, event_bytes, folders, sink)
        tell("spool: the disk")
        spool = _spool(event_bytes, folders, bodies[max(bodies)])
        return Figures(
            event_bytes=event_bytes,
            url=None if server is None else server.base_url,
            lane=lane,
            drains=drains,
            http=tuple(cells),
            engine=engine,
            spool=spool,
            shared_memory_free=shared.f_bavail * shared.f_frsize,
            disk_free=disk.f_bavail * disk.f_frsize,
            cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        )


# ---- lanes

_Body = tuple[bytes, bytes, bytes]


class _OwnLane:
    """A lane of this process, written and read by it."""

    def __init__(self, folder: Path) -> None:
        self._control = _lane.Control.create(str(folder / "control"))
        self._owner = _lane.LaneOwner(self._control)
        self.capacity = lane_bytes_here(folder, LANE_BYTES)
        self._owner.open_lane(str(folder / "lane"), 1, 2, self.capacity, False)
        self._path = folder / "lane.tmp"
        self.key = route().key
        self.put = _lane.Producer(self._owner, self.key, _lane.SHAPE_FULLSTACK, _lane.KIND_EVENT).enqueue
        self._reader = _lane.LaneReader.attach(str(self._path))

    @property
    def written(self) -> int:
        return self._reader.head

    def read(self, batch: Batch) -> _Body:
        """One body of the next events, as many as the batch takes."""
        self._reader.drain(batch, self.key, self._reader.head)
        return batch.seal()

    def release(self) -> None:
        self._reader.release(self._reader.cursor)

    def close(self) -> None:
        self._reader.close()
        self._owner.close_lane()
        self._control.close()
        # What comes next may need its room.
        self._path.unlink()


def lane_bytes_here(folder: Path, wanted: int) -> int:
    """Size of a lane for a measurement: what is wanted, or less where shared memory is scarce."""
    found = os.statvfs(folder)
    capacity = wanted
    while capacity > LANE_BYTES_MIN and 4 * capacity > found.f_bavail * found.f_frsize:
        capacity //= 2
    return capacity


def _lanes(effort: Effort, event_bytes: int, folders: Folders) -> tuple[Lane, tuple[Drain, ...], dict[int, _Body]]:
    with contextlib.closing(_OwnLane(folders.run_dir)) as lane:
        # Little enough to stay in a cache: what waits in a busy queue is read while it is fresh.
        count = min(ROUND_EVENTS_MAX, max(1, min(ROUND_BYTES, lane.capacity // 4) // event_bytes))
        events = [impression(number, event_bytes) for number in range(count)]
        enqueue: list[float] = []
        sizes = sizes_for(event_bytes)
        drains: dict[int, list[float]] = {size: [] for size in sizes}
        bodies: dict[int, _Body] = {}
        batches = {size: Batch(size) for size in sizes}
        for number in range((effort.rounds + 1) * len(sizes)):
            size = sizes[number % len(sizes)]
            start = lane.written
            handed = _timed(lambda: _hand_over(lane.put, events))
            record_bytes = (lane.written - start) / count
            drained = _timed(lambda size=size: _drain(lane, batches[size], count))  # type: ignore[misc]
            lane.release()
            # The first of each size warms up.
            if number >= len(sizes):
                enqueue.append(handed / count)
                drains[size].append(drained / count)
        body = b""
        for size in sizes:
            bodies[size] = body_of(event_bytes, size)
            body = bodies[size][0]
        json_bytes = len(body) / sizes[-1]
    lane_found = Lane(enqueue=spread(enqueue), record_bytes=record_bytes, json_bytes=json_bytes)
    found = tuple(Drain(events=size, per_event=spread(drains[size]), bytes_per_event=json_bytes) for size in sizes)
    return lane_found, found, bodies


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _hand_over(put: Callable[[object], bool], events: list[dict[str, object]]) -> None:
    taken = sum([put(event) for event in events])
    if taken != len(events):
        raise QueueError(f"{len(events) - taken} of {len(events)} events were refused")


def _drain(lane: _OwnLane, batch: Batch, count: int) -> None:
    left = count
    while left > 0:
        lane.read(batch)
        left -= batch.events_max


def body_of(event_bytes: int, events: int) -> _Body:
    """The sealed body of a batch, its offsets and its visitors."""
    batch = Batch(events)
    for number in range(events):
        batch.append(_lane.pack_fullstack(impression(number, event_bytes)))
    return batch.seal()


# ---- HTTP


def _http(effort: Effort, settings: Settings, events: int, body: bytes, window: int) -> Http:
    """Keep ``window`` requests on their way for a while."""
    way = route()
    request = HttpRequest(
        method="POST",
        url=settings.base_url + way.batch_path,
        params=tuple(way.batch_query),
        headers=way.batch_headers,
        body=body,
    )
    with contextlib.closing(Transport(settings)) as transport:
        first = transport.send(request)
        _check(first, settings.base_url)
        took, wall = _flights(transport, settings, request, window, effort.seconds)
    return Http(
        events=events,
        body_bytes=len(body),
        window=window,
        requests_per_second=len(took) / wall,
        request=spread(took),
    )


def _flights(
    transport: Transport, settings: Settings, request: HttpRequest, window: int, seconds: float
) -> tuple[list[float], float]:
    """Seconds that each request took, and all together."""
    senders: Senders[float] = Senders(transport, window)
    took: list[float] = []
    begin = time.perf_counter()
    flying = 0
    answers = select.poll()
    answers.register(senders.fileno(), select.POLLIN)
    try:
        while True:
            now = time.perf_counter()
            while flying < window and now - begin < seconds:
                senders.submit(now, request)
                flying += 1
            if not flying:
                return took, time.perf_counter() - begin
            if not answers.poll(ANSWER_SECONDS * 1000):
                raise QueueError(f"{settings.base_url} has not answered for {ANSWER_SECONDS:.0f} s")
            for started, reply in senders.results():
                flying -= 1
                took.append(time.perf_counter() - started)
                _check(reply, settings.base_url)
    finally:
        senders.stop()


def _check(reply: Reply, url: str) -> None:
    if judge(reply) is not Verdict.DELIVERED:
        raise QueueError(f"{url} does not take what is measured: {reply.message}")


# ---- a whole aggregator


def _engine(effort: Effort, event_bytes: int, folders: Folders, sink: str) -> Engine:
    """Two sizes of request give two sums, and these what an event and what a request cost."""
    largest = events_max(event_bytes)
    lane_bytes = lane_bytes_here(folders.run_dir, ENGINE_LANE_BYTES)
    # A burst stays well below the watermark: the way over the disk is another measurement.
    budget = max(1, lane_bytes // 2 // event_bytes)
    rates: dict[int, float] = {}
    best: list[Burst] = []
    starts, memory = [], []
    for per_request in sorted({max(1, largest // 50), largest}):
        count = min(effort.burst_events, budget, 200 * per_request)
        with running(folders, sink, events_per_request=per_request, lane_bytes=lane_bytes) as (runner, started):
            starts.append(started)
            memory.append(runner.usage().memory_bytes)
            bursts = [runner.burst(count, event_bytes) for _ in range(effort.bursts)]
        # The least disturbed one: what is sought is the cost, not what else this machine does.
        quickest = min(bursts, key=lambda burst: burst.cpu_seconds)
        best.append(quickest)
        rates[per_request] = count / min(burst.wall_seconds for burst in bursts)
    event_cpu, request_cpu = costs(best)
    return Engine(
        event_cpu=event_cpu,
        request_cpu=request_cpu,
        start_seconds=max(starts),
        memory_bytes=max(memory),
        events_per_second=rates,
    )


def costs(bursts: list[Burst]) -> tuple[float, float]:
    """Seconds of CPU per event and per request that explain the sums best; never nothing."""
    small, large = bursts[0], bursts[-1]
    determinant = small.events * large.requests - large.events * small.requests
    floor = min(burst.cpu_seconds / burst.events for burst in bursts)
    if len(bursts) < 2 or determinant == 0:
        # Events so large that a request holds few: all of it is told per event.
        return max(floor, 1e-9), 1e-6
    request_cpu = (small.events * large.cpu_seconds - large.events * small.cpu_seconds) / determinant
    request_cpu = max(request_cpu, 1e-6)
    event_cpu = (large.cpu_seconds - request_cpu * large.requests) / large.events
    # Noise may give an event a negative cost; the larger part of the smaller sum is then a safe guess.
    return max(event_cpu, floor / 10, 1e-9), request_cpu


# ---- the disk


def _spool(event_bytes: int, folders: Folders, body: _Body) -> Spool:
    """Write batches as an outage does, and read them as the time after it does."""
    folder = folders.spool_dir / "measured"
    folder.mkdir(mode=0o700)
    path = folder / FILE_NAME
    way = route()
    events = len(body[1]) // array("I").itemsize - 1
    count = max(2, min(64, SPOOL_BYTES // len(body[0])))
    batches = [_sealed(body, way.key, ordinal, events) for ordinal in range(count)]
    routes = [(way.key, way.encode())]
    with contextlib.closing(SpoolFile(path)) as spool:
        write = sum(_timed(lambda sealed=sealed: spool.add([sealed], routes)) for sealed in batches)  # type: ignore[misc]
        read = sum(_timed(lambda sealed=sealed: _check_row(spool, sealed)) for sealed in batches)  # type: ignore[misc]
    # Closed, everything is in one file.
    size = path.stat().st_size
    total = count * events
    return Spool(write=write / total, read=read / total, disk_bytes=size / total)


def _check_row(spool: SpoolFile, sealed: Sealed) -> None:
    assert sealed.row is not None
    found = spool.load_row(sealed.row)
    if not isinstance(found, Sealed) or found.size != sealed.size:
        raise QueueError(f"the disk of {spool.path.parent} does not give back what was written")


def _sealed(body: _Body, key: int, ordinal: int, events: int) -> Sealed:
    return Sealed(
        id=new_batch_id(),
        route_key=key,
        ordinal=ordinal,
        body=body[0],
        offsets=body[1],
        events=events,
        visitors=body[2],
        sources=(Source(1, 0, 0, 1, events),),
        created=time.time(),
    )
