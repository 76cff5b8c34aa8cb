"""Bytes on the wire per event, headers included: the same calls through vwo_fast and through the official SDK.

Each visitor makes a decision and a conversion: ``activate`` and ``track`` of the FullStack SDK (two events),
``get_flag`` and ``track_event`` of the FME SDK (three).  The SDKs batch, as vwo_fast does, or send each call's
events at once, which is what they do unless they are told otherwise.

Then bodies alone: of the calls of ``tests/cases``, played through both, and, where there is a folder of requests
that were captured of the SDKs (``VWO_FAST_CONFORMANCE``), of these beside the same events in our batches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.contenders import official_fme, official_fullstack
from benchmarks.support.events import ACCOUNT, AGENT, SDK_KEY
from benchmarks.support.peers import Peer, serve
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import Sink, sink
from benchmarks.support.venv import NotMeasuredError
from benchmarks.support.work import folders
from tests.support import sdk_settings
from vwo_fast.stats import read_stats

AT_MOST = 0.9
DEADLINE_SECONDS = 60.0
ENVIRONMENTS = {"FullStack": "fullstack", "FME": "fme165"}
NAMES = {"FullStack": "official FullStack SDK", "FME": "official FME SDK"}
WHITE_SPACE = "no compression; the difference is the white space in the SDK's JSON"
REAL_TIME = "the SDK's default: a request for each call"
ZIPPED = "an option, for a server that accepts it; these events are more alike than those of real visitors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is sent by both."""

    family: str
    per_request: int
    visitors: int
    their_requests: int
    """How many the official SDK makes of it."""
    real_time: bool = False
    """The official SDK does not batch."""
    browser: bool = True
    """The calls say the visitor's user agent and address."""
    compression: str = "none"

    @property
    def what(self) -> str:
        text = f"bytes on the wire per event, {self.family}, {self.per_request} per request"
        text += "" if self.browser else ", no user agent given"
        return text if self.compression == "none" else f"{text}, {self.compression}"


PLANS = (
    Plan(family="FullStack", per_request=5000, visitors=5000, their_requests=2),
    Plan(family="FullStack", per_request=100, visitors=1000, their_requests=20),
    Plan(family="FullStack", per_request=100, visitors=1000, their_requests=20, browser=False),
    Plan(family="FME", per_request=5000, visitors=5000, their_requests=3),
    Plan(family="FME", per_request=100, visitors=1000, their_requests=30),
    Plan(family="FME", per_request=100, visitors=1000, their_requests=30, browser=False),
    Plan(family="FullStack", per_request=100, visitors=200, their_requests=400, real_time=True),
    Plan(family="FME", per_request=100, visitors=200, their_requests=400, real_time=True),
    Plan(family="FullStack", per_request=5000, visitors=5000, their_requests=2, compression="gzip"),
    Plan(family="FullStack", per_request=100, visitors=1000, their_requests=20, compression="gzip"),
)


# ---- in the environment of an SDK

Visitor = Callable[[str, bool], object]


def fullstack_visitor(client: Any) -> Visitor:
    def come(user: str, browser: bool) -> None:
        told = {"user_agent": AGENT, "user_ip_address": "203.0.113.7"} if browser else {}
        client.activate("ab", user, **told)
        client.track("ab", user, "purchase", revenue_value=20.01, **told)

    return come


def fme_visitor(client: Any) -> Visitor:
    def come(user: str, browser: bool) -> None:
        context = {"id": user, **({"user_agent": AGENT, "ip_address": "203.0.113.7"} if browser else {})}
        client.get_flag("feature", context)
        client.track_event("purchase", context, {"revenue": 20.01})

    return come


def our_client(family: str, url: str, per_request: int) -> Any:
    batching = {"events_per_request": per_request, "request_time_interval": 600}
    if family == "FullStack":
        from vwo_fast import fullstack

        settings = json.dumps(sdk_settings.fullstack(accountId=ACCOUNT, sdkKey=SDK_KEY))
        return fullstack.launch(settings, batch_events=batching)
    from vwo_fast import fme

    settings = sdk_settings.fme()
    given = {"sdk_key": settings["sdkKey"], "account_id": settings["accountId"], "proxy_url": url}
    return fme.init({**given, "batch_event_data": batching})


def answering(given: argparse.Namespace) -> Callable[[dict[str, Any]], bool]:
    """Have visitors come; ours are delivered when it answers, those of the official SDK may be on their way."""
    if given.side == "vwo_fast":
        client = our_client(given.sdk, given.url, given.per_request)
    else:
        make = official_fullstack if given.sdk == "FullStack" else official_fme
        client = make(given.url, given.per_request or None)
    come = fullstack_visitor(client) if given.sdk == "FullStack" else fme_visitor(client)

    def answer(question: dict[str, Any]) -> bool:
        for number in range(question["visitors"]):
            come(f"visitor-{number}", question["browser"])
        if given.side == "vwo_fast":
            return bool(client.flush_events(mode="sync") if given.sdk == "FullStack" else client.flush_events())
        return True

    return answer


# ---- what arrives


def arrived(server: Sink, requests: int) -> int:
    """Bytes of so many requests, once they have come. Raises RuntimeError when they do not."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    count = size = 0
    while count < requests:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{count} of {requests} requests came")
        time.sleep(0.05)
        found = server.traffic()
        count, size = count + found.requests, size + found.wire_bytes
    if count > requests:
        raise RuntimeError(f"{count} requests came instead of {requests}")
    return size


@contextlib.contextmanager
def visited(server: Sink, plan: Plan, side: str) -> Iterator[None]:
    """All visitors have come; a process that may still send lives until this ends."""
    per_request = 0 if plan.real_time and side == "official" else plan.per_request
    arguments = ["--sdk", plan.family, "--side", side, "--url", server.url, "--per-request", str(per_request)]
    peer = Peer(ENVIRONMENTS[plan.family], __file__, arguments)
    try:
        if not peer.ask({"visitors": plan.visitors, "browser": plan.browser}):
            raise RuntimeError("not everything was delivered")
        yield
    finally:
        peer.close()


def of_ours(server: Sink, plan: Plan) -> tuple[int, int]:
    """Bytes and events."""
    with folders() as places:
        given = {**places, "base_url": server.url, "idle_exit": 1, "compression": plan.compression}
        os.environ.update({f"VWO_FAST_{name.upper()}": str(value) for name, value in given.items()})
        with visited(server, plan, "vwo_fast"):
            (control,) = places["run_dir"].glob("*/control")
            stats = read_stats(control.parent)
            return arrived(server, stats.requests), stats.accepted


def row(server: Sink, plan: Plan) -> Row:
    against = NAMES[plan.family] + (", real time" if plan.real_time else "")
    try:
        ours, events = of_ours(server, plan)
        with visited(server, plan, "official"):
            theirs = arrived(server, plan.their_requests)
    except NotMeasuredError as exc:
        return skipped(plan.what, against, str(exc))
    has_goal = plan.compression == "none"
    return Row(
        what=plan.what,
        against=against,
        ours=f"{ours / events:.1f} B",
        theirs=f"{theirs / events:.1f} B",
        ratio=f"{ours / theirs:.3f}",
        goal=f"≤ {AT_MOST}" if has_goal else "",
        met=ours / theirs <= AT_MOST if has_goal else None,
        note=ZIPPED if not has_goal else REAL_TIME if plan.real_time else WHITE_SPACE,
        figures={"ours": ours / events, "theirs": theirs / events, "ratio": ours / theirs, "events": events},
    )


# ---- bodies

Sizes = list[tuple[int, int]]
"""Of each case: our bytes, theirs."""


def of_cases(family: str) -> Sizes:
    """Bodies of the batches that both make of the calls of tests/cases, of the cases where both make the same ones."""
    from tests.support import sdk_play

    chosen = [
        case
        for case in sdk_play.cases(family.lower())
        if "quirk" not in case
        and "server_rules" not in case
        and ENVIRONMENTS[family] in case.get("labels", [ENVIRONMENTS[family]])
        and not any(call[0].startswith("@") for call in case["calls"])
        and (case["config"].get("launch") or case["config"].get("options") or {}).keys()
        & {"batch_events", "batch_event_data"}
    ]
    found = []
    for outcome in sdk_play.play(ENVIRONMENTS[family], chosen).values():
        ours, theirs = (
            [request for request in side.requests if request.accepted and request.batch_events]
            for side in (outcome.ours, outcome.theirs)
        )
        if ours and len(ours) == len(theirs):
            found.append((sum(len(one.body) for one in ours), sum(len(one.body) for one in theirs)))
    return found


def of_captures(family: str) -> Sizes:
    """Bodies of captured batches, and of the same events in a batch of ours."""
    from tests.support import sdk_cases
    from vwo_fast import _batch, _lane

    found = []
    for case in sdk_cases.cases():
        if case.is_fullstack != (family == "FullStack"):
            continue
        ours = theirs = 0
        for request in case.data["requests"]:
            if request["response"]["status"] != 200 or not request.get("n_events") or "body" not in request:
                continue
            batch = _batch.Batch()
            for event in request["body"]["ev"]:
                if batch.append(_lane.pack(event)) != _batch.OK:
                    raise RuntimeError(f"{case.name}: an event that is none")
            ours, theirs = ours + len(batch.seal()[0]), theirs + request["body_len"]
        if theirs:
            found.append((ours, theirs))
    return found


def body_row(what: str, family: str, find: Callable[[str], Sizes]) -> Row:
    try:
        sizes = find(family)
    except NotMeasuredError as exc:
        return skipped(what, NAMES[family], str(exc))
    if not sizes:
        return skipped(what, NAMES[family], "no folder of captured requests (VWO_FAST_CONFORMANCE)")
    ours, theirs = (sum(side) for side in zip(*sizes, strict=True))
    ratios = [mine / other for mine, other in sizes]
    return Row(
        what=what,
        against=NAMES[family],
        ours=f"{ours:,} B",
        theirs=f"{theirs:,} B",
        ratio=f"{ours / theirs:.3f}",
        goal=f"≤ {AT_MOST}",
        met=ours / theirs <= AT_MOST,
        note=f"{len(sizes)} cases, {min(ratios):.3f} to {max(ratios):.3f}; without headers",
        figures={"ours": ours, "theirs": theirs, "ratio": ours / theirs, "ratios": [round(one, 4) for one in ratios]},
    )


def rows_of(server: Sink, *, quick: bool) -> Iterable[Row]:
    yield from (row(server, plan) for plan in PLANS if not quick or plan.per_request < 5000)
    for family in NAMES:
        yield body_row(f"bodies of the calls of tests/cases, {family}", family, of_cases)
        yield body_row(f"bodies of captured batches, {family}", family, of_captures)


def main() -> int:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--quick", action="store_true", help="leave the large batches out")
    parser.add_argument("--sdk", choices=sorted(NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--per-request", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sdk:
        serve(answering(given))
    with sink(sdk_settings.fme(), counts_bodies=True) as server:
        return finish("wire", rows_of(server, quick=given.quick), given.json, sink=server.kind)


if __name__ == "__main__":
    sys.exit(main())
