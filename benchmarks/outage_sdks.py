"""What the official SDKs do with one batch of ten events when the network or the server fails.

Each SDK runs unmodified in a virtual environment of its own, in a process for each fault.  The
fault lasts 30 s or, where it says once, for one request.  The process then has 15 s more, flushes,
waits for 15 s, and ends as processes do: what it still holds is gone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.collector import Collector, Recorded, Rule
from tests.support import sdk_runs, sdk_settings
from tests.support.proxy import Fault, Proxy

FAULT_SECONDS = 30.0
AFTER_SECONDS = 15.0
PAUSE_SECONDS = 0.5
READY = "/ready"

SOURCE = """
import time, urllib.request
from tests.support.sdk_driver import Driver
job = given["job"]
driver = Driver(job)
urllib.request.urlopen(given["ready"]).read()
time.sleep(given["pause"])
begun = time.monotonic()
for call in job["calls"]:
    driver._call(*call)
told_after = None
while time.monotonic() - begun < given["fault"] + given["after"]:
    if driver.told and told_after is None:
        told_after = round(time.monotonic() - begun, 1)
    time.sleep(0.05)
first = list(driver.told)
driver._call("flush_events", [], {})
until = time.monotonic() + given["after"]
while time.monotonic() < until:
    time.sleep(0.05)
result = {"told": first, "told_after": told_after, "told_later": driver.told[len(first):]}
"""

Begin = Callable[[Collector, Proxy], object]


@dataclass(frozen=True, slots=True)
class Case:
    """One fault: how it begins, and how it ends; ``end`` is None when it ends by itself."""

    name: str
    begin: Begin
    end: Begin | None = None


def rule(**values: Any) -> Begin:
    return lambda collector, proxy: collector.rules.append(Rule(method="POST", **values))


def fault(**values: Any) -> Begin:
    return lambda collector, proxy: setattr(proxy, "fault", Fault(**values))


def well(collector: Collector, proxy: Proxy) -> None:
    collector.rules.clear()
    proxy.fault = Fault()
    proxy.listen()


CASES = (
    Case("500 for 30 s", rule(status=500), well),
    Case("401 for 30 s", rule(status=401), well),
    Case("413 for 30 s", rule(status=413), well),
    Case("429 with Retry-After 20, once", rule(status=429, headers={"Retry-After": "20"}, times=1)),
    Case("202 once", rule(status=202, times=1)),
    Case("connection refused for 30 s", lambda collector, proxy: proxy.refuse(), well),
    Case("no answer for 30 s", fault(black_hole=True), well),
    Case("reset, once", fault(reset=True, times=1)),
    Case("cut before the answer, once", fault(cut_before_answer=True, times=1)),
)

SDKS = ("fullstack", "fme165")


def job(label: str, url: str) -> dict[str, Any]:
    """Ten events, which are one batch."""
    batch = {"events_per_request": 10, "request_time_interval": 600}
    common = {"label": label, "through": "official", "collector": url, "callback": True}
    if label == "fullstack":
        calls = [["activate", ["ab", f"user {n}"], {}] for n in range(10)]
        return {**common, "settings": sdk_settings.fullstack(), "options": {"batch_events": batch}, "calls": calls}
    calls = [["track_event", ["purchase", {"id": f"user {n}"}], {}] for n in range(10)]
    return {**common, "settings": sdk_settings.fme(), "options": {"batch_event_data": batch}, "calls": calls}


def visitors(request: Recorded) -> list[str]:
    """Who is in an accepted batch; the events that an SDK sends about itself have nobody of ours."""
    found = []
    for event in request.batch_events or []:
        data = event.get("d")
        if data is None:
            found.append(event["u"])
        elif data["event"]["name"] == "purchase":
            found.append(data["visId"])
    return found


def measure(label: str, case: Case) -> dict[str, Any]:
    settings = sdk_settings.fme() if label != "fullstack" else None
    with Collector(settings=settings) as collector, Proxy(collector.port) as proxy, ThreadPoolExecutor(1) as pool:
        given = {"job": job(label, proxy.url), "ready": f"{collector.url}{READY}", "pause": PAUSE_SECONDS}
        given |= {"fault": FAULT_SECONDS, "after": AFTER_SECONDS}
        running = pool.submit(sdk_runs.script, label, SOURCE, given)
        # FME's settings come over the same way, and are not what is looked at.
        collector.wait(lambda c: any(request.path == READY for request in c.requests), 60)
        case.begin(collector, proxy)
        time.sleep(FAULT_SECONDS)
        if case.end is not None:
            case.end(collector, proxy)
        result: dict[str, Any] = running.result()
        arrived = Counter(name for request in collector.batches for name in visitors(request))
        result |= {"sdk": label, "fault": case.name, "tries": len(collector.requests), "exchanges": proxy.exchanges}
        return result | {"arrived": len(arrived), "duplicated": sum(arrived.values()) - len(arrived)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    for label in SDKS:
        sdk_runs.environment(label)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda pair: measure(*pair), [(label, case) for case in CASES for label in SDKS]))
    print("| fault | SDK | lost of 10 | duplicated | callback told, after seconds |\n|---|---|---|---|---|")
    for row in found:
        told = "; ".join("no error" if error is None else error for error, _ in row["told"]) or "nothing"
        print(
            f"| {row['fault']} | {row['sdk']} | {10 - row['arrived']} | {row['duplicated']} "
            f"| {told}, {row['told_after']} |"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
