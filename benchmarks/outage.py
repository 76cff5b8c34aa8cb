"""A scripted outage in one run at a steady rate: healthy, slow, a storm of 429, a storm of 500, down, back.

A producer enqueues at a fixed rate all the time, while the server goes through its phases behind
a proxy.  Every 100 ms the statistics are read; at the end every event is looked for in what the
server accepted.  Writes the samples as JSON and a picture as SVG.  Exits with 1 if anything was
lost, or arrived twice without its outcome having been unknown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vwo_fast
from benchmarks.support.facts import facts, versions
from benchmarks.support.timeline import Band, Curve, Panel, draw
from examples.collector import Collector, Rule
from tests.support.engine import impression, numbers, route
from tests.support.proxy import Proxy

SAMPLE_SECONDS = 0.1
DRAIN_SECONDS_MAX = 600.0

SHORT = {"healthy": 5.0, "slow": 6.0, "429": 6.0, "500": 6.0, "down": 8.0, "back": 8.0}
"""Seconds of each phase; ``--scale`` multiplies all but the first and the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The statistics at one moment."""

    time: float
    phase: str
    offered: int
    queued: int
    in_flight: int
    spooled: int
    delivered: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of the run."""

    offered: int
    refused: int
    delivered: int
    lost: int
    duplicated: int
    unknown_outcome: int
    dropped: int
    dead: int
    requests: int
    retries: int
    spooled_at_most: int
    enqueue_longest_ms: float
    seconds_to_recover: float
    """From the server's return until nothing was left but what is being made."""

    @property
    def is_good(self) -> bool:
        return self.lost == 0 and self.refused == 0 and self.duplicated <= self.unknown_outcome


class Source(threading.Thread):
    """Enqueues at a steady rate until it is stopped."""

    def __init__(self, producer: vwo_fast.Producer, rate: float) -> None:
        super().__init__(name="source", daemon=True)
        self.offered = 0
        self.refused = 0
        self.longest = 0.0
        self._producer = producer
        self._rate = rate
        self._ended = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self._ended.is_set():
            due = int((time.monotonic() - started) * self._rate)
            while self.offered < due:
                before = time.perf_counter()
                self.refused += not self._producer.enqueue(impression(self.offered))
                self.longest = max(self.longest, time.perf_counter() - before)
                self.offered += 1
            self._ended.wait(0.005)

    def stop(self) -> None:
        self._ended.set()
        self.join()


class Run:
    """The server, its phases, and the samples."""

    def __init__(self, queue: vwo_fast.Queue, collector: Collector, proxy: Proxy, rate: float) -> None:
        self.samples: list[Sample] = []
        self.bands: list[Band] = []
        self.seconds_to_recover = 0.0
        self.source = Source(queue.producer(route()), rate)
        self._queue = queue
        self._collector = collector
        self._proxy = proxy
        self._rate = rate
        self._started = time.monotonic()

    def play(self, seconds: dict[str, float], say: Callable[[str], object]) -> None:
        self.source.start()
        for phase, length in seconds.items():
            say(f"{phase}: {length:g} s")
            self._enter(phase)
            began = self._now()
            self._sample_for(phase, length)
            if phase == "back":
                self._sample_until(phase, lambda: not self._is_behind(self.samples[-1]))
                behind = [sample.time for sample in self.samples if sample.phase == phase and self._is_behind(sample)]
                self.seconds_to_recover = max(behind, default=began) - began
                self.source.stop()
                self._sample_until(phase, lambda: self.samples[-1].delivered >= self.source.offered)
            self.bands.append(Band(phase, began, self._now()))

    def _is_behind(self, sample: Sample) -> bool:
        """Whether more waits than what two intervals bring."""
        return sample.offered - sample.delivered > 2 * self._rate

    def _enter(self, phase: str) -> None:
        rules = {
            "slow": [Rule(delay=1.0)],
            "429": [Rule(status=429, headers={"Retry-After": "1"})],
            "500": [Rule(status=500)],
        }
        self._collector.rules[:] = rules.get(phase, [])
        if phase == "down":
            self._proxy.refuse()
        else:
            self._proxy.listen()

    def _sample_for(self, phase: str, seconds: float) -> None:
        until = self._now() + seconds
        self._sample_until(phase, lambda: self._now() >= until)

    def _sample_until(self, phase: str, is_over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while True:
            self._sample(phase)
            if is_over() or time.monotonic() > deadline:
                return
            time.sleep(SAMPLE_SECONDS)

    def _sample(self, phase: str) -> None:
        offered = self.source.offered
        stats = self._queue.stats()
        self.samples.append(
            Sample(
                time=round(self._now(), 3),
                phase=phase,
                offered=offered,
                queued=stats.queued,
                in_flight=stats.in_flight,
                spooled=stats.spooled,
                delivered=stats.delivered,
                requests=stats.requests,
            )
        )

    def _now(self) -> float:
        return time.monotonic() - self._started

    def outcome(self) -> Outcome:
        stats = self._queue.stats()
        arrived = Counter(numbers(self._collector.events))
        accepted = self.source.offered - self.source.refused
        return Outcome(
            offered=self.source.offered,
            refused=self.source.refused,
            delivered=stats.delivered,
            lost=accepted - len(arrived),
            duplicated=sum(arrived.values()) - len(arrived),
            unknown_outcome=stats.unknown_outcome,
            dropped=sum(stats.dropped.values()),
            dead=stats.dead,
            requests=stats.requests,
            retries=stats.retries,
            spooled_at_most=max(sample.spooled for sample in self.samples),
            enqueue_longest_ms=round(self.source.longest * 1000, 3),
            seconds_to_recover=round(self.seconds_to_recover, 1),
        )


def play(rate: float, seconds: dict[str, float], say: Callable[[str], object] = print) -> tuple[Run, Outcome]:
    """The whole script, with a queue of its own."""
    shared = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="vfo-", dir=shared if shared.is_dir() else None))
    try:
        with Collector() as collector, Proxy(collector.port) as proxy:
            with vwo_fast.Queue(
                "outage",
                events_per_request=100,
                request_time_interval=1,
                retry_delay_max=5,
                idle_exit=0,
                base_url=proxy.url,
                run_dir=root / "run",
                spool_dir=root / "spool",
            ) as queue:
                run = Run(queue, collector, proxy, rate)
                run.play(seconds, say)
                found = run.outcome()
            folder = root / "run" / "outage"
            deadline = time.monotonic() + 30
            while (folder / "ctl").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        return run, found
    finally:
        shutil.rmtree(root, ignore_errors=True)


def picture(run: Run, rate: float) -> str:
    """Queue, in flight, spool and delivered over time."""

    def curve(name: str) -> Curve:
        return Curve(name, [getattr(sample, name) for sample in run.samples])

    panels = [
        Panel("queued in lanes and open batches", [curve("queued")]),
        Panel("in flight", [curve("in_flight")]),
        Panel("in the spool", [curve("spooled")]),
        Panel("in all", [curve("offered"), curve("delivered")]),
    ]
    title = f"A scripted outage at {rate:g} events a second: events, over time"
    return draw(title, [sample.time for sample in run.samples], run.bands, panels)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500, help="events a second (default: %(default)g)")
    parser.add_argument("--scale", type=float, default=1, help="stretch the bad phases (default: %(default)g)")
    parser.add_argument("--json", type=Path, help="file for samples and outcome")
    parser.add_argument("--svg", type=Path, help="file for the picture")
    options = parser.parse_args(arguments)
    steady = ("healthy", "back")
    seconds = {name: length if name in steady else length * options.scale for name, length in SHORT.items()}
    run, found = play(options.rate, seconds, lambda text: print(text, flush=True))
    for name, value in asdict(found).items():
        print(f"{name:20} {value}")
    if options.svg:
        options.svg.parent.mkdir(parents=True, exist_ok=True)
        options.svg.write_text(picture(run, options.rate), encoding="utf-8")
    if options.json:
        report: dict[str, Any] = {"facts": facts(), "versions": versions("requests", "urllib3"), "rate": options.rate}
        report |= {"outcome": asdict(found), "samples": [asdict(sample) for sample in run.samples]}
        options.json.write_text(json.dumps(report), encoding="utf-8")
    return 0 if found.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
