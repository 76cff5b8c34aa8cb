"""What tune predicts is what happens: the real engine with the file that it wrote."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, wait_for
from tests.support.servers import ROOT
from vwo_fast import cli
from vwo_fast.config import load_settings
from vwo_fast.tuning import measure
from vwo_fast.tuning.figures import Figures
from vwo_fast.tuning.measure import Effort

RTT = 0.1
EVENT_BYTES = 300
WARM_UP = 1.0
LOOK_SECONDS = 0.02


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
        workers = [start_worker(places, demand, number) for number in range(demand.workers)]
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


def start_worker(places: list[str], demand: Demand, number: int) -> subprocess.Popen[bytes]:
    seconds = WARM_UP + demand.seconds + 0.5
    numbers = [demand.rate / demand.workers, seconds, number * 1_000_000, EVENT_BYTES]
    command = [sys.executable, "-m", "tests.support.tuned_producer", *places, *map(str, numbers)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VWO_FAST_")}
    return subprocess.Popen(command, cwd=ROOT, env=environment)
