"""Whether an event costs the same: with 1 to 64 producers, after 10^3 to 10^8 events, from 100 B to 100 kB.

CPU time per event (or per byte), in the processes that enqueue and in the aggregator, since on few cores the
time on the wall only says how long they wait for each other.  Producers go on only while little is unread, so
that no lane is ever full.  Each lane has been written once from end to end before it is measured: the first lap
costs a fault per page, in the process that writes and in the one that reads, and so depends on how much a lane
has been used, not on how many there are.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vwo_fast
from benchmarks.support.events import ACCOUNT, SDK_KEY, impression
from benchmarks.support.peers import cpu_seconds
from benchmarks.support.rounds import spread
from benchmarks.support.rows import Row, finish, options
from benchmarks.support.sink import sink
from benchmarks.support.work import drained, queue_on, route

POOL = 250
CHUNK = 5_000
CHUNK_MIN = 500
UNREAD_MAX = 40_000
LANE_BYTES = 1 << 24
"""For one producer; many share the unread events, so each needs less, down to the usual size."""
LANE_BYTES_MIN = 1 << 21
RECORD_BYTES = 200
"""At least, of one impression in a lane."""
READY_SECONDS = 120


def enqueue_all(
    queue: vwo_fast.Queue, enqueue: Callable[[Any], bool], pool: list[Any], count: int, chunk: int = CHUNK
) -> float:
    """Seconds of CPU that the calls took; it waits in between while much is unread."""
    took, done = 0.0, 0
    while done < count:
        part = (pool * (1 + chunk // len(pool)))[: min(chunk, count - done)]
        begin = time.process_time()
        taken = sum(map(enqueue, part))
        took += time.process_time() - begin
        if taken != len(part):
            raise RuntimeError(f"{len(part) - taken} events were refused: {queue.stats()}")
        done += len(part)
        while (stats := queue.stats()).accepted - stats.delivered > UNREAD_MAX:
            time.sleep(0.002)
    return took


def first_lap(queue: vwo_fast.Queue, enqueue: Callable[[Any], bool], pool: list[Any], chunk: int = CHUNK) -> None:
    """Touch every page of this process's lane."""
    enqueue_all(queue, enqueue, pool, queue.settings.lane_bytes // RECORD_BYTES, chunk)


def _produce(queue: vwo_fast.Queue, count: int, chunk: int, ready: Any, start: Any, took: Any) -> None:
    pool = [impression(number) for number in range(POOL)]
    enqueue = queue.producer(route()).enqueue
    first_lap(queue, enqueue, pool, chunk)
    ready.release()
    start.wait()
    used = enqueue_all(queue, enqueue, pool, count, chunk)
    with took.get_lock():
        took.value += used
    queue.close()


def with_producers(url: str, producers: int, total: int) -> tuple[float, float]:
    """Nanoseconds of CPU per event: in the producers, in the aggregator."""
    context = multiprocessing.get_context("fork")
    chunk = max(CHUNK_MIN, CHUNK // producers)
    with queue_on(url, lane_bytes=min(LANE_BYTES, max(LANE_BYTES_MIN, 4 * LANE_BYTES // producers))) as queue:
        ready, start, took = context.Semaphore(0), context.Event(), context.Value("d", 0.0)
        each = total // producers
        shared = (queue, each, chunk, ready, start, took)
        processes = [context.Process(target=_produce, args=shared) for _ in range(producers)]
        for process in processes:
            process.start()
        for _ in processes:
            if not ready.acquire(timeout=READY_SECONDS):
                raise RuntimeError("a producer failed")
        drained(queue)
        pid = queue.stats().aggregator_pid
        assert pid is not None
        before = cpu_seconds(pid)
        start.set()
        for process in processes:
            process.join()
            if process.exitcode:
                raise RuntimeError("a producer failed")
        drained(queue)
        used = cpu_seconds(pid) - before
    count = each * producers
    return took.value * 1e9 / count, used * 1e9 / count


def with_events(url: str, total: int) -> tuple[float, float]:
    """The same for one process and so many events; short runs are repeated until they can be measured."""
    pool = [impression(number) for number in range(POOL)]
    with queue_on(url, lane_bytes=LANE_BYTES) as queue:
        enqueue = queue.producer(route()).enqueue
        first_lap(queue, enqueue, pool)
        drained(queue)
        pid = queue.stats().aggregator_pid
        assert pid is not None
        times = max(1, 50_000 // total)
        took, before = 0.0, cpu_seconds(pid)
        for _ in range(times):
            took += enqueue_all(queue, enqueue, pool, total)
            drained(queue)
        used = cpu_seconds(pid) - before
    return took * 1e9 / (times * total), used * 1e9 / (times * total)


def with_size(url: str, size: int) -> tuple[float, float]:
    """Nanoseconds of CPU per event of about ``size`` bytes of JSON."""
    fme = vwo_fast.Route.fme(account_id=ACCOUNT, sdk_key=SDK_KEY, sdk_name="vwo-fme-python-sdk", sdk_version="1.65.0")
    made = [{"d": {"visId": f"{number:032X}", "text": "x" * max(1, size - 60)}} for number in range(64)]
    count = max(200, min(50_000, 40_000_000 // size))
    with queue_on(url, lane_bytes=1 << 26) as queue:
        enqueue = queue.producer(fme).enqueue
        pid = queue.stats().aggregator_pid
        assert pid is not None
        took, before, done = 0.0, cpu_seconds(pid), 0
        step = max(10, min(5_000, 8_000_000 // size))
        while done < count:
            part = (made * (1 + step // 64))[:step]
            begin = time.process_time()
            if sum(map(enqueue, part)) != step:
                raise RuntimeError(f"events were refused: {queue.stats()}")
            took += time.process_time() - begin
            done += step
            drained(queue)
        used = cpu_seconds(pid) - before
    return took * 1e9 / done, used * 1e9 / done


def series_row(what: str, found: dict[int, tuple[float, float]], unit: str, note: str = "") -> Row:
    totals = {point: sum(parts) for point, parts in found.items()}
    middle = spread(list(totals.values())).median
    widest = max(abs(value / middle - 1) for value in totals.values())
    shown = ", ".join(f"{point:,}: {value:.3g}" for point, value in totals.items())
    return Row(
        what=what,
        against="its own median",
        ours=f"{shown} {unit}",
        ratio=f"within {widest:.0%}",
        goal="within 30 %",
        met=widest <= 0.3,
        note=note,
        figures={
            "producer": {str(k): v[0] for k, v in found.items()},
            "aggregator": {str(k): v[1] for k, v in found.items()},
        },
    )


def main() -> int:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--producers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--events", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6, 10**7, 10**8])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--total", type=int, default=640_000, help="events of all producers together")
    given = parser.parse_args()
    with sink() as server:
        producers = {count: with_producers(server.url, count, given.total) for count in given.producers}
        events = {count: with_events(server.url, count) for count in given.events}
        sizes = {size: with_size(server.url, size) for size in given.sizes}
    per_byte = {size: (ours / size, other / size) for size, (ours, other) in sizes.items()}
    rows = [
        series_row("CPU per event with so many producers", producers, "ns"),
        series_row("CPU per event after so many events", events, "ns", "few events: a request for few of them"),
        series_row(
            "CPU per byte for events of so many bytes", per_byte, "ns", "small events: what each costs at least"
        ),
    ]
    return finish("scale", rows, given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
