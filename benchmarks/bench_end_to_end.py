"""From four processes to a real HTTP server: events per second of CPU time, vwo_fast and the official SDK.

Four processes with the FullStack SDK hand impressions to its dispatcher, the official one or that of
vwo_fast, as fast as they can; the clock stops when the server has answered the last request.  CPU time
is that of the four processes and, for vwo_fast, of the aggregator; the server's is not in it, since it
is the same for both.  All impressions are different.  They are made a hundred at a time, just before they
are handed over, as a server makes each just before the call; what that takes is not counted.

The official SDK starts a thread for each request; more than eight are not allowed to wait here, because
hundreds would make it slower still.  The lanes are large enough for the whole burst.

Both work before they are measured, as in a server that has been up for a while: the official SDK through one
burst, vwo_fast until each lane has been written once from end to end.  (The first lap costs a fault per page,
in the process that writes and in the one that reads.)
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.contenders import official_fullstack
from benchmarks.support.events import impression
from benchmarks.support.peers import Peer, cpu_seconds, serve
from benchmarks.support.rounds import Pair, spread
from benchmarks.support.rows import Row, finish, options, pair_row, skipped
from benchmarks.support.sink import Sink, sink
from benchmarks.support.venv import NotMeasuredError
from benchmarks.support.work import drained, queue_on, route

WORKERS = 4
THREADS_MAX = 8
LANE_BYTES = 1 << 25
MADE_AT_ONCE = 100
RECORD_BYTES = 240
"""At least, of one event in a lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One burst."""

    cpu_seconds: float
    wall_seconds: float
    requests: int
    connections: int


class Worker:
    """What one of the four processes does."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._number = os.getpid() * 1_000_000
        self._making = 0.0
        if given.worker == "official":
            self._dispatcher = official_fullstack(given.url, given.per_request).event_dispatcher
            self._dispatch = self._dispatcher.dispatch
        else:
            import vwo_fast

            self._queue = vwo_fast.Queue(
                "bench",
                base_url=given.url,
                run_dir=given.run_dir,
                spool_dir=given.spool_dir,
                events_per_request=given.per_request,
                lane_bytes=LANE_BYTES,
                idle_exit=1,
            )
            self._dispatch = self._queue.producer(route()).enqueue
        self._is_official = given.worker == "official"

    def answer(self, question: dict[str, Any]) -> float:
        """Hand over as many as the question says. Seconds of CPU, without those that making them took."""
        count = question["count"]
        self._making, begin = 0.0, time.process_time()
        if self._is_official:
            self._hand_over_officially(count)
        else:
            dispatch = self._dispatch
            taken = sum(sum(map(dispatch, made)) for made in self._make(count))
            if taken != count:
                raise RuntimeError(f"{count - taken} events were refused: {self._queue.stats()}")
        return time.process_time() - begin - self._making

    def _make(self, count: int) -> Iterator[list[dict[str, Any]]]:
        made: list[dict[str, Any]] = []
        for first in range(self._number, self._number + count, MADE_AT_ONCE):
            begin = time.thread_time()
            # Freed within the time that is not counted too: a server's own objects are no matter of ours.
            made.clear()
            made += map(impression, range(first, min(first + MADE_AT_ONCE, self._number + count)))
            self._making += time.thread_time() - begin
            yield made
        self._number += count

    def _hand_over_officially(self, count: int) -> None:
        # One thread beside the main one is the SDK's timer.
        for made in self._make(count):
            for event in made:
                self._dispatch(event)
            while threading.active_count() > THREADS_MAX + 2:
                time.sleep(0.001)
        self._dispatcher.flush_queue(manual=True, mode="sync")
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not isinstance(thread, threading.Timer):
                thread.join()


def burst(engine: str, server: Sink, per_request: int, each: int) -> Outcome:
    arguments = ["--worker", engine, "--url", server.url, "--per-request", str(per_request)]
    if engine == "official":
        return _burst(arguments, server, each, None)
    options = {"events_per_request": per_request, "lane_bytes": LANE_BYTES}
    with queue_on(server.url, **options) as queue:
        folder = queue.folder.parent
        places = ["--run-dir", str(folder), "--spool-dir", str(folder.with_name("spool"))]
        return _burst([*arguments, *places], server, each, queue)


def _burst(arguments: list[str], server: Sink, each: int, queue: Any) -> Outcome:
    workers = [Peer("fullstack", __file__, arguments) for _ in range(WORKERS)]
    try:
        for _ in range(1 if queue is None else -(-LANE_BYTES // (each * RECORD_BYTES))):
            _work(workers, each, queue)
        server.traffic()
        pid = queue.stats().aggregator_pid if queue is not None else None
        before = cpu_seconds(pid) if pid else 0.0
        begin = time.perf_counter()
        used = _work(workers, each, queue)
        wall = time.perf_counter() - begin
        used += cpu_seconds(pid) - before if pid else 0.0
        traffic = server.traffic()
    finally:
        for worker in workers:
            worker.close()
    if traffic.refused:
        raise RuntimeError(f"{traffic.refused} requests were refused")
    return Outcome(cpu_seconds=used, wall_seconds=wall, requests=traffic.requests, connections=traffic.connections)


def _work(workers: list[Peer], each: int, queue: Any) -> float:
    """One burst to its end. Seconds of CPU in the workers."""
    for worker in workers:
        worker.send({"count": each})
    used: float = sum(worker.receive() for worker in workers)
    if queue is not None:
        drained(queue)
    return used


def rows_of(server: Sink, per_request: int, rounds: int, each: int) -> list[Row]:
    goal = {5000: 1 / 20, 100: 1 / 5}.get(per_request)
    total = WORKERS * each
    made: dict[str, list[Outcome]] = {"vwo_fast": [], "official": []}
    for number in range(rounds):
        for engine in list(made) if number % 2 == 0 else list(made)[::-1]:
            made[engine].append(burst(engine, server, per_request, each))
    ours, theirs = made["vwo_fast"], made["official"]
    what = f"4 processes to {server.kind}, {per_request} events per request"

    def pair(name: str) -> Pair:
        mine = [getattr(one, name) * 1e9 / total for one in ours]
        other = [getattr(one, name) * 1e9 / total for one in theirs]
        ratios = [left / right for left, right in zip(mine, other, strict=True)]
        return Pair(ours=spread(mine), theirs=spread(other), ratio=spread(ratios))

    cpu, wall = pair("cpu_seconds"), pair("wall_seconds")
    requests = f"{ours[-1].requests} requests on {ours[-1].connections} connections"
    against = f"{theirs[-1].requests} on {theirs[-1].connections}"
    rate = f"{1e6 / cpu.ours.median:.0f} thousand events per second of CPU; {requests}, official {against}"
    return [
        pair_row(
            cpu,
            what=f"{what}: CPU time per event",
            against="official FullStack SDK",
            unit="ns",
            at_most=goal,
            times_faster=True,
            note=rate,
        ),
        pair_row(
            wall,
            what=f"{what}: wall time per event",
            against="official FullStack SDK",
            unit="ns",
            at_most=None,
            times_faster=True,
        ),
    ]


def main() -> int:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--each", type=int, default=50_000, help="events per process and burst (default 50000)")
    parser.add_argument("--worker", choices=("official", "vwo_fast"), help=argparse.SUPPRESS)
    for name in ("--url", "--run-dir", "--spool-dir"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--per-request", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(Worker(given).answer)
    rows: list[Row] = []
    with sink() as server:
        for per_request in (5000, 100):
            try:
                rows += rows_of(server, per_request, given.rounds, given.each)
            except NotMeasuredError as exc:
                rows.append(skipped("4 processes to a server", "official FullStack SDK", str(exc)))
        return finish("end_to_end", rows, given.json, sink=server.kind, events_each=given.each)


if __name__ == "__main__":
    sys.exit(main())
