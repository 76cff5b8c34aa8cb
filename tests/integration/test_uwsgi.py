"""vwo_fast under uWSGI, which forks without telling Python and has no threads unless asked."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, engine, wait_for
from tests.support.ports import free_port
from tests.support.servers import (
    EARLY,
    EARLY_VARIABLE,
    QUEUE,
    Server,
    assert_exactly_once,
    environment_python,
    queue_environment,
    serve,
)

VISITS = 200
WORKERS = 3


@contextlib.contextmanager
def uwsgi(made: Engine, log: Path, *options: str, **variables: str) -> Iterator[Server]:
    port = free_port()
    binaries = Path(environment_python("uwsgi")).parent
    command = [
        str(binaries / "uwsgi"),
        f"--home={binaries.parent}",
        f"--http-socket=127.0.0.1:{port}",
        "--need-app",
    ]
    command += [
        "--disable-logging",
        "--master",
        "--die-on-term",
        f"--processes={WORKERS}",
        "--module=tests.support.wsgi_app:app",
        *options,
    ]
    with serve(command, port, queue_environment(made, **variables), log) as server:
        yield server


def stop(server: Server) -> None:
    """SIGTERM, once every worker serves.

    A uWSGI worker that is told to stop between its fork and its first wait for a request forgets it, with any
    application, and stands until uWSGI's own mercy of a minute has passed.
    """
    server.visit_workers(0, WORKERS)
    server.stop()


@pytest.mark.parametrize("lazy", [False, True], ids=["before-fork", "lazy-apps"])
@pytest.mark.parametrize("threads", [False, True], ids=["no-threads", "enable-threads"])
def test_all_arrives_once(threads: bool, lazy: bool, tmp_path: Path) -> None:
    """With and without --enable-threads, loaded before the fork or after: what was answered arrives once."""
    options = [*(["--enable-threads"] if threads else []), *(["--lazy-apps"] if lazy else [])]
    with engine() as made, uwsgi(made, tmp_path / "log", *options) as server:
        server.visit(VISITS)
        stop(server)
        assert server.unanswered == set()
        assert_exactly_once(made, server.made)


@pytest.mark.parametrize("threads", [False, True], ids=["no-threads", "enable-threads"])
def test_events_before_the_fork_are_sent_once(threads: bool, tmp_path: Path) -> None:
    """Impressions that the master made while loading the application arrive once, beside those of the workers."""
    options = ["--enable-threads"] if threads else []
    with engine() as made, uwsgi(made, tmp_path / "log", *options, **EARLY_VARIABLE) as server:
        server.visit(VISITS)
        stop(server)
        assert_exactly_once(made, server.made | set(EARLY))


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """kill -9 between requests: all that was answered arrives once."""
    with engine() as made, uwsgi(made, tmp_path / "log") as server:
        for _ in range(3):
            server.visit(VISITS // 4)
            server.kill_a_worker()
        server.visit(VISITS // 4)
        stop(server)
        assert_exactly_once(made, server.made, possible=server.unanswered)


@pytest.mark.skipif(sys.platform != "linux", reason="optional: needs /proc to look into another process")
def test_the_aggregator_holds_none_of_the_servers_files(tmp_path: Path) -> None:
    """uWSGI's sockets are inherited by whatever it starts; an aggregator that kept them would keep the port taken."""
    with engine() as made, uwsgi(made, tmp_path / "log") as server:
        server.visit(40)
        pid = wait_for(lambda: made.aggregator_pid(QUEUE))
        listening = _socket_inodes(server.process.pid)
        assert listening
        assert not listening & _socket_inodes(pid)
        stop(server)
        assert_exactly_once(made, server.made)


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(entry))
    return {name for name in found if name.startswith("socket:")}
