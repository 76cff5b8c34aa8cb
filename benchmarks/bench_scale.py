"""Whether an event costs the same: with 1 to 64 producers, after 10^3 to 10^8 events, from 100 B to 100 kB.

CPU time per event (or per byte), in the processes that enqueue and in the aggregator, since on few cores the
time on the wall only says how long they wait for each other.  Producers go on only while little is unread, so
that no lane is ever full.  Each lane has been written once from end to end before it is measured: the first lap
costs a fault per page, in the process that writes and in the one that reads, and so depends on how much a lane
has been used, not on how many there are.

Many producers have turns of 250 events, given by the process that watches what was delivered: 64 that look for
themselves would fill the caches with that.  Each makes its events just before it hands them over, as a server
does; what that takes is not counted.

What an event costs is a fixed part and one that grows; so beside the ratios stand the two figures of a line
through what was found.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vwo_fast
from benchmarks.support.events import ACCOUNT, SDK_KEY, impression
from benchmarks.support.peers import cpu_seconds
from benchmarks.support.rounds import line_through, spread
from benchmarks.support.rows import Row, finish, options
from benchmarks.support.sink import sink
from benchmarks.support.work import drained, queue_on, route
from vwo_fast._lane import Control
from vwo_fast.counters import ControlCounter

POOL = 250
CHUNK = 5_000
TURN = 250
UNREAD_MAX = 40_000
LANE_BYTES = 1 << 24
"""For one producer; many share the unread events, so each needs less, down to the usual size."""
LANE_BYTES_MIN = 1 << 21
RECORD_BYTES = 200
"""At least, of one impression in a lane."""
STEP_BYTES = 8_000_000
READY_SECONDS = 120
EVENTS_ONCE = 10**7
"""From so many on a run is long enough to be made once."""

Cost = tuple[float, float]
"""Nanoseconds of CPU: in the producers, in the aggregator."""


def enqueue_all(queue: vwo_fast.Queue, enqueue: Callable[[Any], bool], pool: list[Any], count: int) -> float:
    """Seconds of CPU that the calls took; it waits in between while much is unread."""
    took, done = 0.0, 0
    while done < count:
        part = (pool * (1 + CHUNK // len(pool)))[: min(CHUNK, count - done)]
        took += hand_over(queue, enqueue, part)
        done += len(part)
        while (stats := queue.stats()).accepted - stats.delivered > UNREAD_MAX:
            time.sleep(0.002)
    return took


def hand_over(queue: vwo_fast.Queue, enqueue: Callable[[Any], bool], events: list[Any]) -> float:
    """Seconds of CPU. Raises RuntimeError when one is refused."""
    begin = time.process_time()
    taken = sum(map(enqueue, events))
    took = time.process_time() - begin
    if taken != len(events):
        raise RuntimeError(f"{len(events) - taken} events were refused: {queue.stats()}")
    return took


def first_lap(queue: vwo_fast.Queue, enqueue: Callable[[Any], bool], pool: list[Any]) -> None:
    """Touch every page of this process's lane."""
    enqueue_all(queue, enqueue, pool, queue.settings.lane_bytes // RECORD_BYTES)


def _produce(queue: vwo_fast.Queue, lap: int, turns: int, warm: Any, ready: Any, permits: Any, took: Any) -> None:
    enqueue = queue.producer(route()).enqueue
    take_turns(queue, enqueue, lap, warm)
    ready.release()
    used = take_turns(queue, enqueue, turns, permits)
    with took.get_lock():
        took.value += used
    queue.close()


def take_turns(queue: vwo_fast.Queue, enqueue: Callable[[Any], bool], turns: int, permits: Any) -> float:
    """Hand over TURN new events in each. Seconds of CPU, without those that making them took."""
    used = 0.0
    for turn in range(turns):
        permits.acquire()
        used += hand_over(queue, enqueue, [impression(turn * TURN + number) for number in range(TURN)])
    return used


def give_turns(queue: vwo_fast.Queue, turns: int, permits: Any) -> None:
    """Let producers go on while little is unread."""
    control = Control.attach(str(queue.folder / "control"))
    before, given = control.counter(ControlCounter.DELIVERED), 0
    while given < turns:
        room = (UNREAD_MAX + control.counter(ControlCounter.DELIVERED) - before) // TURN - given
        for _ in range(min(room, turns - given)):
            permits.release()
            given += 1
        time.sleep(0.001)
    control.close()


def with_producers(url: str, producers: int, total: int) -> Cost:
    """Per event."""
    context = multiprocessing.get_context("fork")
    lane_bytes = min(LANE_BYTES, max(LANE_BYTES_MIN, 4 * LANE_BYTES // producers))
    lap, turns = 1 + lane_bytes // RECORD_BYTES // TURN, max(1, total // producers // TURN)
    with queue_on(url, lane_bytes=lane_bytes) as queue:
        warm, ready, permits = (context.Semaphore(0) for _ in range(3))
        took = context.Value("d", 0.0)
        shared = (queue, lap, turns, warm, ready, permits, took)
        processes = [context.Process(target=_produce, args=shared) for _ in range(producers)]
        for process in processes:
            process.start()
        give_turns(queue, lap * producers, warm)
        for _ in processes:
            if not ready.acquire(timeout=READY_SECONDS):
                raise RuntimeError("a producer failed")
        drained(queue)
        pid = queue.stats().aggregator_pid
        assert pid is not None
        before = cpu_seconds(pid)
        give_turns(queue, turns * producers, permits)
        for process in processes:
            process.join()
            if process.exitcode:
                raise RuntimeError("a producer failed")
        drained(queue)
        used = cpu_seconds(pid) - before
    count = turns * producers * TURN
    return took.value * 1e9 / count, used * 1e9 / count


def with_events(url: str, total: int) -> Cost:
    """The same for one process and so many events; short runs are repeated until they can be measured."""
    pool = [impression(number) for number in range(POOL)]
    with queue_on(url, lane_bytes=LANE_BYTES) as queue:
        enqueue = queue.producer(route()).enqueue
        first_lap(queue, enqueue, pool)
        drained(queue)
        pid = queue.stats().aggregator_pid
        assert pid is not None
        times = max(1, 200_000 // total)
        took, before = 0.0, cpu_seconds(pid)
        for _ in range(times):
            took += enqueue_all(queue, enqueue, pool, total)
            drained(queue)
        used = cpu_seconds(pid) - before
    return took * 1e9 / (times * total), used * 1e9 / (times * total)


def with_size(url: str, size: int) -> Cost:
    """Per event of about ``size`` bytes of JSON."""
    fme = vwo_fast.Route.fme(account_id=ACCOUNT, sdk_key=SDK_KEY, sdk_name="vwo-fme-python-sdk", sdk_version="1.65.0")
    made = [{"d": {"visId": f"{number:032X}", "text": "x" * max(1, size - 60)}} for number in range(64)]
    part = list(itertools.islice(itertools.cycle(made), max(10, min(UNREAD_MAX, STEP_BYTES // size))))
    with queue_on(url, lane_bytes=LANE_BYTES) as queue:
        enqueue = queue.producer(fme).enqueue
        pid = queue.stats().aggregator_pid
        assert pid is not None

        def steps(total: int) -> tuple[float, int]:
            took, done = 0.0, 0
            while done < total:
                took += hand_over(queue, enqueue, part)
                done += len(part)
                drained(queue)
            return took, done

        steps(LANE_BYTES // size + len(part))
        before = cpu_seconds(pid)
        took, done = steps(min(1_000_000, 100_000_000 // size))
        used = cpu_seconds(pid) - before
    return took * 1e9 / done, used * 1e9 / done


def middle(costs: list[Cost]) -> Cost:
    """The one with the median sum."""
    return sorted(costs, key=sum)[len(costs) // 2]


def series_row(what: str, found: Mapping[int, Cost], unit: str, note: str = "") -> Row:
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


def line_row(what: str, found: Mapping[int, Cost], each: str, scale: float, fixed_unit: str) -> Row:
    """Fixed part and growth of what so many bytes, or events, cost together. ``scale``: nanoseconds of its unit."""
    line = line_through({float(point): sum(parts) for point, parts in found.items()})
    return Row(
        what=what,
        ours=f"{line.fixed / scale:.3g} {fixed_unit} + {line.slope:.3g} ns per {each}",
        note=f"a line through the same figures; off by {line.off:.0%} at most",
        figures={"fixed": line.fixed, "slope": line.slope, "off": line.off},
    )


def rows_of(producers: Mapping[int, Cost], events: Mapping[int, Cost], sizes: Mapping[int, Cost]) -> list[Row]:
    per_byte = {size: (ours / size, other / size) for size, (ours, other) in sizes.items()}
    together = {count: (ours * count, other * count) for count, (ours, other) in events.items()}
    few, small = "few events: a request and a flush for them", "small events: what each costs at least"
    return [
        series_row("CPU per event with so many producers", producers, "ns"),
        series_row("CPU per event after so many events", events, "ns", few),
        series_row("CPU per byte for events of so many bytes", per_byte, "ns", small),
        line_row("CPU of n events and a flush", together, "event", 1e3, "µs"),
        line_row("CPU of an event of n bytes", sizes, "byte", 1.0, "ns"),
    ]


def main() -> int:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--producers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--events", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6, 10**7, 10**8])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--total", type=int, default=640_000, help="events of all producers together")
    given = parser.parse_args()
    producers: dict[int, list[Cost]] = {count: [] for count in given.producers}
    events: dict[int, list[Cost]] = {count: [] for count in given.events}
    sizes: dict[int, list[Cost]] = {size: [] for size in given.sizes}
    with sink() as server:
        for number in range(given.rounds):
            for count, costs in producers.items():
                costs.append(with_producers(server.url, count, given.total))
            for size, costs in sizes.items():
                costs.append(with_size(server.url, size))
            for count, costs in events.items():
                if number == 0 or count < EVENTS_ONCE:
                    costs.append(with_events(server.url, count))
    found = [{point: middle(costs) for point, costs in series.items()} for series in (producers, events, sizes)]
    return finish("scale", rows_of(*found), given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
