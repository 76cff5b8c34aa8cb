"""The command line with a real aggregator: run, status, flush and doctor as an operator uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.engine import FAST, Engine, engine, impression, numbers, route, wait_for

ORPHANS = """
import json, os, sys
from tests.support.engine import impression, route
from vwo_fast.queue import Queue
queue = Queue("shop", **json.loads(sys.argv[1]))
producer = queue.producer(route())
assert all(producer.enqueue(impression(number)) for number in range(50))
os._exit(0)
"""


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def environment(shop: Engine, **options: Any) -> dict[str, str]:
    """The environment of a shell in which the queue of ``shop`` is the default."""
    values = {"queue": "shop", **shop.options(**options)}
    return {**os.environ, **{f"VWO_FAST_{name.upper()}": str(value) for name, value in values.items()}}


def command(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vwo_fast", *arguments],
        capture_output=True,
        text=True,
        env=environ,
        timeout=120,
        check=False,
    )


def json_options(shop: Engine, **changes: Any) -> str:
    return json.dumps(
        {name: str(value) if name.endswith("dir") else value for name, value in shop.options(**changes).items()}
    )


def test_an_aggregator_in_the_foreground(shop: Engine) -> None:
    """It stays though nobody uses it; flush, status, doctor and a second run see it; SIGTERM ends it."""
    environ = environment(shop, events_per_request=100, aggregator="external", idle_exit=0)
    with subprocess.Popen([sys.executable, "-m", "vwo_fast", "run"], env=environ, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: (shop.run_dir / "shop" / "control").exists() and shop.is_running())
            queue = shop.queue(events_per_request=100, aggregator="external", idle_exit=0)
            producer = queue.producer(route())
            assert all(producer.enqueue(impression(number)) for number in range(250))
            flushed = command("flush", "--timeout", "60", environ=environ)
            assert (flushed.returncode, flushed.stderr) == (0, "")
            assert sorted(numbers(shop.collector.events)) == list(range(250))
            status = json.loads(command("status", "--json", environ=environ).stdout)
            assert status["aggregator_pid"] == process.pid
            assert (status["accepted"], status["delivered"], status["queued"]) == (250, 250, 0)
            assert status["aggregator"] is not None
            assert "testkey" not in json.dumps(status)
            checked = command("doctor", environ=environ)
            assert f"process {process.pid} answers; 0 events wait" in checked.stdout
            assert "FAIL" not in checked.stdout
            assert command("run", environ=environ).returncode == 0
            other = command("run", "--base-url", "http://127.0.0.1:9", environ=environ)
            assert other.returncode == 1
            assert shop.collector.url in other.stderr
            assert "http://127.0.0.1:9" in other.stderr
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log


def test_flush_sends_what_a_dead_application_left(shop: Engine) -> None:
    """Events of a process that is gone reach the server that its code named, though this shell knows nothing of it."""
    options = json_options(shop, events_per_request=1000, aggregator="external", idle_exit=FAST["idle_exit"])
    subprocess.run([sys.executable, "-c", ORPHANS, options], check=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VWO_FAST_")}
    where = ("--queue", "shop", "--run-dir", str(shop.run_dir))
    flushed = command("flush", "--timeout", "60", *where, environ=environ)
    assert flushed.returncode == 0, flushed.stderr
    assert sorted(numbers(shop.collector.events)) == list(range(50))
    status = json.loads(command("status", "--json", *where, environ=environ).stdout)
    assert (status["accepted"], status["delivered"]) == (50, 50)
    wait_for(lambda: not shop.is_running())


def test_flush_says_no_when_the_server_is_away(shop: Engine) -> None:
    """An outage makes flush exit with 1 and name what waits; nothing is lost by asking."""
    queue = shop.queue(events_per_request=1000, base_url="http://127.0.0.1:9")
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(number)) for number in range(5))
    flushed = command("flush", "--timeout", "1", "--json", environ=environment(shop, base_url="http://127.0.0.1:9"))
    assert flushed.returncode == 1
    assert json.loads(flushed.stdout)["waiting"] == 5
