"""A whole aggregator, run as a child that tells what it has used.

``python -m vwo_fast.tuning.engine FOLDER`` is the aggregator of the queue in FOLDER.
Each line on its standard input is answered by one of JSON; at the end of the input it
saves everything and ends.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vwo_fast.errors import QueueError
from vwo_fast.folder import read_settings
from vwo_fast.queue import Queue
from vwo_fast.tuning.children import Folders, child_environment, stop_child
from vwo_fast.tuning.events import EVENT_BYTES_MIN, impression, route

__all__ = ["Burst", "Runner", "Usage", "running"]

DELIVERY_SECONDS = 60.0
START_NAP_SECONDS = 0.005
DIFFERENT_EVENTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an aggregator has used since it began."""

    cpu_seconds: float
    memory_bytes: int
    """The most it had at any time, the lanes it has mapped included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Some events, from the first enqueue to the last answer."""

    events: int
    requests: int
    cpu_seconds: float
    wall_seconds: float


class Runner:
    """A queue with such an aggregator. This process is its producer."""

    def __init__(self, queue: Queue, process: subprocess.Popen[bytes]) -> None:
        self._queue = queue
        self._process = process
        self._put = queue.producer(route()).enqueue
        self._number = 0

    def wait(self) -> None:
        """Until the aggregator holds the queue. Raises QueueError when it does not come to that."""
        deadline = time.monotonic() + DELIVERY_SECONDS
        while self._queue.stats().aggregator_pid is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise QueueError("the aggregator that is measured does not start: `vwo-fast doctor` may say why")
            time.sleep(START_NAP_SECONDS)

    def usage(self) -> Usage:
        """Ask the child. Raises QueueError when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise QueueError(f"the aggregator that is measured has ended with {self._process.wait()}")
        return Usage(**json.loads(line))

    def burst(self, events: int, event_bytes: int) -> Burst:
        """Enqueue so many events as fast as they are taken, and wait until all are delivered. Raises QueueError."""
        made = [impression(number, event_bytes) for number in range(min(events, DIFFERENT_EVENTS))]
        before, requests = self.usage(), self._queue.stats().requests
        begin = time.perf_counter()
        self._hand_over(made, events)
        if not self._queue.flush(DELIVERY_SECONDS):
            raise QueueError(f"not delivered within {DELIVERY_SECONDS:.0f} s: {self._queue.stats()}")
        wall = time.perf_counter() - begin
        return Burst(
            events=events,
            requests=self._queue.stats().requests - requests,
            cpu_seconds=self.usage().cpu_seconds - before.cpu_seconds,
            wall_seconds=wall,
        )

    def _hand_over(self, made: list[dict[str, Any]], events: int) -> None:
        put, number = self._put, self._number
        for index in range(events):
            event = made[index % len(made)]
            number += 1
            event["u"] = f"{number:032X}"
            if not put(event):
                raise QueueError(f"an event was refused: {self._queue.stats().refused}")
        self._number = number


@contextlib.contextmanager
def running(folders: Folders, url: str, *, events_per_request: int, lane_bytes: int) -> Iterator[tuple[Runner, float]]:
    """A running engine that sends to ``url``, and the seconds from its start to its first delivery."""
    queue = Queue(
        f"bench-{events_per_request}",
        run_dir=folders.run_dir,
        spool_dir=folders.spool_dir,
        base_url=url,
        events_per_request=events_per_request,
        request_time_interval=60,
        lane_bytes=lane_bytes,
        lane_bytes_max=lane_bytes,
        lane_watermark=0.9,
        on_full="block",
        block_timeout=10,
        aggregator="external",
        shutdown_timeout=1,
    )
    with contextlib.closing(queue):
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "vwo_fast.tuning.engine", str(queue.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            runner = Runner(queue, process)
            runner.wait()
            runner.burst(1, EVENT_BYTES_MIN)
            yield runner, time.perf_counter() - begin
        finally:
            # First the queue: whoever leaves one that has no aggregator is told that it needs one.
            queue.close()
            stop_child(process)


def _answer(lines: Iterable[bytes]) -> None:
    for _ in lines:
        answer = {"cpu_seconds": time.process_time(), "memory_bytes": _memory()}
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
    os.kill(os.getpid(), signal.SIGTERM)


def _memory() -> int:
    # What getrusage tells on Linux begins with the memory of whoever started us.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(folder: Path) -> int:
    """Be the aggregator until the standard input ends."""
    from vwo_fast.aggregator import loop

    settings = read_settings(folder)
    if settings is None:
        return 1
    _thread.start_new_thread(_answer, (sys.stdin.buffer,))
    code: int = loop.run(folder, settings.replace(aggregator="external"), foreground=True)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
