"""vwo_fast in Celery's prefork pool, whose children are forked after the application was loaded."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.engine import engine, numbers
from tests.support.servers import QUEUE, ROOT, assert_exactly_once, environment_python, queue_environment

TASKS = 120


@pytest.mark.parametrize("recycle", [False, True], ids=["", "max-tasks-per-child"])
def test_tasks_make_their_impressions_once(recycle: bool, tmp_path: Path) -> None:
    """Each task's impression arrives once, also from children that are replaced after a few tasks."""
    python = environment_python("servers")
    with engine() as made:
        environment = queue_environment(made, VWO_FAST_TEST_BROKER=str(tmp_path / "broker"))
        subprocess.run([python, "-m", "tests.support.celery_app", str(TASKS)], cwd=ROOT, env=environment, check=True)
        command = [python, "-m", "celery", "-A", "tests.support.celery_app:app", "worker", "--pool=prefork"]
        command += ["--concurrency=2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        command += ["--max-tasks-per-child=20"] if recycle else []
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            arrived = made.collector.wait(lambda c: set(range(TASKS)) <= set(numbers(c.events)), timeout=60)
            assert arrived, (tmp_path / "log").read_text()
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
        assert_exactly_once(made, set(range(TASKS)))
        assert not made.is_running(QUEUE)
