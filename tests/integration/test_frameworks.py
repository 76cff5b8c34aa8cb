"""The examples for web frameworks, served for real: what was answered arrives, also from a worker that is killed."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from examples.demo import visitor_uuid
from tests.support.engine import Engine, engine, wait_for
from tests.support.ports import free_port
from tests.support.servers import ROOT, Server, environment_python, queue_environment, serve

ACCOUNT = 888888
WORKERS = 3
VISITS = 60
GUNICORN = ["-m", "gunicorn", f"--workers={WORKERS}", "--preload", "--log-level=warning"]
UVICORN = ["-m", "uvicorn", f"--workers={WORKERS}", "--log-level=warning"]

# The environment, the command and where its port goes, the queue.
SERVED = {
    "flask": ("fullstack", [*GUNICORN, "examples.flask_app:app"], "--bind=127.0.0.1:{}", "fullstack"),
    "django": ("fullstack", [*GUNICORN, "examples.django_app:application"], "--bind=127.0.0.1:{}", "fullstack"),
    "fastapi": ("fme165", [*UVICORN, "examples.fastapi_app:app"], "--port={}", "fme"),
}

Impression = tuple[str, str]
"""Visitor, and what happened."""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="optional: the workers of a server are found in /proc"
)


class Crowd:
    """Visitors who are shown a button, and buy."""

    def __init__(self, port: int) -> None:
        self.made: set[Impression] = set()
        self.possible: set[Impression] = set()
        self._port = port
        self._numbers = itertools.count(1)

    def visit(self, count: int, clients: int = 4) -> None:
        numbers = [next(self._numbers) for _ in range(count)]
        threads = [threading.Thread(target=self._visit, args=(numbers[first::clients],)) for first in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _visit(self, numbers: list[int]) -> None:
        for number in numbers:
            visitor = visitor_uuid(f"visitor-{number}")
            shown = self._ask("GET", f"/checkout/visitor-{number}")
            bought = self._ask("POST", f"/order/visitor-{number}?revenue=20.5", "revenue=20.5")
            for answered, event in ((shown, "shown"), (bought, "order")):
                (self.made if answered else self.possible).add((visitor, event))

    def _ask(self, method: str, target: str, body: str | None = None) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            form = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
            connection.request(method, target, body, {"User-Agent": "crowd", **form})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        assert response.status in (200, 204), text
        return True


def impressions(events: list[dict[str, Any]]) -> Counter[Impression]:
    """What arrived, in the words of this test."""
    found: Counter[Impression] = Counter()
    for event in events:
        if "d" in event:
            name = event["d"]["event"]["name"]
            found[event["d"]["visId"], {"vwo_variationShown": "shown"}.get(name, name)] += 1
        else:
            found[event["u"], {1: "shown", 2: "order"}[event["eT"]]] += 1
    return found


def revenues(events: list[dict[str, Any]]) -> set[float]:
    """What visitors paid."""
    found = [event["d"]["event"]["props"].get("revenue") if "d" in event else event.get("r") for event in events]
    return {revenue for revenue in found if revenue is not None}


def workers_of(server: Server) -> list[int]:
    """Its children that serve; uvicorn has another one beside, which only watches."""
    own = server.process.pid
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return sorted(pid for pid, command in commands.items() if b"resource_tracker" not in command)


def served_environment(made: Engine) -> dict[str, str]:
    return {
        **queue_environment(made),
        "VWO_ACCOUNT_ID": str(ACCOUNT),
        "VWO_SDK_KEY": "demo-sdk-key",
        "VWO_PROXY_URL": made.collector.url,
    }


@pytest.mark.parametrize("framework", SERVED)
def test_what_is_answered_arrives(framework: str, tmp_path: Path) -> None:
    """Several workers, one of them killed with -9 in the middle, SIGTERM at the end: nothing lost, nothing twice."""
    label, command, bind, kind = SERVED[framework]
    queue = f"{kind}-{ACCOUNT}"
    settings = json.loads((ROOT / "examples/fme_settings.json").read_text())
    port = free_port()
    whole = [environment_python(label), *command, bind.format(port)]
    with engine(settings=settings) as made, serve(whole, port, served_environment(made), tmp_path / "log") as server:
        crowd = Crowd(port)
        crowd.visit(VISITS // 2)
        # They come one after the other; the first has answered most.
        os.kill(wait_for(lambda: len(found := workers_of(server)) >= WORKERS and found[0]), signal.SIGKILL)
        crowd.visit(VISITS // 2)
        server.stop()
        wait_for(lambda: crowd.made <= set(impressions(made.collector.events)))
        wait_for(lambda: not made.is_running(queue))
        arrived = impressions(made.collector.events)
        assert set(arrived) - crowd.made <= crowd.possible
        assert {impression: times for impression, times in arrived.items() if times > 1} == {}
        assert len(crowd.made) >= VISITS
        assert revenues(made.collector.events) == {20.5}
