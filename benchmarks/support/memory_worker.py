"""Prints what comes on top of the SDK in a worker: ``memory_worker.py vwo_fast|official URL RUN_DIR SPOOL_DIR``.

The aggregator of queue ``bench`` in that folder is at work all the time.
"""

from __future__ import annotations

import json
import sys
import time

import vwo

from benchmarks.support.events import ACCOUNT, SDK_KEY, impression
from benchmarks.support.smaps import memory
from tests.support import sdk_settings

DEADLINE_SECONDS = 60.0
SETTINGS = json.dumps(sdk_settings.fullstack(accountId=ACCOUNT, sdkKey=SDK_KEY))


def added(before: dict[str, float]) -> dict[str, float]:
    after = memory()
    return {name: after[name] - before[name] for name in after}


def main() -> None:
    kind, url, run_dir, spool_dir = sys.argv[1:]
    vwo.launch(SETTINGS, is_development_mode=True).activate("ab", "nobody")
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

    places = {"run_dir": run_dir, "spool_dir": spool_dir}
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
        found["flushed"] = added(before)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
