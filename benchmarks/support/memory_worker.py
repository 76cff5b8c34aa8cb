"""Prints what comes on top of the SDK in a worker: ``memory_worker.py vwo_fast|official URL``, in its environment."""

from __future__ import annotations

import json
import sys
from typing import Any

import vwo

from benchmarks.support.events import ACCOUNT, SDK_KEY, impression
from benchmarks.support.smaps import memory
from tests.support import sdk_settings

SETTINGS = json.dumps(sdk_settings.fullstack(accountId=ACCOUNT, sdkKey=SDK_KEY))


def added(dispatch: Any, events: list[dict[str, Any]], before: dict[str, float]) -> dict[str, float]:
    for event in events:
        dispatch(event)
    after = memory()
    return {name: after[name] - before[name] for name in after}


def main() -> None:
    kind, url = sys.argv[1:]
    vwo.launch(SETTINGS, is_development_mode=True).activate("ab", "nobody")
    events = [impression(number) for number in range(2000)]
    before = memory()
    if kind == "official":
        from benchmarks.support.contenders import official_fullstack

        dispatcher = official_fullstack(url).event_dispatcher
        print(json.dumps(added(dispatcher.dispatch, events, before)), flush=True)
        dispatcher.flush_queue(manual=True, mode="sync")
        return
    # Only now: it imports what a worker needs of vwo_fast as well.
    from benchmarks.support.work import folders
    from vwo_fast import Queue, fullstack

    with folders() as places, Queue("bench", base_url=url, events_per_request=5000, idle_exit=1, **places) as queue:
        client = fullstack.launch(SETTINGS, queue=queue)
        print(json.dumps(added(client.event_dispatcher.dispatch, events, before)), flush=True)
        queue.flush(30)


if __name__ == "__main__":
    main()
