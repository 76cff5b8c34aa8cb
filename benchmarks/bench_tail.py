"""How long the slowest calls of ``enqueue`` take while the aggregator is busy.

One process enqueues at a steady rate and takes the time of every call; the aggregator reads,
builds and delivers at the same time.  The clock's own two calls are in every figure.  An empty
function is timed in the same way in between, because what a busy machine does to it, it does
to anything: the pauses of the empty function are the machine's, not the queue's.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.events import impression
from benchmarks.support.rounds import spread
from benchmarks.support.rows import Row, finish, options
from benchmarks.support.sink import sink
from benchmarks.support.work import drained, queue_on, route

POOL = 250


def nothing(event: object) -> bool:
    return True


def paced(call: Callable[[Any], Any], events: list[Any], interval_ns: int) -> array[int]:
    """Nanoseconds of each call; they start ``interval_ns`` apart, or as soon as the one before is over."""
    clock = time.perf_counter_ns
    took = array("Q", bytes(8 * len(events)))
    due = clock()
    for place, event in enumerate(events):
        while clock() < due:
            pass
        begin = clock()
        call(event)
        took[place] = clock() - begin
        due = max(due + interval_ns, begin)
    return took


def quantiles(took: array[int]) -> dict[str, float]:
    ordered = sorted(took)

    def at(share: float) -> int:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "median": at(0.5),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "p99.99": at(0.9999),
        "maximum": ordered[-1],
    }


def measure(url: str, rounds: int, rate: int, events_per_round: int) -> dict[str, list[dict[str, float]]]:
    pool = [impression(number) for number in range(POOL)]
    events = pool * (events_per_round // POOL)
    found: dict[str, list[dict[str, float]]] = {"enqueue": [], "nothing": []}
    with queue_on(url, lane_bytes=1 << 26) as queue:
        enqueue = queue.producer(route()).enqueue
        for number in range(rounds):
            order = (("enqueue", enqueue), ("nothing", nothing))
            for name, call in order if number % 2 == 0 else order[::-1]:
                found[name].append(quantiles(paced(call, events, 10**9 // rate)))
        drained(queue)
        stats = queue.stats()
        if stats.refused or stats.dropped:
            raise RuntimeError(f"some events were not taken: {stats}")
    return found


def middle(found: list[dict[str, float]], name: str) -> float:
    return spread([one[name] for one in found]).median


def main() -> int:
    parser = options(__doc__, rounds=9)
    parser.add_argument("--rate", type=int, default=200_000, help="events per second (default 200000)")
    parser.add_argument("--events", type=int, default=200_000, help="events per round (default 200000)")
    given = parser.parse_args()
    with sink() as server:
        found = measure(server.url, given.rounds, given.rate, given.events)
        ours, empty = found["enqueue"], found["nothing"]
        median = middle(ours, "median")
        ratio = spread([one["p99.9"] / one["median"] for one in ours])
        maximum = spread([one["maximum"] for one in ours])
        what = f"enqueue at {given.rate:,} events/s, aggregator busy"
        return finish(
            "tail",
            [
                Row(
                    what=f"{what}: p99.9",
                    against="its own median",
                    ours=f"{middle(ours, 'p99.9'):.0f} ns",
                    theirs=f"{median:.0f} ns",
                    ratio=f"{ratio.median:.1f} ({ratio.low:.1f} to {ratio.high:.1f})",
                    goal="≤ 20",
                    met=ratio.median <= 20,
                    note=f"an empty function: {middle(empty, 'p99.9'):.0f} ns; both with the clock's own calls",
                    figures={"ratio": ratio.as_dict(), **found},
                ),
                Row(
                    what=f"{what}: maximum",
                    against="an empty function",
                    ours=f"{maximum.median / 1000:.0f} µs ({maximum.low / 1000:.0f} to {maximum.high / 1000:.0f})",
                    theirs=f"{middle(empty, 'maximum') / 1000:.0f} µs",
                    note="what the scheduler takes; there is no lock to wait for",
                    figures={"maximum": maximum.as_dict()},
                ),
            ],
            given.json,
            sink=server.kind,
        )


if __name__ == "__main__":
    sys.exit(main())
