"""A Flask view that decides and tracks, under gunicorn and wrk, with three other things below the SDK.

``decide`` is the SDK's development mode: it decides and sends nothing.  Each way has a gunicorn of its own with
two workers.  All that a server needs, workers and aggregator, has one core; wrk and the server of VWO's side have
the others.  So whatever is done beside the view is missing in the throughput, and nobody's turn depends on how
the scheduler spreads six processes over two cores.  (``--free`` leaves that to the scheduler.)

Many short visits in the order A B B A: each pair of neighbours gives one ratio, and what disturbs the machine for
longer than a visit disturbs both.  No pair is left out.  What is told is the median ratio with its confidence
interval, and a goal is met, or missed, only if all of the interval says so.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.facts import ROOT
from benchmarks.support.peers import cpu_seconds
from benchmarks.support.rounds import median_interval, spread
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import free_port, sink
from benchmarks.support.venv import NotMeasuredError, environment
from benchmarks.support.work import folders, wait_until
from vwo_fast.stats import read_stats

NAMES = {"decide": "deciding only", "batching": "the official batching", "realtime": "the official real-time mode"}
PAIRS_OF_OTHERS = 6
"""Pairs with the official modes, which are far away and have no goal."""
PAUSE_SECONDS = 0.1
"""After a visit: an aggregator is awake for half of it, and its CPU time until then belongs to the visit."""
WARM_SECONDS = 2
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
NOTE = "{} pairs; in brackets: {:.0%} interval of their median; the outer tenths lie below {:.2f} and above {:.2f}"
WHAT = "gunicorn Flask view that decides and tracks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One run of wrk."""

    rate: float
    """Requests per second."""
    p99: float
    """Milliseconds."""
    cpu: float
    """Microseconds of all the server's processes per request."""


MEASURES = (
    ("throughput", "rate", "requests/s", "≥ 0.97"),
    ("p99", "p99", "ms", "≤ 1.10"),
    ("CPU time per request, workers and aggregator", "cpu", "µs", ""),
)

Pairs = list[tuple[Visit, Visit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A gunicorn that serves the view in one way."""

    url: str
    pid: int
    run_dir: Path | None
    """Where its queue is, if it has one."""

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have taken so far."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        found = [self.pid, *map(int, children)]
        for control in self.run_dir.glob("*/control") if self.run_dir is not None else ():
            aggregator = read_stats(control.parent).aggregator_pid
            if aggregator is None:
                raise RuntimeError("the aggregator is gone")
            found.append(aggregator)
        return sum(map(cpu_seconds, found))


@contextlib.contextmanager
def server(mode: str, sink_url: str, places: dict[str, Path], cores: set[int]) -> Iterator[Server]:
    port = free_port()
    given = {**places, "base_url": sink_url, "idle_exit": 60}
    variables = {f"VWO_FAST_{name.upper()}": str(value) for name, value in given.items()}
    variables |= {"BENCH_MODE": mode, "BENCH_SINK": urlsplit(sink_url).netloc}
    arguments = ["-m", "gunicorn", "--preload", "-w", "2", "-k", "gthread", "--threads", "4", "--keep-alive", "5"]
    arguments += ["--log-level", "error", "-b", f"127.0.0.1:{port}", "benchmarks.support.wsgi_app:app"]
    process = subprocess.Popen(
        [str(environment("fullstack")), *arguments], cwd=ROOT, env={**os.environ, **variables}, start_new_session=True
    )
    keep_to(cores, process.pid)

    def serves() -> bool:
        if process.poll() is not None:
            raise NotMeasuredError(f"gunicorn ended with {process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(serves, "gunicorn's start")
        run_dir = places["run_dir"] if mode == "vwo_fast" else None
        yield Server(url=f"http://127.0.0.1:{port}/", pid=process.pid, run_dir=run_dir)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            # The official SDK's timers outlive its workers' orders to end.
            os.killpg(process.pid, 9)
            process.wait()


def keep_to(cores: set[int], pid: int = 0) -> None:
    """Let a process, and those that it will start, use only these cores; none: any."""
    if cores:
        os.sched_setaffinity(pid, cores)


def divided(*, free: bool) -> tuple[set[int], set[int]]:
    """Cores for the server and for the others; none of either where that cannot be said."""
    if free or not hasattr(os, "sched_setaffinity") or len(cores := os.sched_getaffinity(0)) < 2:
        return set(), set()
    last = max(cores)
    return {last}, cores - {last}


def visit(wrk: str, to: Server, seconds: int) -> Visit:
    command = [wrk, "-t1", "-c8", f"-d{seconds}s", "--latency", to.url]
    before = to.cpu()
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    time.sleep(PAUSE_SECONDS)
    used = to.cpu() - before
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"the view failed:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    count = re.search(r"(\d+) requests in", text)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if rate is None or count is None or slow is None:
        raise RuntimeError(f"wrk says something unknown:\n{text}")
    return Visit(rate=float(rate[1]), p99=float(slow[1]) * UNITS[slow[2]], cpu=used * 1e6 / int(count[1]))


def in_turn(wrk: str, ours: Server, theirs: Server, pairs: int, seconds: int) -> Pairs:
    """Visits A B B A: what each pair of neighbours found."""
    found = []
    for number in range(pairs):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        first, second = (visit(wrk, one, seconds) for one in order)
        found.append((first, second) if number % 2 == 0 else (second, first))
    return found


def measure(wrk: str, pairs: int, seconds: int, *, free: bool) -> tuple[dict[str, Pairs], str]:
    for_server, for_others = divided(free=free)
    keep_to(for_others)
    found = {}
    with sink() as target, folders() as places, server("vwo_fast", target.url, places, for_server) as ours:
        visit_first(wrk, ours)
        for mode in NAMES:
            with server(mode, target.url, places, for_server) as theirs:
                visit_first(wrk, theirs)
                count = pairs if mode == "decide" else min(pairs, PAIRS_OF_OTHERS)
                found[mode] = in_turn(wrk, ours, theirs, count, seconds)
        return found, target.kind


def visit_first(wrk: str, one: Server) -> None:
    """Before it is measured. The queue of a server, if it has one, has an aggregator after that."""
    subprocess.run([wrk, "-t1", "-c8", f"-d{WARM_SECONDS}s", one.url], check=True, capture_output=True)
    time.sleep(PAUSE_SECONDS)


def row_of(mode: str, pairs: Pairs, name: str, field: str, unit: str, goal: str) -> Row:
    ours: Sequence[float] = [getattr(mine, field) for mine, _ in pairs]
    theirs: Sequence[float] = [getattr(other, field) for _, other in pairs]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    interval, middle = median_interval(ratios), spread(ratios)
    met = None
    if mode != "decide":
        goal = ""
    elif goal:
        limit = float(goal.split()[1])
        met = interval.is_at_least(limit) if goal.startswith("≥") else interval.is_at_most(limit)
    return Row(
        what=f"{WHAT}: {name}",
        against=NAMES[mode],
        ours=f"{spread(ours).median:.4g} {unit}",
        theirs=f"{spread(theirs).median:.4g} {unit}",
        ratio=f"{middle.median:.3f} ({interval.low:.3f} to {interval.high:.3f})",
        goal=goal,
        met=met,
        note=NOTE.format(len(pairs), interval.confidence, middle.low, middle.high),
        figures={
            "ours": spread(ours).as_dict(),
            "theirs": spread(theirs).as_dict(),
            "ratio": middle.as_dict(),
            "interval": [interval.low, interval.high] if math.isfinite(interval.high) else None,
            "confidence": interval.confidence,
            "ratios": [round(ratio, 4) for ratio in ratios],
        },
    )


def main() -> int:
    parser = options(__doc__, rounds=60)
    parser.add_argument("--seconds", type=int, default=1, help="of each visit (default 1)")
    parser.add_argument("--free", action="store_true", help="let the scheduler spread everything over all cores")
    given = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        return finish("wsgi", [skipped(WHAT, "deciding only", "wrk is not installed")], given.json)
    if not sys.platform.startswith("linux"):
        return finish("wsgi", [skipped(WHAT, "deciding only", "it reads /proc, which only Linux has")], given.json)
    try:
        found, kind = measure(wrk, given.rounds, given.seconds, free=given.free)
    except NotMeasuredError as exc:
        return finish("wsgi", [skipped(WHAT, "deciding only", str(exc))], given.json)
    rows = [row_of(mode, pairs, *one) for mode, pairs in found.items() for one in MEASURES]
    return finish("wsgi", rows, given.json, sink=kind, pinned=not given.free)


if __name__ == "__main__":
    sys.exit(main())
