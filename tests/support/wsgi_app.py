"""The application that the tests of process models serve: plain WSGI, one impression per request.

The queue comes from VWO_FAST_* variables.  VWO_FAST_TEST_EARLY="first end" makes these impressions at import,
which is before the fork when the server preloads.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import vwo_fast
from tests.support.engine import impression, route

__all__ = ["app"]

queue = vwo_fast.Queue(os.environ["VWO_FAST_QUEUE"])
producer = queue.producer(route())
for early in range(*map(int, os.environ.get("VWO_FAST_TEST_EARLY", "0").split())):
    if not producer.enqueue(impression(early)):
        sys.exit("an impression before the fork was refused")


def describe() -> dict[str, Any]:
    """What this process has become by using vwo_fast."""
    return {
        "pid": os.getpid(),
        "threads": sorted(type(thread).__name__ for thread in threading.enumerate()),
        "modules": sorted({"requests", "sqlite3", "urllib3"} & sys.modules.keys()),
    }


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """``/<n>`` makes impression n; the answer leaves once it is accepted."""
    number = int(environ["PATH_INFO"].strip("/"))
    accepted = producer.enqueue(impression(number))
    body = json.dumps(describe()).encode()
    status = "200 OK" if accepted else "503 Service Unavailable"
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
