"""A shop with an A/B test: Flask, the official FullStack SDK, and vwo_fast under it.

::

    pip install flask gunicorn vwo-python-sdk==1.68.2 "setuptools<81"
    gunicorn --workers 4 --preload examples.flask_app:app

To look at it without VWO, let ``python examples/collector.py`` stand in for it, and start gunicorn with
``VWO_FAST_BASE_URL=http://127.0.0.1:8200``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask, request

from vwo_fast import fullstack

SETTINGS_FILE = Path(__file__).with_name("settings.json").read_text()

app = Flask(__name__)

# With --preload this is before the fork. Either way each worker gets a lane of its own at its first event.
vwo = fullstack.launch(SETTINGS_FILE, batch_events={"events_per_request": 1000, "request_time_interval": 60})


@app.get("/checkout/<user>")
def checkout(user: str) -> dict[str, Any]:
    """Which button this visitor is shown."""
    return {"button": vwo.activate("checkout-button", user, user_agent=request.headers.get("User-Agent", ""))}


@app.post("/order/<user>")
def order(user: str) -> tuple[str, int]:
    """The visitor has bought something."""
    vwo.track("checkout-button", user, "order", revenue_value=request.form.get("revenue", 0.0, type=float))
    return "", 204
