"""What tune predicts is what happens: the real engine with the file that it wrote."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, wait_for
from tests.support.proxy import Proxy
from tests.support.servers import ROOT
from vwo_fast import cli
from vwo_fast.config import load_settings
from vwo_fast.tuning import advice as advising
from vwo_fast.tuning import measure
from vwo_fast.tuning.figures import Figures
from vwo_fast.tuning.measure import Effort

RTT = 0.1
EVENT_BYTES = 300
WARM_UP = 1.0
LOOK_SECONDS = 0.02
OUTAGE = 8.0
"""Seconds, at the rate at which events come."""

FOR_LONG = 300.0


@dataclass(frozen=True)
class Demand:
    rate: float
    workers: int
    delay: float
    seconds: float


# By the count, which a batch reaches in half a second; and by the interval, at a rate that never fills one.
BUSY = Demand(rate=2000, workers=4, delay=1.0, seconds=3.5)
QUIET = Demand(rate=40, workers=2, delay=1.4, seconds=4.5)


@pytest.fixture(scope="module")
def measured() -> Figures:
    """This machine, once for all demands."""
    places = load_settings("bench", environ={})
    return measure.measure(Effort.quick(), EVENT_BYTES, places=places, server=None, tell=lambda _text: None)


@pytest.mark.parametrize("demand", [BUSY, QUIET], ids=["count", "interval"])
def test_predicted_delay_and_depth_hold_within_a_factor_of_two(
    demand: Demand,
    measured: Figures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Medians of the delay from enqueue to answer and of the events on their way; the rate of requests."""
    monkeypatch.setattr(measure, "measure", lambda *_args, **_options: measured)
    assert cli.main(tune(demand, tmp_path)) == 0
    advice = json.loads(capsys.readouterr().out)
    with engine() as made:
        made.collector.rules.append(Rule(delay=RTT))
        delays, depths, requests = observed(made, demand, advice["files"]["config"])
    expected = advice["expected"]
    assert len(delays) > demand.rate * demand.seconds / 2
    within_factor_two(statistics.median(delays), expected["delay_median_seconds"])
    within_factor_two(statistics.median(depths), expected["depth_median_events"])
    within_factor_two(requests, expected["requests_per_second"])


def test_an_outage_does_what_was_predicted(
    measured: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many events the spool gets and how many bytes they take there, how many come until it is empty again: within
    a factor of two. Nothing is refused or lost. The events that come are the clock, which a busy machine slows down
    together with all else."""
    monkeypatch.setattr(measure, "measure", lambda *_args, **_options: measured)
    assert cli.main(tune(BUSY, tmp_path)) == 0
    config = Path(json.loads(capsys.readouterr().out)["files"]["config"])
    # An option that is not advised and decides only when the return is noticed; that is taken as it comes.
    config.write_text(config.read_text() + "retry_delay_max = 1\n")
    with engine() as made, Proxy(made.collector.port) as way:
        made.collector.rules.append(Rule(delay=RTT))
        seen = through_an_outage(made, way, BUSY, str(config))
        arrived = Counter(event["u"] for request in made.collector.requests for event in request.batch_events or [])
    demand = advising.Demand(rate=BUSY.rate, event_bytes=EVENT_BYTES, rtt=RTT, workers=BUSY.workers, delay=BUSY.delay)
    advice = advising.advise(demand, measured)
    away, unnoticed = seen.back - seen.gone, seen.noticed - seen.back
    predicted = advice.replay.play(away / BUSY.rate, unnoticed / BUSY.rate)
    assert predicted.even_after is not None
    within_factor_two(seen.spooled_at_most, predicted.spool_peak)
    within_factor_two(seen.spool_bytes_at_most, advice.disk_bytes(predicted.spool_peak))
    within_factor_two(seen.even - seen.noticed, predicted.even_after * BUSY.rate - unnoticed)
    assert len(arrived) == seen.stats.accepted == seen.stats.delivered
    assert arrived.total() - len(arrived) <= seen.stats.unknown_outcome
    assert (seen.stats.refused, seen.stats.dropped, seen.stats.dead) == ({}, {}, 0)
    assert predicted.refused == 0


@dataclass(frozen=True)
class Seen:
    """An outage; moments are told by how many events had been accepted."""

    gone: int
    back: int
    noticed: int
    even: int
    spooled_at_most: int
    spool_bytes_at_most: int
    stats: vwo_fast.Stats


def through_an_outage(made: Engine, way: Proxy, demand: Demand, config: str) -> Seen:
    """Run at the rate of the demand, let the server be away, and go on until nothing is left of it."""
    with vwo_fast.Queue(
        "tuned", config_file=config, run_dir=made.run_dir, spool_dir=made.spool_dir, base_url=way.url
    ) as queue:
        places = [config, str(made.run_dir), str(made.spool_dir), way.url]
        workers = [start_worker(places, demand, number, seconds=FOR_LONG) for number in range(demand.workers)]
        try:
            wait_for(lambda: queue.stats().delivered > demand.rate)
            gone = queue.stats().accepted
            way.refuse()
            most, most_bytes = 0, 0

            def look() -> vwo_fast.Stats:
                nonlocal most, most_bytes
                stats = queue.stats()
                most = max(most, stats.spooled)
                most_bytes = max(most_bytes, bytes_in(made.spool_dir))
                return stats

            wait_for(lambda: look().accepted > gone + OUTAGE * demand.rate)
            way.listen()
            before = look()
            wait_for(lambda: look().delivered > before.delivered)
            noticed = look().accepted
            last = wait_for(lambda: stats if (stats := look()).spooled == 0 else None)
            # What was the last of it is on its way.
            wait_for(lambda: look().delivered >= last.delivered + last.in_flight)
            even = look().accepted
            for worker in workers:
                worker.terminate()
            assert [worker.wait(60) for worker in workers] == [0] * demand.workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        assert queue.flush(30)
        return Seen(gone, before.accepted, noticed, even, most, most_bytes, queue.stats())


def within_factor_two(measured: float, predicted: float) -> None:
    print(f"measured {measured:.4g}, predicted {predicted:.4g}")
    assert predicted / 2 <= measured <= predicted * 2


def tune(demand: Demand, folder: Path) -> list[str]:
    """The command as a user gives it."""
    command = ["tune", "--json", "--output", str(folder / "advice"), "--delay", str(demand.delay)]
    command += ["--rate", str(demand.rate), "--event-bytes", str(EVENT_BYTES), "--rtt-ms", str(RTT * 1000)]
    return [*command, "--workers", str(demand.workers)]


def observed(made: Engine, demand: Demand, config: str) -> tuple[list[float], list[int], float]:
    """Delays of single events, depths at single moments, and requests per second, once it runs steadily."""
    places = [config, str(made.run_dir), str(made.spool_dir), made.collector.url]
    with vwo_fast.Queue(
        "tuned", config_file=config, run_dir=made.run_dir, spool_dir=made.spool_dir, base_url=made.collector.url
    ) as queue:
        seconds = WARM_UP + demand.seconds + 0.5
        workers = [start_worker(places, demand, number, seconds=seconds) for number in range(demand.workers)]
        try:
            wait_for(lambda: queue.stats().accepted)
            time.sleep(WARM_UP)
            begin = time.time()
            depths = []
            while time.time() < begin + demand.seconds:
                stats = queue.stats()
                depths.append(stats.accepted - stats.delivered)
                time.sleep(LOOK_SECONDS)
            end = time.time()
            assert [worker.wait(60) for worker in workers] == [0] * demand.workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        assert queue.flush(30)
        assert queue.stats().refused == {}
        assert queue.stats().dropped == {}
    delays, answered = [], 0
    for request in made.collector.requests:
        came = request.time + RTT
        events = request.batch_events or []
        answered += begin <= came < end
        stamps = [float(event["visitor_ua"].split()[0]) for event in events]
        delays += [came - stamp for stamp in stamps if begin <= stamp < end]
    return delays, depths, answered / (end - begin)


def start_worker(places: list[str], demand: Demand, number: int, *, seconds: float) -> subprocess.Popen[bytes]:
    numbers = [demand.rate / demand.workers, seconds, number * 1_000_000, EVENT_BYTES]
    command = [sys.executable, "-m", "tests.support.tuned_producer", *places, *map(str, numbers)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VWO_FAST_")}
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def bytes_in(folder: Path) -> int:
    """Of all files; SQLite takes some of its own away at any time."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total
