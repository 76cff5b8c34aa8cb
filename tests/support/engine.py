"""Folders and impressions for tests of the whole engine, and an end for every aggregator they start."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import vwo_fast
from tests.support.collector import Collector
from vwo_fast.locks import AGGREGATOR_LOCK, lock_file
from vwo_fast.stats import read_stats

ACCOUNT = 888888
SDK_KEY = "testkey0000000000000000000000001"

FAST = {"retry_delay_min": 0.05, "retry_delay_max": 0.2, "connect_timeout": 10, "read_timeout": 30, "idle_exit": 1}
"""Retries come soon; a collector that a busy machine holds up is waited for, and not taken for a silent one."""


class Engine:
    """A collector and folders of its own for the queues of one test."""

    def __init__(self, collector: Collector, root: Path) -> None:
        self.collector = collector
        self.root = root
        self.run_dir = root / "run"
        self.spool_dir = root / "spool"
        self.queues: list[vwo_fast.Queue] = []

    def options(self, **changes: Any) -> dict[str, Any]:
        """Keyword options of a Queue on this engine's folders and collector."""
        given = {"run_dir": self.run_dir, "spool_dir": self.spool_dir, "base_url": self.collector.url, **FAST}
        return {**given, **changes}

    def queue(self, name: str = "shop", **changes: Any) -> vwo_fast.Queue:
        made = vwo_fast.Queue(name, **self.options(**changes))
        self.queues.append(made)
        return made

    def aggregator_pid(self, name: str = "shop") -> int | None:
        """Pid of the aggregator that lives, as the kernel's lock and the control file tell."""
        return read_stats(self.run_dir / name).aggregator_pid

    def is_running(self, name: str = "shop") -> bool:
        return lock_file(self.run_dir / name / AGGREGATOR_LOCK).is_held(0)

    def kill_aggregator(self, name: str = "shop", number: int = signal.SIGKILL) -> int:
        """Send a signal to the aggregator and wait until it is gone. Gives back its pid.

        The lock tells nothing: another, launched because this one was slow to start, may have it by then.
        """
        pid = int(wait_for(lambda: self.aggregator_pid(name)))
        os.kill(pid, number)
        wait_for(lambda: not is_alive(pid))
        return pid

    def close(self) -> None:
        for queue in self.queues:
            queue.close()
        self.end_aggregators()
        shutil.rmtree(self.root, ignore_errors=True)

    def end_aggregators(self) -> None:
        """None may go on: it would send its events to whatever server gets the collector's port next.

        Several may have been launched, and one that was not there yet finds the lock free when another is killed.
        """
        quiet = 0
        while quiet < 2:
            quiet = 0 if self._end_those_at_work() or self._end_those_launched() else quiet + 1
            time.sleep(0.005)

    def _end_those_at_work(self) -> bool:
        found = False
        for folder in list(self.run_dir.iterdir()) if self.run_dir.exists() else []:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, TimeoutError):
                # One that is leaving may hold the lock and have no pid any more: nothing to wait for.
                is_running = (folder / "control").exists() and self.is_running(folder.name)
                if is_running and (pid := self.aggregator_pid(folder.name)) is not None:
                    os.kill(pid, signal.SIGKILL)
                    wait_for(functools.partial(_is_gone, pid))
                    found = True
        return found

    def _end_those_launched(self) -> bool:
        """Those whose command line names this engine's own folder."""
        found = False
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.run_dir).encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                    os.kill(int(entry.parent.name), signal.SIGKILL)
                    found = True
        return found


@contextlib.contextmanager
def engine(**collector_options: Any) -> Iterator[Engine]:
    """An engine in a folder whose path is short enough for a socket."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="vft-", dir=shared))
    with Collector(**collector_options) as collector:
        made = Engine(collector, root)
        try:
            yield made
        finally:
            made.close()


def route(account_id: int = ACCOUNT, **changes: Any) -> vwo_fast.Route:
    """A FullStack route."""
    return vwo_fast.Route.fullstack(account_id=account_id, sdk_key=SDK_KEY, sdk_version="1.68.2", **changes)


def impression(number: int, **changes: Any) -> dict[str, Any]:
    """What FullStack's dispatcher receives for one activation; ``u`` is unique for ``number``."""
    made = {
        "random": 0.25,
        "sdk": "vwo-python-sdk",
        "sdk-v": "1.68.2",
        "ap": "server",
        "sId": 1700000000,
        "u": f"{number:032X}",
        "account_id": ACCOUNT,
        "env": SDK_KEY,
        "visitor_ua": "Mozilla/5.0",
        "visitor_ip": "203.0.113.7",
        "experiment_id": 231,
        "combination": 2,
        "ed": '{"p": "server"}',
        "url": "https://dev.visualwebsiteoptimizer.com/server-side/track-user",
    }
    return {**made, **changes}


def numbers(events: list[dict[str, Any]]) -> list[int]:
    """The numbers that impressions were made with, in order of arrival."""
    return [int(event["u"], 16) for event in events]


def _is_gone(pid: int) -> bool:
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether the process is there. A zombie all of whose threads have ended is not: it has given its locks back."""
    try:
        os.kill(pid, 0)
        if sys.platform.startswith("linux"):
            is_zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
            return not is_zombie or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (ProcessLookupError, FileNotFoundError):
        return False
    return True


def wait_for(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    """The first true value of ``condition``. Raises TimeoutError when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} stayed {value!r} for {timeout} s")
        time.sleep(0.01)
    return value
