"""What a host pays at a steady rate: CPU of four processes, and of the aggregator beside them.

Four processes with the FullStack SDK hand over impressions at a fixed rate, all together as many a second as the
row says, to the official dispatcher or to that of vwo_fast; both send 100 per request to the same server.
Between two impressions they sleep.  What sleeping and making impressions take is measured in a third round that
hands nothing over, and is not in the figures.

At a low rate an aggregator cannot win: each of its wake-ups costs what hundreds of events cost.  These rows say
how much that is.  Linux only.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.contenders import official_fullstack
from benchmarks.support.events import impression
from benchmarks.support.peers import Peer, cpu_seconds, serve
from benchmarks.support.rounds import spread
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import Sink, sink
from benchmarks.support.venv import NotMeasuredError
from benchmarks.support.work import queue_on, route

WORKERS = 4
PER_REQUEST = 100
RATES = (10, 100, 1_000, 10_000)
WARM_SECONDS = 0.5
ENGINES = ("nothing", "official", "vwo_fast")


class Worker:
    """What one of the four processes does."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._number = os.getpid() * 1_000_000
        if given.worker == "official":
            self._dispatch = official_fullstack(given.url, PER_REQUEST).event_dispatcher.dispatch
        elif given.worker == "vwo_fast":
            import vwo_fast

            places = {"run_dir": given.run_dir, "spool_dir": given.spool_dir}
            self._queue = vwo_fast.Queue(
                "bench", base_url=given.url, events_per_request=PER_REQUEST, idle_exit=1, **places
            )
            self._dispatch = self._queue.producer(route()).enqueue
        else:
            self._dispatch = bool

    def answer(self, question: dict[str, Any]) -> float:
        """Keep the rate for so many seconds. CPU seconds of this process, after a start that is not counted."""
        self._keep(question["rate"], WARM_SECONDS)
        begin = time.process_time()
        self._keep(question["rate"], question["seconds"])
        return time.process_time() - begin

    def _keep(self, rate: float, seconds: float) -> None:
        begin, made = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < seconds:
            for _ in range(made, due := int(passed * rate)):
                self._number += 1
                self._dispatch(impression(self._number))
            made = due
            time.sleep(max(0.001, (made + 1) / rate - passed))


def shares(engine: str, server: Sink, rates: Sequence[int], seconds: float) -> list[float]:
    """CPU seconds per second at each rate, of all processes of ours."""
    arguments = ["--worker", engine, "--url", server.url]
    if engine != "vwo_fast":
        return _shares(arguments, rates, seconds, None)
    with queue_on(server.url, events_per_request=PER_REQUEST) as queue:
        folder = queue.folder.parent
        places = ["--run-dir", str(folder), "--spool-dir", str(folder.with_name("spool"))]
        return _shares([*arguments, *places], rates, seconds, queue.stats().aggregator_pid)


def _shares(arguments: list[str], rates: Sequence[int], seconds: float, pid: int | None) -> list[float]:
    workers = [Peer("fullstack", __file__, arguments) for _ in range(WORKERS)]
    try:
        _keep(workers, rates[-1], WARM_SECONDS, None)
        return [_keep(workers, rate, seconds, pid) for rate in rates]
    finally:
        for worker in workers:
            worker.close()


def _keep(workers: list[Peer], rate: int, seconds: float, pid: int | None) -> float:
    for worker in workers:
        worker.send({"rate": rate / WORKERS, "seconds": seconds})
    time.sleep(WARM_SECONDS)
    before = cpu_seconds(pid) if pid else 0.0
    time.sleep(seconds)
    used = cpu_seconds(pid) - before if pid else 0.0
    share: float = (used + sum(worker.receive() for worker in workers)) / seconds
    return share


def measure(server: Sink, rates: Sequence[int], rounds: int, seconds: float) -> list[Row]:
    found: dict[str, list[list[float]]] = {engine: [] for engine in ENGINES}
    for number in range(rounds):
        for engine in ENGINES if number % 2 == 0 else ENGINES[::-1]:
            found[engine].append(shares(engine, server, rates, seconds))
    rows = []
    for index, rate in enumerate(rates):
        base = spread([shares[index] for shares in found["nothing"]]).median
        ours, theirs = (
            spread([shares[index] - base for shares in found[engine]]) for engine in ("vwo_fast", "official")
        )
        between = f"{ours.low:.2%} to {ours.high:.2%}, {theirs.low:.2%} to {theirs.high:.2%}"
        rows.append(
            Row(
                what=f"4 processes and the aggregator, {rate:,} events a second: CPU",
                against="4 processes with the official FullStack SDK",
                ours=f"{ours.median:.2%} of a core",
                theirs=f"{theirs.median:.2%} of a core",
                note=f"{between}; {base:.2%} more without either",
                figures={"rate": rate, "ours": ours.as_dict(), "theirs": theirs.as_dict(), "nothing": base},
            )
        )
    return rows


def main() -> int:
    parser = options(__doc__, rounds=2)
    parser.add_argument("--seconds", type=float, default=2.5, help="at each rate and round (default 2.5)")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="events a second, of all processes")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    for name in ("--url", "--run-dir", "--spool-dir"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(Worker(given).answer)
    if not Path("/proc/self/task").exists():
        return finish(
            "steady", [skipped("a steady rate", "-", "the clock of another process is not known here")], given.json
        )
    with sink() as server:
        try:
            rows = measure(server, given.rates, given.rounds, given.seconds)
        except NotMeasuredError as exc:
            rows = [skipped("a steady rate", "official FullStack SDK", str(exc))]
        return finish("steady", rows, given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
