"""Memory of a worker and of the aggregator, and what ``import vwo_fast`` costs. Memory on Linux only.

RSS counts every page that is mapped and present, USS those of this process alone, PSS shares the
others out.  A worker is measured beside its aggregator, as it lives, which runs in the same environment:
what both have mapped, the lane and the libraries, is in RSS and, by half, in PSS.  What a flush loads, the
aggregator does not: there a worker is measured alone, and beside another one that has flushed.  All programs
find their bytecode written, as pip leaves it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.events import impression
from benchmarks.support.rounds import spread
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import sink
from benchmarks.support.smaps import memory
from benchmarks.support.venv import NotMeasuredError, environment, run_in
from benchmarks.support.work import drained, folders, queue_on, route
from vwo_fast._options import OPTIONS

WORKER = Path(__file__).parent / "support" / "memory_worker.py"
OPEN = {"lane_bytes": OPTIONS["lane_bytes"].default, "events_per_request": 1000}


def shown(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} MB" for name, value in found.items())


@contextlib.contextmanager
def bytecode() -> Iterator[dict[str, str]]:
    """An environment in which a program that has run once finds all its modules compiled."""
    with tempfile.TemporaryDirectory(prefix="vfb-") as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        yield {**kept, "PYTHONPYCACHEPREFIX": folder}


def worker_rows(url: str) -> list[Row]:
    what = "worker: memory on top of the SDK, 2000 impressions"
    found: dict[str, dict[str, dict[str, float]]] = {}
    try:
        python = str(environment("fullstack"))
        with bytecode() as variables, queue_on(url, python=python, **OPEN) as queue:
            folder = str(queue.folder.parent), str(queue.settings.spool_dir)
            for kind in ("vwo_fast", "two", "official") * 2:
                drained(queue)
                found[kind] = run_in("fullstack", WORKER, [kind, url, *folder], variables)
    except NotMeasuredError as exc:
        return [skipped(what, "the official batching", str(exc))]
    rows = []
    for kind, state, more, note in (
        ("vwo_fast", "at work", "", "the goal is compared with USS; after its events were delivered and a ring"),
        ("vwo_fast", "flushed", " and a flush", "alone on the host with what a flush loads: ZeroMQ and its libraries"),
        ("two", "flushed", " and a flush, one of two workers", "the same beside another one that has flushed"),
    ):
        ours, theirs = found[kind][state], found["official"]["at work"]
        rows.append(
            Row(
                what=f"{what}{more}",
                against="the official batching",
                ours=shown(ours),
                theirs=shown(theirs),
                goal="≤ 3 MB",
                met=ours["USS"] <= 3,
                note=note,
                figures={"vwo_fast": ours, "official": theirs},
            )
        )
    return rows


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


FIRST_EVENT = """
import sys
import vwo_fast
places = dict(run_dir=sys.argv[1], spool_dir=sys.argv[2])
queue = vwo_fast.Queue("bench", events_per_request=100, aggregator="external", **places)
producer = queue.producer(vwo_fast.Route.fullstack(account_id=1, sdk_key="k", sdk_version="1.68.2"))
assert producer.enqueue({"u": "A", "url": "https://dev.visualwebsiteoptimizer.com/server-side/track-user"})
"""


def import_rows(rounds: int) -> list[Row]:
    """A bare interpreter and ones that import and use the package take turns; CPU time, as files are in the cache."""
    python = str(environment("bench-json"))
    programs = {"bare": "pass", "import": "import vwo_fast", "first": FIRST_EVENT}
    took: dict[str, list[float]] = {name: [] for name in programs}
    with bytecode() as variables, folders() as places:

        def milliseconds(code: str) -> float:
            command = [python, "-c", code, *map(str, places.values())]
            pid = os.posix_spawn(python, command, variables)
            _, status, used = os.wait4(pid, 0)
            if status:
                raise RuntimeError(f"{code!r} failed")
            return (used.ru_utime + used.ru_stime) * 1000

        for number in range(rounds + 1):
            for name, code in programs.items():
                spent = milliseconds(code)
                if number:  # the first time it is compiled
                    took[name].append(spent)
    bare = spread(took["bare"])
    rows = []
    for name, what, goal in (
        ("import", "import vwo_fast, over a bare interpreter: CPU time", 30),
        ("first", "import, Queue and first event, over a bare interpreter: CPU time", None),
    ):
        added = spread([full - least for least, full in zip(took["bare"], took[name], strict=True)])
        rows.append(
            Row(
                what=what,
                ours=f"{added.median:.1f} ms ({added.low:.1f} to {added.high:.1f})",
                theirs=f"{bare.median:.1f} ms bare",
                goal=f"≤ {goal} ms" if goal else "",
                met=added.median <= goal if goal else None,
                note="" if goal else "with aggregator=external, so that no other process starts beside it",
                figures=added.as_dict(),
            )
        )
    return rows


def main() -> int:
    parser = options(__doc__, rounds=15)
    parser.add_argument("--rate", type=int, default=200_000, help="events per second (default 200000)")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long at that rate (default 6)")
    given = parser.parse_args()
    rows = import_rows(given.rounds)
    with sink() as server:
        if Path("/proc/self/smaps_rollup").exists():
            rows += [*worker_rows(server.url), *aggregator_rows(server.url, given.rate, given.seconds)]
        else:
            rows.append(skipped("memory", "-", "there is no /proc/self/smaps_rollup"))
        return finish("memory", rows, given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
