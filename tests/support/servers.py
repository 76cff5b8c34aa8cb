"""Real servers for the tests of process models: start one, send it requests, stop it, count what arrived."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, numbers, wait_for
from tests.support.venvs import ensure
from vwo_fast.stats import read_stats

__all__ = [
    "EARLY",
    "EARLY_VARIABLE",
    "QUEUE",
    "ROOT",
    "Server",
    "Visitor",
    "assert_exactly_once",
    "environment_python",
    "queue_environment",
    "serve",
]

ROOT = Path(__file__).resolve().parents[2]
QUEUE = "served"
EARLY = range(1_000_000_000, 1_000_000_030)
"""Numbers of impressions that an application makes while it is loaded; requests use smaller ones."""
EARLY_VARIABLE = {"VWO_FAST_TEST_EARLY": f"{EARLY.start} {EARLY.stop}"}


@functools.cache
def _environment(label: str) -> Path | str:
    try:
        return ensure(label)
    except subprocess.CalledProcessError as exc:
        return f"the environment {label!r} could not be made: {exc}"


def environment_python(label: str) -> str:
    """The interpreter of the environment ``label``; skips the test when it cannot be made here."""
    made = _environment(label)
    if isinstance(made, str):
        pytest.skip(made)
    return str(made)


def queue_environment(engine: Engine, **variables: str) -> dict[str, str]:
    """The environment of a process that opens QUEUE on this engine's folders."""
    options = engine.options(events_per_request=20, request_time_interval=1)
    given = {f"VWO_FAST_{name.upper()}": str(value) for name, value in options.items()}
    return {**os.environ, **given, "VWO_FAST_QUEUE": QUEUE, **variables}


class Visitor:
    """Clients of the server at a port, and what they have seen."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.made: set[int] = set()
        self.unanswered: set[int] = set()
        self.workers: dict[int, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def visit(self, count: int, clients: int = 4) -> None:
        """Send ``count`` requests, each with a number of its own."""
        share = [threading.Thread(target=self._visit, args=(count // clients,)) for _ in range(clients)]
        for thread in share:
            thread.start()
        for thread in share:
            thread.join()

    def visit_workers(self, count: int, workers: int = 2) -> None:
        """``count`` requests or more, until so many workers have answered; the first may be up long before."""
        self.visit(count)

        def is_spread() -> bool:
            self.visit(20)
            return len(self.workers) >= workers

        if len(self.workers) < workers:
            wait_for(is_spread)

    def _visit(self, count: int) -> None:
        for _ in range(count):
            with self._lock:
                number = next(self._numbers)
            try:
                answer = self._get(number)
            except (OSError, http.client.HTTPException, ValueError):
                self.unanswered.add(number)
            else:
                self.workers[answer["pid"]] = answer
                self.made.add(number)

    def _get(self, number: int) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", f"/{number}")
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise ValueError(f"status {response.status}: {body!r}")
            answer: dict[str, Any] = json.loads(body)
            return answer

    def wait_until_serving(self) -> None:
        """The port accepts connections."""
        wait_for(self._serves)

    def _serves(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Server(Visitor):
    """A server process in a group of its own, and its clients."""

    def __init__(self, command: list[str], port: int, environment: dict[str, str], log: Path) -> None:
        super().__init__(port)
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def _serves(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
        return super()._serves()

    def kill_a_worker(self) -> int:
        """SIGKILL for one worker that has answered; its pid."""
        pid: int = next(iter(self.workers))
        del self.workers[pid]
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def cleanup(self) -> None:
        """Nothing of the server's group outlives the test."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def serve(command: list[str], port: int, environment: dict[str, str], log: Path) -> Iterator[Server]:
    server = Server(command, port, environment, log)
    try:
        server.wait_until_serving()
        yield server
    except BaseException:
        print(log.read_text(errors="replace"), file=sys.stderr)
        raise
    finally:
        server.cleanup()


def assert_exactly_once(engine: Engine, made: set[int], possible: set[int] | None = None) -> None:
    """Every number made has arrived, nothing twice, and nothing else but what is ``possible``.

    Duplicates may come late, so the counting waits until the aggregator has left.
    """
    engine.collector.wait(lambda c: made <= set(numbers(c.events)), timeout=90)
    missing = made - set(numbers(engine.collector.events))
    assert not missing, f"{len(missing)} of {len(made)} lost, among them {sorted(missing)[:5]}\n{_state(engine)}"
    wait_for(lambda: not engine.is_running(QUEUE), timeout=90)
    arrived = Counter(numbers(engine.collector.events))
    assert {number: times for number, times in arrived.items() if times > 1} == {}
    assert set(arrived) - made <= (possible or set())


def _state(engine: Engine) -> str:
    """What the queue says of itself and what its aggregator logged, for a test that failed."""
    folder = engine.run_dir / QUEUE
    logs = [f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in sorted(engine.root.rglob("*.log"))]
    return "\n".join([str(read_stats(folder)), *(sorted(path.name for path in folder.iterdir())), *logs])
