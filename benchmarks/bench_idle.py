"""What an aggregator costs that has nothing to do, and how soon it reads the first event after that. Linux only."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.events import impression
from benchmarks.support.peers import cpu_seconds
from benchmarks.support.rounds import spread
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import sink
from benchmarks.support.work import queue_on, route
from vwo_fast import Queue
from vwo_fast._lane import Control
from vwo_fast.counters import ControlCounter

SETTLE_SECONDS = 2.0


def switches(pid: int) -> int:
    """How often the process has gone to sleep by itself: each is a wake-up."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def idle_rows(pid: int, seconds: float) -> list[Row]:
    time.sleep(SETTLE_SECONDS)
    before, used, begin = switches(pid), cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    rate = (switches(pid) - before) / took
    share = (cpu_seconds(pid) - used) / took
    return [
        Row(
            what="idle aggregator: wake-ups",
            ours=f"{rate:.2f} a second",
            goal="≤ 2 a second",
            met=rate <= 2,
            figures={"per_second": rate},
        ),
        Row(
            what="idle aggregator: CPU",
            ours=f"{share:.3%}",
            goal="≤ 0.1 %",
            met=share <= 0.001,
            figures={"share": share},
        ),
    ]


def first_event_row(queue: Queue, rounds: int) -> Row:
    """From the call of enqueue to the moment when the open batch shows the event in shared memory."""
    enqueue = queue.producer(route()).enqueue
    control = Control.attach(str(queue.folder / "control"))
    took = []
    for number in range(rounds):
        queue.flush(30)
        while not control.sleeping:
            time.sleep(0.01)
        time.sleep(0.2)
        begin = time.perf_counter_ns()
        enqueue(impression(number))
        while control.counter(ControlCounter.GAUGE_OPEN_EVENTS) == 0:
            time.sleep(0.00002)
        took.append((time.perf_counter_ns() - begin) / 1e6)
    found = spread(took)
    return Row(
        what="first event after idle is read",
        ours=f"{found.median:.2f} ms ({found.low:.2f} to {found.high:.2f})",
        goal="≤ 5 ms",
        met=found.median <= 5,
        note=f"maximum of {rounds}: {max(took):.2f} ms; the process has its ZeroMQ socket already",
        figures=found.as_dict(),
    )


def main() -> int:
    parser = options(__doc__, rounds=30)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to watch (default 10)")
    given = parser.parse_args()
    if not Path("/proc/self/task").exists():
        return finish("idle", [skipped("idle aggregator", "-", "there is no /proc")], given.json)
    with sink() as server, queue_on(server.url, request_time_interval=600, idle_exit=60) as queue:
        pid = queue.stats().aggregator_pid
        assert pid is not None
        rows = [*idle_rows(pid, given.seconds), first_event_row(queue, given.rounds)]
    return finish("idle", rows, given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
