"""What ``make demo`` runs: the same shop and the same accident, with vwo_fast and with the unmodified SDK.

A local collector stands in for VWO.  gunicorn serves the shop of demo_app.py with 4 preloaded workers;
visitors come, one worker is killed with -9 in the middle, at the end gunicorn gets SIGTERM.  Each visitor
is unique, so that every impression can be told from every other one at the collector.  An impression counts
as made when its request was answered: the shop answers after the SDK call has returned.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples.collector import Collector  # noqa: E402

__all__ = ["Outcome", "Visits", "main", "run_round"]

ACCOUNT_ID = json.loads(Path(__file__).with_name("settings.json").read_text())["accountId"]
WORKERS = 4
CLIENTS = 8
QUEUE_WAIT_SECONDS = 60.0
"""How long vwo_fast may take to send the rest after gunicorn has ended."""
STOP_WAIT_SECONDS = 40.0
"""gunicorn itself kills its workers after 30 s; an SDK that still hangs then would hang for ever."""

Impression = tuple[str, int]
"""Visitor (``u`` on the wire) and event type (1: shown, 2: goal)."""


@dataclass(slots=True)
class Visits:
    """What the visitors saw."""

    answered: int = 0
    unanswered: int = 0
    made: set[Impression] = field(default_factory=set)
    last_worker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One column of the table."""

    answered: int
    made: int
    arrived: int
    duplicated: int
    requests: int
    sent_bytes: int
    stop_seconds: float
    stop_forced: bool

    @property
    def lost(self) -> int:
        return self.made - self.arrived


def visitor_uuid(user: str) -> str:
    """The visitor id that the official SDK derives from a user id."""
    vwo = uuid.uuid5(uuid.NAMESPACE_URL, "https://vwo.com")
    return uuid.uuid5(uuid.uuid5(vwo, str(ACCOUNT_ID)), user).hex.upper()


def show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Crowd:
    """Visitors in a few threads, until as many requests as wanted have been answered."""

    def __init__(self, port: int, wanted: int, engine: str) -> None:
        self.visits = Visits()
        self._port = port
        self._wanted = wanted
        self._engine = engine
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._killed = False
        self._next_report = 0

    def run(self) -> Visits:
        threads = [threading.Thread(target=self._visit_until_done, daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.visits

    def _visit_until_done(self) -> None:
        while True:
            with self._lock:
                # Requests that are under way in other threads may still fail, so the last ones may be a few too many.
                if self.visits.answered >= self._wanted:
                    return
                number = next(self._numbers)
            if number > 3 * self._wanted:
                raise SystemExit(f"{self._engine}: most requests are not answered")
            self._visit(number)

    def _visit(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", f"/visit/{number}", headers={"User-Agent": "demo"})
            response = connection.getresponse()
            answer = json.loads(response.read()) if response.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            answer = None
        finally:
            connection.close()
        with self._lock:
            if answer is None:
                self.visits.unanswered += 1
                return
            self.visits.answered += 1
            self.visits.last_worker = answer["worker"]
            visitor = visitor_uuid(f"visitor-{number}")
            self.visits.made.update((visitor, kind) for kind in range(1, answer["impressions"] + 1))
            self._progress()

    def _progress(self) -> None:
        answered = self.visits.answered
        if answered >= self._next_report:
            show(f"  {self._engine}: {answered:,} of {self._wanted:,} requests answered")
            self._next_report += max(1, self._wanted // 8)
        if not self._killed and answered >= self._wanted // 2:
            self._killed = True
            show(f"  {self._engine}: kill -9 worker {self.visits.last_worker}")
            os.kill(self.visits.last_worker, signal.SIGKILL)


@contextmanager
def gunicorn(environment: dict[str, str], log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The shop, in a process group of its own, and its port; whatever is left of it is killed at the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--preload", f"--workers={WORKERS}", "--log-level=warning"]
        with log.open("ab") as output:
            server = subprocess.Popen(
                [*command, f"--bind=fd://{listener.fileno()}", "examples.demo_app:app"],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
    try:
        yield server, port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def stop(server: subprocess.Popen[bytes]) -> tuple[float, bool]:
    """SIGTERM; how long the end took, and whether it had to be forced."""
    started = time.monotonic()
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(STOP_WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        return time.monotonic() - started, True
    return time.monotonic() - started, False


def aggregator_pid(environment: dict[str, str]) -> int | None:
    """The pid of the running aggregator, as ``vwo-fast status`` tells it."""
    status = subprocess.run(
        [sys.executable, "-m", "vwo_fast", "status", "--json"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if status.returncode != 0:
        return None
    pid: int | None = json.loads(status.stdout)["aggregator_pid"]
    return pid


def wait_for_aggregator(environment: dict[str, str]) -> None:
    """The aggregator leaves when it has sent everything and nobody uses the queue; one that stays is ended."""
    deadline = time.monotonic() + QUEUE_WAIT_SECONDS
    while (pid := aggregator_pid(environment)) is not None:
        if time.monotonic() > deadline:
            show(f"  vwo_fast: the aggregator {pid} has not left, it is ended now")
            os.kill(pid, signal.SIGTERM)
            return
        time.sleep(0.25)


def run_round(engine: str, wanted: int, folder: Path) -> Outcome:
    """Serve, kill, stop and count, with one engine."""
    with Collector() as collector:
        environment = {"DEMO_ENGINE": engine, "DEMO_COLLECTOR": collector.host}
        if engine == "vwo_fast":
            environment |= {
                "VWO_FAST_QUEUE": f"fullstack-{ACCOUNT_ID}",
                "VWO_FAST_BASE_URL": collector.url,
                "VWO_FAST_RUN_DIR": str(folder / "run"),
                "VWO_FAST_SPOOL_DIR": str(folder / "spool"),
                "VWO_FAST_IDLE_EXIT": "1",
            }
        show(f"{engine}: gunicorn with {WORKERS} preloaded workers, {CLIENTS} visitors at a time")
        with gunicorn(environment, folder / f"gunicorn-{engine}.log") as (server, port):
            visits = Crowd(port, wanted, engine).run()
            show(f"  {engine}: SIGTERM to gunicorn (this waits up to {STOP_WAIT_SECONDS:.0f} s)")
            stop_seconds, forced = stop(server)
        show(f"  {engine}: stopped after {stop_seconds:.1f} s" + (", by force" if forced else ""))
        if engine == "vwo_fast":
            wait_for_aggregator(environment)
        return count(collector, visits, stop_seconds, forced)


def count(collector: Collector, visits: Visits, stop_seconds: float, forced: bool) -> Outcome:
    """Compare what was made with what arrived.

    A request without an answer may have made its impressions or not: their arrival is neither
    lost nor counted, but arriving twice is a duplicate for these too.
    """
    arrived = Counter((event["u"], event["eT"]) for event in collector.events)
    return Outcome(
        answered=visits.answered,
        made=len(visits.made),
        arrived=sum(1 for impression in visits.made if impression in arrived),
        duplicated=sum(times - 1 for times in arrived.values()),
        requests=len(collector.requests),
        sent_bytes=sum(len(request.body) for request in collector.requests),
        stop_seconds=stop_seconds,
        stop_forced=forced,
    )


def table(outcomes: dict[str, Outcome]) -> str:
    """One column per engine."""
    rows = {
        "requests answered": [f"{outcome.answered:,}" for outcome in outcomes.values()],
        "impressions made": [f"{outcome.made:,}" for outcome in outcomes.values()],
        "arrived": [f"{outcome.arrived:,}" for outcome in outcomes.values()],
        "lost": [f"{outcome.lost:,}" for outcome in outcomes.values()],
        "duplicated": [f"{outcome.duplicated:,}" for outcome in outcomes.values()],
        "HTTP requests": [f"{outcome.requests:,}" for outcome in outcomes.values()],
        "bytes of body": [f"{outcome.sent_bytes:,}" for outcome in outcomes.values()],
        "seconds to stop": [
            f"{outcome.stop_seconds:.1f}" + (" (killed)" if outcome.stop_forced else "")
            for outcome in outcomes.values()
        ],
    }
    lines = [f"{'':<20}" + "".join(f"{name:>24}" for name in outcomes)]
    lines += [f"{name:<20}" + "".join(f"{cell:>24}" for cell in cells) for name, cells in rows.items()]
    return "\n".join(lines)


def shared_memory_folder() -> str | None:
    """Where the queue would live by default, if there is such a place here."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="vwo_fast beside the unmodified SDK: the same shop, the same accident."
    )
    parser.add_argument("--requests", type=int, default=2000, help="requests to be answered (default: %(default)s)")
    parser.add_argument("--only", choices=["vwo_fast", "official"], help="run one of the two")
    options = parser.parse_args(arguments)
    official = f"official SDK {importlib.metadata.version('vwo-python-sdk')}"
    rounds = {"vwo_fast": "vwo_fast", official: "official"}
    folder = Path(tempfile.mkdtemp(prefix="vwo-demo-", dir=shared_memory_folder()))
    try:
        outcomes = {
            name: run_round(engine, options.requests, folder)
            for name, engine in rounds.items()
            if options.only in (None, engine)
        }
        failed = [
            name
            for name, outcome in outcomes.items()
            if rounds[name] == "vwo_fast" and (outcome.lost or outcome.duplicated or outcome.stop_forced)
        ]
        if failed:
            for log in sorted(folder.rglob("*.log")):
                show(f"--- {log.relative_to(folder)}\n{log.read_text(errors='replace')[-4000:]}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} CPUs, one worker of {WORKERS} killed with -9\n")
    print(table(outcomes))
    if failed:
        print("\nvwo_fast lost or duplicated impressions, or did not stop.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
