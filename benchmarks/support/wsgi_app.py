"""A view that decides and tracks, under gunicorn; BENCH_MODE says what becomes of the impressions."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

from flask import Flask

from benchmarks.support.events import ACCOUNT, SDK_KEY
from tests.support import sdk_settings

__all__ = ["app"]

SETTINGS = json.dumps(sdk_settings.fullstack(accountId=ACCOUNT, sdkKey=SDK_KEY))
BATCHING = {"events_per_request": 1000, "request_time_interval": 60}


def launch(mode: str) -> Any:
    if mode == "vwo_fast":
        from vwo_fast import fullstack

        return fullstack.launch(SETTINGS, batch_events=BATCHING)
    import vwo
    from vwo.constants import constants

    constants.HTTPS_PROTOCOL = "http://"
    constants.ENDPOINTS.BASE_URL = os.environ["BENCH_SINK"]
    if mode == "decide":
        return vwo.launch(SETTINGS, is_development_mode=True)
    return vwo.launch(SETTINGS, batch_events=BATCHING if mode == "batching" else None)


app = Flask(__name__)
sdk = launch(os.environ["BENCH_MODE"])
numbers = itertools.count()


@app.get("/")
def view() -> dict[str, Any]:
    user = f"visitor-{os.getpid()}-{next(numbers)}"
    variation = sdk.activate("ab", user, user_agent="Mozilla/5.0", user_ip_address="203.0.113.7")
    sdk.track("ab", user, "purchase", revenue_value=20.01)
    return {"variation": variation}
