"""An aggregator that lives and does nothing: it is seen, said, left alone, and goes on when it can."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator

import pytest

import vwo_fast
from tests.support.crashes import end_aggregators
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from vwo_fast import cli, stats
from vwo_fast.owner import logger as owner_logger


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


@pytest.fixture
def stopped(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[vwo_fast.Queue, int]]:
    """A queue whose aggregator was stopped more than a while ago, and its pid."""
    monkeypatch.setattr(stats, "HUNG_SECONDS", 1.5)
    queue = shop.queue(events_per_request=100)
    assert queue.producer(route()).enqueue(impression(0))
    assert queue.flush(20)
    pid = int(wait_for(shop.aggregator_pid))
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: (queue.stats().heartbeat_age or 0) > 2)
        yield queue, pid
    finally:
        os.kill(pid, signal.SIGCONT)


def words(shop: Engine) -> list[str]:
    return ["--queue", "shop", "--run-dir", str(shop.run_dir)]


def test_status_and_doctor_say_so(
    shop: Engine, stopped: tuple[vwo_fast.Queue, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both name the process and the age of its last sign of life; doctor says how to wake it."""
    queue, pid = stopped
    assert cli.main(["status", *words(shop)]) == 0
    shown = capsys.readouterr().out
    assert f"process {pid} holds the queue and has shown no sign of life for" in shown
    assert cli.main(["status", "--json", *words(shop)]) == 0
    assert json.loads(capsys.readouterr().out)["heartbeat_age"] > 2
    assert cli.main(["doctor", "--json", *words(shop), "--spool-dir", str(shop.spool_dir)]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    (found,) = [check for check in checks if check["name"] == "aggregator" and check["level"] == "FAIL"]
    assert f"process {pid}" in found["text"]
    assert "no sign of life for" in found["text"]
    assert f"kill -CONT {pid}" in found["advice"]
    assert queue.stats().aggregator_pid == pid


def test_workers_say_so_once_and_go_on(
    shop: Engine, stopped: tuple[vwo_fast.Queue, int], caplog: pytest.LogCaptureFixture
) -> None:
    """One message a minute with pid and age; events are accepted, nobody kills it or starts another, and when it
    goes on everything arrives once."""
    queue, pid = stopped
    producer = queue.producer(route())
    with caplog.at_level(logging.ERROR, logger=owner_logger.name):
        deadline = time.monotonic() + 3.5
        n = 0
        while time.monotonic() < deadline:
            n += 1
            assert producer.enqueue(impression(n))
            time.sleep(0.01)
    said = [record.getMessage() for record in caplog.records if "no sign of life" in record.getMessage()]
    assert len(said) == 1
    assert f"process {pid}" in said[0]
    assert shop.aggregator_pid() == pid
    os.kill(pid, signal.SIGCONT)
    assert queue.flush(20)
    assert sorted(numbers(shop.collector.events)) == list(range(n + 1))
    assert (queue.stats().heartbeat_age or 0) < 2
    assert shop.aggregator_pid() == pid


def test_one_that_works_is_not_called_hung(shop: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """Asleep, under load, and just started after another that died long ago: no message."""
    queue = shop.queue(events_per_request=10)
    producer = queue.producer(route())
    for n in range(200):
        assert producer.enqueue(impression(n))
    assert queue.flush(20)
    assert (queue.stats().heartbeat_age or 0) < stats.HUNG_SECONDS
    end_aggregators(shop, signal.SIGKILL)
    assert queue.stats().heartbeat_age is None
    assert producer.enqueue(impression(200))
    wait_for(shop.aggregator_pid)
    assert cli.main(["status", *words(shop)]) == 0
    assert "sign of life" not in capsys.readouterr().out
