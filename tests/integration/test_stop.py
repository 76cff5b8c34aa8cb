"""Ends: of gunicorn, of the aggregator, of an interpreter, of a version. What is accepted is delivered or kept."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support import interpreters
from tests.support.collector import Rule
from tests.support.crashes import Account, end_aggregators, settle
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.ports import free_port
from tests.support.servers import QUEUE, environment_python, queue_environment, serve
from vwo_fast.client import Link
from vwo_fast.stats import read_stats

FORK = multiprocessing.get_context("fork")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


@pytest.mark.parametrize("is_silent", [False, True], ids=["healthy", "silent"])
def test_gunicorn_ends_within_its_grace_period(shop: Engine, tmp_path: Path, is_silent: bool) -> None:
    """SIGTERM: the master ends by itself, also while VWO is silent; nothing that was answered is lost."""
    if is_silent:
        shop.collector.rules.append(Rule(delay=120))
    port = free_port()
    command = [environment_python("servers"), "-m", "gunicorn", "--workers=2", f"--bind=127.0.0.1:{port}"]
    command += ["--preload", "--log-level=warning", "--graceful-timeout=10", "tests.support.wsgi_app:app"]
    with serve(command, port, queue_environment(shop, VWO_FAST_SHUTDOWN_TIMEOUT="2"), tmp_path / "log") as server:
        server.visit(100)
        if is_silent:
            wait_for(lambda: read_stats(shop.run_dir / QUEUE).in_flight)
        server.stop()
        made = set(server.made)
        assert server.process.returncode == 0
        assert "SIGKILL" not in server.log.read_text()
        assert len(made) == 100
    if is_silent:
        end_aggregators(shop, signal.SIGTERM, QUEUE)
        stats = read_stats(shop.run_dir / QUEUE)
        assert stats.spooled + stats.unknown_outcome >= 100
        shop.collector.rules.clear()
        queue = shop.queue(QUEUE, events_per_request=20, request_time_interval=1, shutdown_timeout=2)
        wait_for(lambda: queue.flush(5) and not queue.stats().spooled)
    assert shop.collector.wait(lambda c: made <= set(numbers(c.events)))


def test_an_aggregator_that_is_told_to_stop_saves_what_a_silent_server_holds(shop: Engine) -> None:
    """SIGTERM while VWO is silent: after shutdown_timeout all is in the spool, and counted as of unknown outcome."""
    shop.collector.rules.append(Rule(delay=120))
    queue = shop.queue(events_per_request=10, shutdown_timeout=1, read_timeout=100)
    account = Account(shop)
    producer = queue.producer(route())
    for n in range(95):
        account.offer(lambda n: producer.enqueue(impression(n)), n)
    wait_for(lambda: queue.stats().in_flight == 40)
    end_aggregators(shop, signal.SIGTERM)
    stopped = queue.stats()
    assert (stopped.spooled, stopped.queued, stopped.in_flight) == (95, 0, 0)
    assert stopped.unknown_outcome == 40
    shop.collector.rules.clear()
    account.check(settle(queue))


def test_an_aggregator_that_is_told_to_stop_delivers_first(shop: Engine) -> None:
    """SIGTERM with a slow server: what can be delivered in time is, and the spool stays empty."""
    shop.collector.rules.append(Rule(delay=0.05))
    queue = shop.queue(events_per_request=10, request_time_interval=600, shutdown_timeout=30)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(95))
    wait_for(shop.is_running)
    end_aggregators(shop, signal.SIGTERM)
    stats = queue.stats()
    assert (stats.delivered, stats.spooled, stats.queued, stats.unknown_outcome) == (95, 0, 0, 0)
    assert sorted(numbers(shop.collector.events)) == list(range(95))


_WAYS = {
    "falls off its end": "",
    "sys.exit": "sys.exit(3)",
    "an exception": "raise RuntimeError('on purpose')",
    "os._exit": "os._exit(0)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "a thread that still enqueues": "threading.Thread(target=more, daemon=True).start(); started.wait()",
}

_SCRIPT = """
import itertools, json, os, signal, sys, threading
import vwo_fast
from tests.support.engine import impression, route
options = json.loads(sys.argv[1])
record = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
queue = vwo_fast.Queue("shop", flush_callback=(lambda err, events: None) if {callback} else None, **options)
producer = queue.producer(route())
started = threading.Event()
numbers = itertools.count(int(sys.argv[3]))
def one():
    n = next(numbers)
    if producer.enqueue(impression(n)):
        os.write(record, b"%d " % n)
def more():
    while True:
        one()
        started.set()
for _ in range(30):
    one()
{way}
"""


@functools.cache
def _can_run(python: str) -> bool:
    code = "import msgpack, requests, vwo_fast._lane, vwo_fast._batch, zmq"
    return subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def _pythons() -> list[str]:
    """This interpreter, and the others of the machine for which the extensions are built, with what they need."""
    others = [str(path) for path in sorted((ROOT / ".venvs").glob("dev-*/bin/python"))]
    version = f"{sys.version_info[0]}{sys.version_info[1]}"
    return [sys.executable, *(path for path in others if f"dev-{version}-" not in path)]


@pytest.mark.parametrize("minor", list(interpreters.MINORS))
def test_an_interpreter_that_ends_with_events_queued(shop: Engine, minor: int) -> None:
    """However it ends, with a callback or without, while VWO is silent: it ends, and what it had accepted arrives."""
    python = next((path for path in _pythons() if _is_minor(path, minor) and _can_run(path)), None)
    if python is None:
        pytest.skip(f"optional: no python3.{minor} here with the extensions and what they need")
    shop.collector.rules.append(Rule(delay=120))
    given = shop.options(events_per_request=10, read_timeout=100, shutdown_timeout=0.1)
    options = json.dumps({name: str(value) if isinstance(value, Path) else value for name, value in given.items()})
    record = shop.root / "accepted"
    keeper = shop.queue(events_per_request=10, read_timeout=100, shutdown_timeout=0.1)
    for index, way in enumerate(_WAYS.values()):
        script = _SCRIPT.format(way=way, callback=index % 2)
        arguments = [python, "-c", script, options, str(record), str(index * 1_000_000)]
        ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert b"SystemError" not in ended.stderr
        assert ended.returncode in (0, 1, 3, -signal.SIGTERM), ended.stderr
    end_aggregators(shop, signal.SIGTERM)
    shop.collector.rules.clear()
    accepted = {int(line) for line in record.read_bytes().split()}
    assert len(accepted) >= 30 * len(_WAYS)
    stats = settle(keeper)
    arrived = numbers(shop.collector.events)
    assert accepted <= set(arrived)
    # The kernel may take a process between an acceptance and its own note of it.
    assert len(set(arrived) - accepted) <= 2
    assert len(arrived) - len(set(arrived)) <= stats.unknown_outcome


def _is_minor(python: str, minor: int) -> bool:
    code = f"import sys; sys.exit(sys.version_info[:2] != (3, {minor}))"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def test_an_upgrade_while_workers_of_the_old_version_live(shop: Engine, tmp_path: Path) -> None:
    """A worker of the old version goes on with an aggregator of the new one, and nothing is lost or sent twice."""
    new = tmp_path / "new"
    shutil.copytree(ROOT / "vwo_fast", new / "vwo_fast", ignore=shutil.ignore_patterns("__pycache__"))
    init = new / "vwo_fast/__init__.py"
    init.write_text(init.read_text("utf-8").replace('__version__ = "', '__version__ = "9.'), "utf-8")
    queue = shop.queue(events_per_request=7)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(20))
    assert queue.flush(60)
    aggregator = wait_for(lambda: _take_over(shop, new))
    answer = Link(queue.folder, "shop").ask({"op": "ping"}, 20)
    assert answer is not None
    assert answer["version"].startswith("9.")
    assert all(producer.enqueue(impression(n)) for n in range(20, 50))
    assert queue.flush(60)
    queue.close()
    aggregator.wait(60)
    assert sorted(numbers(shop.collector.events)) == list(range(50))


def _take_over(shop: Engine, source: Path) -> subprocess.Popen[bytes] | None:
    """Have the aggregator run from ``source``; None when one that was launched before was quicker."""
    end_aggregators(shop, signal.SIGTERM)
    made = subprocess.Popen(
        [sys.executable, "-m", "vwo_fast", "run", "--detached", "--queue", "shop", "--run-dir", str(shop.run_dir)],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    wait_for(lambda: made.poll() is not None or shop.aggregator_pid() == made.pid)
    return made if made.poll() is None else None


def test_an_aggregator_of_another_layout_refuses_and_says_so(shop: Engine) -> None:
    """The control file names a layout that this version does not know: it ends with an error that names both."""
    queue = shop.queue(events_per_request=7)
    control = queue.folder / "control"
    data = bytearray(control.read_bytes())
    data[8] = 99
    control.write_bytes(data)
    ended = subprocess.run(
        [sys.executable, "-m", "vwo_fast", "run", "--queue", "shop", "--run-dir", str(shop.run_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "99" in ended.stderr
    assert "layout 1" in ended.stderr


def _enqueue_until_stopped(options: dict[str, Any], record: str) -> None:
    producer = vwo_fast.Queue("shop", **options).producer(route())
    with open(record, "ab", buffering=0) as accepted:
        for n in range(100_000):
            if producer.enqueue(impression(n)):
                accepted.write(b"%d " % n)
            time.sleep(0.0005)


def test_a_worker_that_is_stopped_is_not_taken_for_dead(shop: Engine) -> None:
    """SIGSTOP amid enqueues: its lane stays, also for an aggregator that starts meanwhile; SIGCONT goes on in it."""
    options = shop.options(events_per_request=10, request_time_interval=1)
    keeper = shop.queue(events_per_request=10, request_time_interval=1)
    record = shop.root / "accepted"
    worker = FORK.Process(target=_enqueue_until_stopped, args=(options, str(record)))
    worker.start()
    assert worker.pid is not None
    for _ in range(3):
        size = record.stat().st_size if record.exists() else 0
        wait_for(lambda size=size: record.exists() and record.stat().st_size > size)  # type: ignore[misc]
        os.kill(worker.pid, signal.SIGSTOP)
        (lane,) = keeper.folder.glob("lane-*")
        assert keeper.flush(60)
        shop.kill_aggregator()
        assert keeper.flush(60)
        wait_for(lambda: not keeper.stats().queued)
        assert list(keeper.folder.glob("lane-*")) == [lane]
        os.kill(worker.pid, signal.SIGCONT)
    size = record.stat().st_size
    wait_for(lambda: record.stat().st_size > size)
    worker.kill()
    worker.join(20)
    assert keeper.flush(60)
    wait_for(lambda: not list(keeper.folder.glob("lane-*")))
    accepted = {int(number) for number in record.read_bytes().split()}
    arrived = numbers(shop.collector.events)
    assert accepted <= set(arrived)
    assert len(arrived) - len(set(arrived)) <= keeper.stats().unknown_outcome
    assert keeper.stats().accepted == keeper.stats().delivered == len(set(arrived))
