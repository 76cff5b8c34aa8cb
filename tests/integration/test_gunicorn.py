"""vwo_fast under gunicorn: every worker class, preloaded or not, killed, recycled and stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, engine
from tests.support.ports import free_port
from tests.support.servers import (
    EARLY,
    EARLY_VARIABLE,
    Server,
    assert_exactly_once,
    environment_python,
    queue_environment,
    serve,
)

VISITS = 200
CLASSES = {"sync": [], "gthread": ["--threads=4"], "gevent": []}


@contextlib.contextmanager
def gunicorn(made: Engine, log: Path, *options: str, **variables: str) -> Iterator[Server]:
    port = free_port()
    command = [environment_python("servers"), "-m", "gunicorn", "--workers=3", f"--bind=127.0.0.1:{port}"]
    command += ["--log-level=warning", *options, "tests.support.wsgi_app:app"]
    with serve(command, port, queue_environment(made, **variables), log) as server:
        yield server


@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no-preload"])
@pytest.mark.parametrize("worker_class", CLASSES)
def test_all_arrives_once(worker_class: str, preload: bool, tmp_path: Path) -> None:
    """Each worker class, with the queue opened before or after the fork: what was answered arrives once."""
    options = [f"--worker-class={worker_class}", *CLASSES[worker_class], *(["--preload"] if preload else [])]
    with engine() as made, gunicorn(made, tmp_path / "log", *options) as server:
        server.visit_workers(VISITS)
        server.stop()
        assert server.unanswered == set()
        assert_exactly_once(made, server.made)


@pytest.mark.parametrize("worker_class", CLASSES)
def test_events_before_the_fork_are_sent_once(worker_class: str, tmp_path: Path) -> None:
    """The master's own impressions, made while it preloads, are its own: no child sends them again."""
    options = ["--preload", f"--worker-class={worker_class}", *CLASSES[worker_class]]
    with engine() as made, gunicorn(made, tmp_path / "log", *options, **EARLY_VARIABLE) as server:
        server.visit_workers(VISITS)
        server.stop()
        assert server.unanswered == set()
        assert_exactly_once(made, server.made | set(EARLY))


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """kill -9 between requests, several times: all that was answered arrives once."""
    with engine() as made, gunicorn(made, tmp_path / "log", "--preload") as server:
        for _ in range(4):
            server.visit(VISITS // 4)
            server.kill_a_worker()
        server.visit(VISITS // 4)
        server.stop()
        assert len(server.made) >= VISITS
        assert_exactly_once(made, server.made, possible=server.unanswered)


def test_recycled_workers_lose_nothing(tmp_path: Path) -> None:
    """--max-requests: workers come and go after a few requests each, and everything arrives once."""
    options = ("--preload", "--max-requests=15", "--max-requests-jitter=5")
    with engine() as made, gunicorn(made, tmp_path / "log", *options) as server:
        server.visit(VISITS)
        server.stop()
        assert len(server.workers) > 3
        assert len(server.made) >= VISITS - len(server.unanswered)
        assert_exactly_once(made, server.made, possible=server.unanswered)


def test_a_whole_server_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """kill -9 of the master and all workers at once: what was answered arrives once."""
    with engine() as made, gunicorn(made, tmp_path / "log", "--preload") as server:
        server.visit(VISITS)
        server.cleanup()
        assert_exactly_once(made, server.made)


@pytest.mark.parametrize("worker_class", ["sync", "gevent"])
def test_a_worker_stays_light(worker_class: str, tmp_path: Path) -> None:
    """Because of vwo_fast a worker imports neither requests nor sqlite3, and starts no thread."""
    with engine() as made, gunicorn(made, tmp_path / "log", f"--worker-class={worker_class}") as server:
        server.visit(40)
        server.stop()
        assert {tuple(worker["modules"]) for worker in server.workers.values()} == {()}
        assert {tuple(worker["threads"]) for worker in server.workers.values()} <= {("_MainThread",), ("_DummyThread",)}
        assert_exactly_once(made, server.made)
