"""What the queue under an SDK costs its calls: vwo_fast's adapters beside the official batching.

All that the adapters replace is what an SDK hands its events to: FullStack's dispatcher, FME's queue. So the
time inside that is taken while the calls run; all around it is the same code, and its time says nothing.
FullStack has both instances in one process; FME has one client per process, so there two take turns. Memory
is what ``tracemalloc`` sees in the worker: what a call keeps, and the most it holds while it runs. Batches
are never full here: no request is in the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.contenders import official_fme, official_fullstack
from benchmarks.support.events import ACCOUNT, SDK_KEY
from benchmarks.support.peers import Peer, serve
from benchmarks.support.rounds import Pair, spread
from benchmarks.support.rows import Row, finish, options, pair_row, skipped
from benchmarks.support.sink import sink
from benchmarks.support.venv import NotMeasuredError
from benchmarks.support.work import folders
from tests.support import sdk_settings

CALLS = {"fullstack": 1000, "fme": 150}
MEMORY_CALLS = 100
BATCHING = {"events_per_request": 5000, "request_time_interval": 600}

Call = Callable[[str], object]


def fullstack_calls(client: Any) -> dict[str, Call]:
    return {
        "activate": lambda user: client.activate("ab", user),
        "track": lambda user: client.track("ab", user, "purchase", revenue_value=20.01),
    }


def fme_calls(client: Any) -> dict[str, Call]:
    return {
        "get_flag": lambda user: client.get_flag("feature", {"id": user}),
        "track_event": lambda user: client.track_event("purchase", {"id": user}, {"revenue": 20.01}),
    }


class Watch:
    """Takes the time inside one method of an object."""

    def __init__(self, target: Any, name: str) -> None:
        inner, clock = getattr(target, name), time.perf_counter_ns
        self._took = 0

        def watched(event: Any) -> Any:
            begin = clock()
            result = inner(event)
            self._took += clock() - begin
            return result

        setattr(target, name, watched)

    def timed(self, call: Call, users: list[str]) -> float:
        """Nanoseconds per call inside the method."""
        self._took = 0
        for user in users:
            call(user)
        return self._took / len(users)


class Fullstack:
    """Two instances of the FullStack SDK."""

    def __init__(self, url: str) -> None:
        from vwo_fast import fullstack

        settings = json.dumps(sdk_settings.fullstack(accountId=ACCOUNT, sdkKey=SDK_KEY))
        clients = {"official": official_fullstack(url), "vwo_fast": fullstack.launch(settings, batch_events=BATCHING)}
        self.calls = {side: fullstack_calls(client) for side, client in clients.items()}
        self.watches = {side: Watch(client.event_dispatcher, "dispatch") for side, client in clients.items()}
        self._clients = clients

    def settle(self) -> None:
        """Send what has been handed over."""
        self._clients["official"].event_dispatcher.flush_queue(manual=True, mode="sync")
        self._clients["vwo_fast"].flush_events(mode="sync")


class Fme:
    """One client, of one side."""

    def __init__(self, url: str, side: str) -> None:
        self._side = side
        if side == "official":
            self._client = official_fme(url)
        else:
            from vwo_fast import fme

            settings = sdk_settings.fme()
            self._client = fme.init(
                {
                    "sdk_key": settings["sdkKey"],
                    "account_id": settings["accountId"],
                    "proxy_url": url,
                    "batch_event_data": BATCHING,
                }
            )
        self.calls = {side: fme_calls(self._client)}
        self.watches = {side: Watch(self._client.batch_event_queue, "enqueue")}

    def settle(self) -> None:
        """Send what has been handed over; the official queue is only emptied, so that it never sends by itself."""
        if self._side == "official":
            self._client.batch_event_queue.batch_queue.clear()
        else:
            self._client.flush_events()


def memory(call: Call, users: list[str]) -> tuple[float, float]:
    """Bytes that a call keeps, and the median of the most it holds while it runs."""
    for user in users[:20]:
        call(user)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        peaks = []
        for user in users:
            current = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            call(user)
            peaks.append(tracemalloc.get_traced_memory()[1] - current)
        kept = (tracemalloc.get_traced_memory()[0] - before) / len(users)
    finally:
        tracemalloc.stop()
    return kept, spread(peaks).median


def answering(given: argparse.Namespace) -> Callable[[dict[str, Any]], Any]:
    """One round of one call of one side."""
    sdk: Fullstack | Fme = Fullstack(given.url) if given.sdk == "fullstack" else Fme(given.url, given.side)

    def answer(question: dict[str, Any]) -> Any:
        users = [f"visitor-{question['round']}-{number}" for number in range(CALLS[given.sdk])]
        call = sdk.calls[question["side"]][question["call"]]
        found = (
            memory(call, users[:MEMORY_CALLS])
            if question.get("memory")
            else sdk.watches[question["side"]].timed(call, users)
        )
        sdk.settle()
        return found

    return answer


def peer(label: str, url: str, places: dict[str, Path], *arguments: str) -> Peer:
    for name, value in {**places, "base_url": url, "idle_exit": 1}.items():
        os.environ[f"VWO_FAST_{name.upper()}"] = str(value)
    return Peer(label, __file__, ["--url", url, *arguments])


def measure(peers: dict[str, Peer], call: str, rounds: int) -> tuple[Pair, dict[str, list[float]]]:
    """Nanoseconds per call of both sides, and bytes kept and held by each."""

    def ask(side: str, number: int, **more: Any) -> Any:
        return peers[side].ask({"side": side, "call": call, "round": number, **more})

    sides = ("vwo_fast", "official")
    took: dict[str, list[float]] = {"vwo_fast": [], "official": []}
    for side in sides:
        ask(side, -1)
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            took[side].append(ask(side, number))
    pair = Pair(
        ours=spread(took["vwo_fast"]),
        theirs=spread(took["official"]),
        ratio=spread([mine / other for mine, other in zip(*took.values(), strict=True)]),
    )
    return pair, {side: ask(side, rounds, memory=True) for side in sides}


def rows_of(name: str, peers: dict[str, Peer], calls: tuple[str, ...], rounds: int) -> list[Row]:
    rows = []
    for call in calls:
        pair, held = measure(peers, call, rounds)
        what = f"{name} {call}(): time handing over"
        rows.append(pair_row(pair, what=what, against="the official batching", unit="ns", at_most=1.0))
        ours, theirs = held["vwo_fast"], held["official"]
        rows.append(
            Row(
                what=f"{name} {call}(): memory kept after the call; most held in it",
                against="the official batching",
                ours=f"{ours[0]:.0f} B; {ours[1]:.0f} B",
                theirs=f"{theirs[0]:.0f} B; {theirs[1]:.0f} B",
                goal="never more",
                met=ours[0] <= theirs[0] and ours[1] <= theirs[1],
                figures={"kept": [ours[0], theirs[0]], "peak": [ours[1], theirs[1]]},
            )
        )
    return rows


def main() -> int:
    parser = options(__doc__, rounds=15)
    parser.add_argument("--sdk", choices=("fullstack", "fme"), help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sdk:
        serve(answering(given))
    rows: list[Row] = []
    with sink(sdk_settings.fme()) as server, folders() as places:
        for name in ("FullStack", "FME"):
            started: list[Peer] = []
            try:
                if name == "FullStack":
                    started = [peer("fullstack", server.url, places, "--sdk", "fullstack")]
                    peers = dict.fromkeys(("official", "vwo_fast"), started[0])
                    rows += rows_of(name, peers, ("activate", "track"), given.rounds)
                else:
                    peers = {}
                    for side in ("official", "vwo_fast"):
                        peers[side] = peer("fme165", server.url, places, "--sdk", "fme", "--side", side)
                        started.append(peers[side])
                    rows += rows_of(name, peers, ("get_flag", "track_event"), given.rounds)
            except NotMeasuredError as exc:
                rows.append(skipped(f"{name}: what the adapter adds", "the official batching", str(exc)))
            finally:
                for one in started:
                    one.close()
        return finish("adapters", rows, given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
