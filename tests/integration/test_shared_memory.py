"""Shared memory of 64 MB, of 4 MB, full, read-only and missing: a clear error or a smaller queue, never a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collector
from tests.support.engine import numbers
from tests.support.namespace import run_with

# Runs a queue on the folder that is mounted, from several processes, and says what became of it.
# Not with multiprocessing, which needs shared memory itself.
PROGRAM = """
import json, os, sys, time
import vwo_fast
from tests.support.engine import impression, route

url, run_dir, spool_dir, processes, events = sys.argv[1:4] + [int(n) for n in sys.argv[4:6]]
options = dict(base_url=url, run_dir=run_dir or None, spool_dir=spool_dir, events_per_request=50, idle_exit=0)
os.makedirs(spool_dir, mode=0o700)

def work(number):
    queue = vwo_fast.Queue("shop", **options)
    producer = queue.producer(route())
    accepted = [n for n in range(number * events, (number + 1) * events) if producer.enqueue(impression(n))]
    with open(f"{spool_dir}/accepted-{number}", "w") as file:
        json.dump(accepted, file)
    time.sleep(1)
    queue.close()

def main():
    try:
        queue = vwo_fast.Queue("shop", **options)
    except vwo_fast.VwoFastError as exc:
        print(json.dumps({"error": f"{type(exc).__name__}: {exc}"}))
        return
    pids = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            work(number)
            os._exit(0)
        pids.append(pid)
    exits = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    accepted = [n for number in range(processes) for n in json.load(open(f"{spool_dir}/accepted-{number}"))]
    flushed = queue.flush(60)
    queue.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and queue.stats().aggregator_pid is not None: time.sleep(0.05)
    print(json.dumps({"accepted": accepted, "flushed": flushed, "folder": str(queue.folder), "exits": exits}))

main()
"""


def run(
    script: str, collector: Collector, run_dir: str, spool_dir: Path, processes: int, events: int
) -> dict[str, Any]:
    return run_with(script, PROGRAM, collector.url, run_dir, str(spool_dir), str(processes), str(events))


def mounted(place: Path, size: str) -> str:
    return f"mkdir -p {place}\nmount -t tmpfs -o size={size},mode=700 none {place}\n"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a socket."""
    return tmp_path_factory.mktemp("m")


def test_64_megabytes_are_enough_for_many_processes(place: Path) -> None:
    """Docker's default: twelve processes get lanes, and everything arrives."""
    with Collector() as collector:
        found = run(mounted(place / "r", "64m"), collector, str(place / "r"), place / "s", 12, 200)
        assert found["accepted"] == list(range(2400))
        assert found["flushed"]
        assert sorted(numbers(collector.events)) == found["accepted"]
    assert found["exits"] == [0] * 12


def test_4_megabytes_give_smaller_lanes(place: Path) -> None:
    """Eight processes share what two lanes of the usual size would take; what is accepted arrives, each once."""
    with Collector() as collector:
        found = run(mounted(place / "r", "4m"), collector, str(place / "r"), place / "s", 8, 200)
        assert found["flushed"]
        assert sorted(numbers(collector.events)) == found["accepted"]
    assert len(found["accepted"]) >= 4 * 200
    assert found["exits"] == [0] * 8


def test_full_memory_refuses_and_says_so(place: Path) -> None:
    """A queue opened before memory fills up: no lane is to be had, enqueue returns False, nothing crashes."""
    script = mounted(place / "r", "1m")
    with Collector() as collector:
        # The control file still fits; a lane of the smallest size does not.
        script += f"dd if=/dev/zero of={place}/r/filler bs=1k count=980 2>/dev/null\n"
        found = run(script, collector, str(place / "r"), place / "s", 2, 20)
    assert found["accepted"] == []
    assert found["exits"] == [0, 0]


def test_memory_without_any_room_is_a_clear_error(place: Path) -> None:
    """Not even the control file fits: the error names the folder and the cause."""
    script = mounted(place / "r", "64k") + f"dd if=/dev/zero of={place}/r/filler bs=1k 2>/dev/null || true\n"
    with Collector() as collector:
        found = run(script, collector, str(place / "r"), place / "s", 1, 1)
    assert "QueueError" in found["error"]
    assert str(place / "r") in found["error"]
    assert "No space left" in found["error"]


def test_read_only_memory_is_a_clear_error(place: Path) -> None:
    """A run_dir that cannot be written to: the error names it."""
    script = mounted(place / "r", "1m") + f"mount -o remount,ro {place}/r\n"
    with Collector() as collector:
        found = run(script, collector, str(place / "r"), place / "s", 1, 1)
    assert "QueueError" in found["error"]
    assert "Read-only" in found["error"]


MISSING = """
mkdir {place}/dev
mount -t tmpfs none {place}/dev
cp -a /dev/null /dev/zero /dev/urandom {place}/dev
mount --move {place}/dev /dev
"""

READ_ONLY = """
mount -t tmpfs none /dev/shm
mount -o remount,ro /dev/shm
"""


@pytest.mark.parametrize("script", [MISSING, READ_ONLY], ids=["missing", "read-only"])
def test_without_shared_memory_the_temporary_folder_serves(place: Path, script: str) -> None:
    """No /dev/shm, or one that cannot be written to: the default run_dir is in the temporary folder."""
    script = script.format(place=place) + f"\nmkdir -p {place}/t\nexport TMPDIR={place}/t\n"
    with Collector() as collector:
        found = run(script, collector, "", place / "s", 2, 50)
        assert found["folder"].startswith(str(place / "t"))
        assert found["flushed"]
        assert sorted(numbers(collector.events)) == found["accepted"] == list(range(100))
