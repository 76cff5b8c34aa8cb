"""Makes calls through one SDK in a process of its own; runs in that SDK's virtual environment.

``python -m tests.support.sdk_driver`` reads one JSON object from standard input::

    {"label": "fullstack", "through": "official" | "vwo_fast", "collector": url, "settings": {...},
     "options": {...}, "calls": [[method, args, kwargs], ...], "adapter": {...}}

and writes one with what the calls returned, what the flush callback was told, and the
threads and modules of the process.  ``adapter`` goes to the adapter alone.  The
environment says where vwo_fast has its folders and sends its requests.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

DEADLINE_SECONDS = 60.0


class Driver:
    """One client and what came of the calls to it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.is_official = job["through"] == "official"
        self.told: list[tuple[str | None, int]] = []
        self.settle: Callable[[], None] = lambda: None
        self.client = self._fullstack() if job["label"] == "fullstack" else self._fme()

    def callback(self, error: object, events: list[Any]) -> None:
        """What is registered as flush callback when the job asks for one."""
        self.told.append((None if error is None else str(error), len(events)))

    def _fullstack(self) -> Any:
        constants: Any = import_module("vwo.constants.constants")
        if self.is_official:
            collector = urlsplit(self.job["collector"])
            constants.HTTPS_PROTOCOL = "http://"
            constants.ENDPOINTS.BASE_URL = collector.netloc
        options = self._with_callback("batch_events")
        settings = json.dumps(self.job["settings"])
        if self.is_official:
            return import_module("vwo").launch(settings, **options)
        return import_module("vwo_fast.fullstack").launch(settings, **options, **self._adapter())

    def _fme(self) -> Any:
        settings = self.job["settings"]
        options = self._with_callback("batch_event_data")
        options = {"sdk_key": settings["sdkKey"], "account_id": settings["accountId"], **options}
        if self.job.get("proxy", True):
            options["proxy_url"] = self.job["collector"]
        else:
            redirect_fme(self.job["collector"])
        if not self.is_official:
            return import_module("vwo_fast.fme").init(options, **self._adapter())
        client = import_module("wingify" if self.job["label"].startswith("w") else "vwo").init(options)
        queue = client.batch_event_queue

        def settle() -> None:
            wait_for(lambda: queue is None or (not queue.is_batch_processing and not queue.batch_queue))

        self.settle = settle
        return client

    def _adapter(self) -> dict[str, Any]:
        return {"flush_timeout": DEADLINE_SECONDS, **self.job.get("adapter", {})}

    def _with_callback(self, name: str) -> dict[str, Any]:
        options = dict(self.job["options"])
        if self.job.get("callback"):
            options[name] = {**options[name], "flush_callback": self.callback}
        return options

    def run(self) -> dict[str, Any]:
        """Make the calls."""
        returns = [self._call(*call) for call in self.job["calls"]]
        self.settle()
        if self.job.get("callback"):
            wait_for(lambda: self.told)
        return {
            "returns": returns,
            "told": self.told,
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "modules": sorted(sys.modules),
        }

    def _call(self, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        result = getattr(self.client, method)(*args, **kwargs)
        if hasattr(result, "is_enabled"):
            return [result.is_enabled(), result.get_variables()]
        return result


def redirect_fme(collector: str) -> None:
    """Make the SDK believe that its built-in hosts are the collector."""
    parts = urlsplit(collector)
    try:
        constants = import_module("wingify.constants.Constants").Constants
    except ImportError:
        constants = import_module("vwo.constants.Constants").Constants
    for name in ("HOST_NAME", "VWO_HOST_NAME", "WINGIFY_SETTINGS_HOST_NAME", "WINGIFY_COLLECTION_HOST_NAME"):
        if hasattr(constants, name):
            setattr(constants, name, parts.netloc)
    constants.HTTPS_PROTOCOL = parts.scheme


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the SDK did not settle")
        time.sleep(0.01)


def main() -> None:
    result = Driver(json.load(sys.stdin)).run()
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    sys.stdout.flush()
    # The FME SDK's polling timer would keep the process for ever.
    os._exit(0)


if __name__ == "__main__":
    main()
