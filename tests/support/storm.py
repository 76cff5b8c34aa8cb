"""A storm of kills on gunicorn under load: workers and the aggregator die at random moments, for as long as asked."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.engine import Engine, wait_for
from tests.support.ports import free_port
from tests.support.servers import QUEUE, Server, environment_python, queue_environment, serve
from vwo_fast.locks import AGGREGATOR_LOCK, lock_file
from vwo_fast.stats import Stats, read_stats

__all__ = ["Sample", "Storm"]

CLIENTS = 4
WORKERS = 4
VISITS_PER_ROUND = 40
SAMPLE_SECONDS = 0.5
SHARED_SLACK = 4 << 20
FDS_SLACK = 16
RSS_SLACK = 16 << 20
"""What may be in use at one moment and not at another, without anything growing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the queue and its processes hold at one moment."""

    at: float
    shared_bytes: int
    lanes: int
    aggregator_fds: int
    aggregator_rss: int
    master_fds: int
    master_rss: int

    def __str__(self) -> str:
        return (
            f"{self.at:8.1f} s  shared {self.shared_bytes >> 10:6d} KiB in {self.lanes:2d} lanes  "
            f"aggregator {self.aggregator_fds:3d} fds {self.aggregator_rss >> 20:3d} MiB  "
            f"master {self.master_fds:3d} fds {self.master_rss >> 20:3d} MiB"
        )


@dataclass(slots=True)
class Storm:
    """Runs the storm and keeps account. ``kill_seconds``: the mean time between two kills of one kind."""

    engine: Engine
    log: Path
    rng: random.Random
    kill_seconds: float = 0.7
    killed_workers: int = 0
    killed_aggregators: int = 0
    samples: list[Sample] = field(default_factory=list)
    made: set[int] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)
    arrivals: int = 0
    seen: set[int] = field(default_factory=set)

    def run(self, seconds: float) -> Stats:
        """Serve, visit and kill for this long, then stop gunicorn and let the queue settle. The last statistics."""
        over = threading.Event()
        with self._gunicorn() as server:
            threads = [threading.Thread(target=self._visit, args=(server, over))]
            threads += [threading.Thread(target=self._kill, args=(server, over, kind)) for kind in ("worker", "queue")]
            for thread in threads:
                thread.start()
            try:
                self._watch(server, seconds)
            finally:
                over.set()
                for thread in threads:
                    thread.join()
            server.stop()
        self.made, self.unanswered = server.made, server.unanswered
        return self._settle()

    def check(self, stats: Stats) -> str:
        """Nothing that was answered is lost, the ledger balances, and nothing grows. One line for people."""
        lost = self.made - self.seen
        duplicates = self.arrivals - len(self.seen)
        assert not lost, f"{len(lost)} of {len(self.made)} lost; {stats}"
        assert self.seen - self.made <= self.unanswered
        assert duplicates <= stats.unknown_outcome, f"{duplicates} twice; {stats}"
        assert stats.accepted == stats.delivered == len(self.seen), stats
        assert (stats.queued, stats.in_flight, stats.spooled, stats.dead, stats.lanes) == (0, 0, 0, 0, 0), stats
        self._check_flat()
        return (
            f"{len(self.made)} answered, {self.killed_workers} workers and {self.killed_aggregators} aggregators"
            f" killed: lost 0, twice {duplicates} of {stats.unknown_outcome} of unknown outcome"
        )

    def _check_flat(self) -> None:
        third = max(1, len(self.samples) // 3)
        before, after = self.samples[:third], self.samples[-third:]
        for name, slack in (
            ("shared_bytes", SHARED_SLACK),
            ("aggregator_fds", FDS_SLACK),
            ("aggregator_rss", RSS_SLACK),
            ("master_fds", FDS_SLACK),
            ("master_rss", RSS_SLACK),
        ):
            early = max(getattr(sample, name) for sample in before)
            late = statistics.median(getattr(sample, name) for sample in after)
            assert late <= early + slack, f"{name} grew from at most {early} to {late}"

    @contextlib.contextmanager
    def _gunicorn(self) -> Iterator[Server]:
        port = free_port()
        command = [environment_python("servers"), "-m", "gunicorn", f"--workers={WORKERS}", f"--bind=127.0.0.1:{port}"]
        command += ["--log-level=critical", "--preload", "--max-requests=300", "tests.support.wsgi_app:app"]
        with serve(command, port, queue_environment(self.engine), self.log) as server:
            yield server

    def _visit(self, server: Server, over: threading.Event) -> None:
        while not over.is_set():
            server.visit(VISITS_PER_ROUND, CLIENTS)

    def _kill(self, server: Server, over: threading.Event, kind: str) -> None:
        while not over.wait(self.rng.expovariate(1 / self.kill_seconds)):
            pid = self._worker(server) if kind == "worker" else self.engine.aggregator_pid(QUEUE)
            if pid is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                if kind == "worker":
                    self.killed_workers += 1
                else:
                    self.killed_aggregators += 1

    def _worker(self, server: Server) -> int | None:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text("ascii").split()
        return int(self.rng.choice(children)) if children else None

    def _watch(self, server: Server, seconds: float) -> None:
        start = time.monotonic()
        while (at := time.monotonic() - start) < seconds:
            time.sleep(SAMPLE_SECONDS)
            self._take()
            self.samples.append(self._sample(server, at))

    def _sample(self, server: Server, at: float) -> Sample:
        folder = self.engine.run_dir / QUEUE
        sizes, lanes = 0, 0
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                sizes += path.stat().st_blocks * 512
                lanes += path.name.startswith("lane-")
        aggregator = self.engine.aggregator_pid(QUEUE) or 0
        return Sample(
            at=at,
            shared_bytes=sizes,
            lanes=lanes,
            aggregator_fds=_fds(aggregator),
            aggregator_rss=_rss(aggregator),
            master_fds=_fds(server.process.pid),
            master_rss=_rss(server.process.pid),
        )

    def _take(self) -> None:
        for event in self.engine.collector.take():
            self.arrivals += 1
            self.seen.add(int(event["u"], 16))

    def _settle(self) -> Stats:
        """Until everything that was answered has arrived and the aggregator has left."""
        folder = self.engine.run_dir / QUEUE

        def is_settled() -> bool:
            self._take()
            if lock_file(folder / AGGREGATOR_LOCK).is_held(0):
                return False
            with contextlib.closing(self.engine.queue(QUEUE, events_per_request=20, request_time_interval=1)) as queue:
                return queue.flush(10) and not queue.stats().queued

        wait_for(is_settled, timeout=60)
        wait_for(lambda: not lock_file(folder / AGGREGATOR_LOCK).is_held(0), timeout=60)
        self._take()
        return read_stats(folder)


def _fds(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def _rss(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
