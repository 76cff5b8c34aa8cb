"""Memory of a worker and of the aggregator, and what ``import vwo_fast`` costs. Memory on Linux only.

RSS counts every page that is mapped and present, USS those of this process alone, PSS shares the
others out.  A lane's pages are shared memory, so they are in RSS and, by half, in PSS.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.events import impression
from benchmarks.support.rounds import spread
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import sink
from benchmarks.support.smaps import memory
from benchmarks.support.venv import NotMeasuredError, environment, run_in
from benchmarks.support.work import drained, queue_on, route

WORKER = Path(__file__).parent / "support" / "memory_worker.py"


def shown(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} MB" for name, value in found.items())


def worker_rows(url: str) -> list[Row]:
    what = "worker: memory on top of the SDK, 2000 impressions"
    try:
        found = {kind: run_in("fullstack", WORKER, [kind, url]) for kind in ("vwo_fast", "official")}
    except NotMeasuredError as exc:
        return [skipped(what, "the official batching", str(exc))]
    return [
        Row(
            what=what,
            against="the official batching",
            ours=shown(found["vwo_fast"]),
            theirs=shown(found["official"]),
            goal="≤ 3 MB",
            met=found["vwo_fast"]["USS"] <= 3,
            note="the goal is compared with USS; the lane is shared memory and in RSS",
            figures=found,
        )
    ]


def aggregator_rows(url: str, rate: int, seconds: float) -> list[Row]:
    rows = []
    with queue_on(url, idle_exit=60, lane_bytes=1 << 24) as queue:
        pid = queue.stats().aggregator_pid
        assert pid is not None
        time.sleep(1.0)
        rows.append(_row("aggregator idle: memory", memory(pid), 40))
        enqueue = queue.producer(route()).enqueue
        pool = [impression(number) for number in range(rate // 1000)]
        most: dict[str, float] = {}
        begin, done = time.perf_counter(), 0
        while (now := time.perf_counter() - begin) < seconds:
            if done < now * 1000:
                for event in pool:
                    enqueue(event)
                done += 1
                if done % 100 == 0:
                    most = {name: max(value, most.get(name, 0)) for name, value in memory(pid).items()}
            else:
                time.sleep(0.0002)
        reached = done * len(pool) / (time.perf_counter() - begin)
        drained(queue)
        stats = queue.stats()
        note = f"{reached:,.0f} events/s reached, {sum(stats.refused.values())} refused; the goal is compared with PSS"
        rows.append(_row(f"aggregator at {rate:,} events/s: memory", most, 80, note))
    return rows


def _row(what: str, found: dict[str, float], goal: float, note: str = "the goal is compared with PSS") -> Row:
    return Row(
        what=what,
        ours=shown(found),
        goal=f"≤ {goal:g} MB",
        met=found["PSS"] <= goal,
        note=note,
        figures=found,
    )


def import_row(rounds: int) -> Row:
    """A bare interpreter and one that imports the package take turns; CPU time, as files are in the cache."""
    python = str(environment("bench-json"))

    def milliseconds(code: str) -> float:
        pid = os.posix_spawn(python, [python, "-c", code], os.environ)
        _, status, used = os.wait4(pid, 0)
        if status:
            raise RuntimeError(f"{code!r} failed")
        return (used.ru_utime + used.ru_stime) * 1000

    for code in ("pass", "import vwo_fast"):
        milliseconds(code)
    pairs = [(milliseconds("pass"), milliseconds("import vwo_fast")) for _ in range(rounds)]
    added = spread([full - bare for bare, full in pairs])
    return Row(
        what="import vwo_fast, over a bare interpreter: CPU time",
        ours=f"{added.median:.1f} ms ({added.low:.1f} to {added.high:.1f})",
        theirs=f"{spread([bare for bare, _ in pairs]).median:.1f} ms bare",
        goal="≤ 30 ms",
        met=added.median <= 30,
        figures=added.as_dict(),
    )


def main() -> int:
    parser = options(__doc__, rounds=15)
    parser.add_argument("--rate", type=int, default=200_000, help="events per second (default 200000)")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long at that rate (default 6)")
    given = parser.parse_args()
    rows = [import_row(given.rounds)]
    with sink() as server:
        if Path("/proc/self/smaps_rollup").exists():
            rows += [*worker_rows(server.url), *aggregator_rows(server.url, given.rate, given.seconds)]
        else:
            rows.append(skipped("memory", "-", "there is no /proc/self/smaps_rollup"))
        return finish("memory", rows, given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
