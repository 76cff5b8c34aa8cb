"""A small shop under gunicorn: one A/B test, with the official FullStack SDK through vwo_fast or unmodified.

The environment says how: DEMO_ENGINE is ``vwo_fast`` or ``official``, DEMO_COLLECTOR is the host and port
that stands in for VWO.  vwo_fast itself reads its own VWO_FAST_* variables.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Flask, request

__all__ = ["app"]

CAMPAIGN = "checkout-button"
GOAL = "order"
TRACK_EVERY = 4
"""Every fourth visitor also orders, which is a second impression."""

BATCH_EVENTS = {"events_per_request": 100, "request_time_interval": 60}

SETTINGS_FILE = Path(__file__).with_name("settings.json").read_text()


def launch(engine: str) -> Any:
    """The SDK instance that all workers share: made once, before the fork when gunicorn preloads."""
    if engine == "vwo_fast":
        from vwo_fast import fullstack

        return fullstack.launch(SETTINGS_FILE, batch_events=BATCH_EVENTS)
    import vwo
    from vwo.constants import constants

    constants.HTTPS_PROTOCOL = "http://"
    constants.ENDPOINTS.BASE_URL = os.environ["DEMO_COLLECTOR"]
    return vwo.launch(SETTINGS_FILE, batch_events=BATCH_EVENTS)


app = Flask(__name__)
sdk = launch(os.environ["DEMO_ENGINE"])


@app.get("/visit/<int:number>")
def visit(number: int) -> dict[str, Any]:
    """One page view. The answer leaves only after the SDK has taken the impressions."""
    user = f"visitor-{number}"
    variation = sdk.activate(CAMPAIGN, user, user_agent=request.headers.get("User-Agent", ""))
    impressions = 1
    if number % TRACK_EVERY == 0:
        sdk.track(CAMPAIGN, user, GOAL, revenue_value=20.01)
        impressions = 2
    return {"worker": os.getpid(), "variation": variation, "impressions": impressions}
