"""Prints what comes on top of the SDK in a worker: ``memory_worker.py vwo_fast|two|official URL RUN_DIR SPOOL_DIR``.

The aggregator of queue ``bench`` in that folder is at work all the time.  With ``two``, another worker is there
from the beginning, and flushes before this one is measured.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import vwo

from benchmarks.support.events import ACCOUNT, SDK_KEY, impression
from benchmarks.support.smaps import memory
from tests.support import sdk_settings

DEADLINE_SECONDS = 60.0
SETTINGS = json.dumps(sdk_settings.fullstack(accountId=ACCOUNT, sdkKey=SDK_KEY))


def added(before: dict[str, float]) -> dict[str, float]:
    after = memory()
    return {name: after[name] - before[name] for name in after}


@contextlib.contextmanager
def beside(kind: str) -> Iterator[subprocess.Popen[str] | None]:
    """The other worker, with the SDK in it, if there is one."""
    if kind != "two":
        yield None
        return
    command = [sys.executable, __file__, "beside", *sys.argv[2:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        hear(other)
        yield other
        other.communicate()


def hear(other: subprocess.Popen[str]) -> None:
    """Wait until the other worker is done with its step."""
    assert other.stdout is not None
    if not other.stdout.readline():
        raise RuntimeError("the other worker has failed")


def be_beside(url: str, places: dict[str, str]) -> None:
    """The life of the other worker: a line of input, or its end, leads to the next step."""
    print("ready", flush=True)
    sys.stdin.readline()
    from vwo_fast import Queue, fullstack

    with Queue("bench", base_url=url, events_per_request=1000, idle_exit=1, **places) as queue:
        fullstack.launch(SETTINGS, queue=queue).event_dispatcher.dispatch(impression(0))
        queue.flush(DEADLINE_SECONDS)
        print("flushed", flush=True)
        sys.stdin.read()


def main() -> None:
    kind, url, run_dir, spool_dir = sys.argv[1:]
    places = {"run_dir": run_dir, "spool_dir": spool_dir}
    vwo.launch(SETTINGS, is_development_mode=True).activate("ab", "nobody")
    if kind == "beside":
        be_beside(url, places)
        return
    with beside(kind) as other:
        measure(kind, url, places, other)


def measure(kind: str, url: str, places: dict[str, str], other: subprocess.Popen[str] | None) -> None:
    """What this worker takes, printed."""
    events = [impression(number) for number in range(2000)]
    before = memory()
    if kind == "official":
        from benchmarks.support.contenders import official_fullstack

        dispatcher = official_fullstack(url).event_dispatcher
        for event in events:
            dispatcher.dispatch(event)
        print(json.dumps({"at work": added(before)}), flush=True)
        dispatcher.flush_queue(manual=True, mode="sync")
        return
    # Only now: it is what is measured.
    from vwo_fast import Queue, fullstack

    with Queue("bench", base_url=url, events_per_request=1000, idle_exit=1, **places) as queue:
        dispatch = fullstack.launch(SETTINGS, queue=queue).event_dispatcher.dispatch
        for event in events:
            dispatch(event)
        until = time.monotonic() + DEADLINE_SECONDS
        while (stats := queue.stats()).delivered < stats.accepted:
            if time.monotonic() > until:
                raise RuntimeError(f"nothing arrives at {url}: {stats}")
            time.sleep(0.05)
        # Long enough for the aggregator to fall asleep, so that this one rings.
        time.sleep(0.5)
        dispatch(events[0])
        found = {"at work": added(before)}
        queue.flush(DEADLINE_SECONDS)
        if other is not None and other.stdin is not None:
            other.stdin.write("\n")
            other.stdin.flush()
            hear(other)
        found["flushed"] = added(before)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
