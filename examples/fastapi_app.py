"""A shop with a feature flag: FastAPI, the official Feature Management SDK, and vwo_fast under it.

::

    pip install fastapi uvicorn vwo-fme-python-sdk==1.65.0
    VWO_ACCOUNT_ID=123456 VWO_SDK_KEY=... uvicorn --workers 4 examples.fastapi_app:app

To look at it without VWO, let ``python examples/collector.py --settings examples/fme_settings.json`` stand in for it,
and start uvicorn with ``VWO_ACCOUNT_ID=888888 VWO_SDK_KEY=demo-sdk-key VWO_PROXY_URL=http://127.0.0.1:8200``.
"""

from __future__ import annotations

import os

from fastapi import FastAPI, Request

from vwo_fast import fme

options = {
    "account_id": os.environ["VWO_ACCOUNT_ID"],
    "sdk_key": os.environ["VWO_SDK_KEY"],
    "batch_event_data": {"events_per_request": 1000, "request_time_interval": 60},
}
if "VWO_PROXY_URL" in os.environ:
    options["proxy_url"] = os.environ["VWO_PROXY_URL"]

app = FastAPI()
client = fme.init(options)


@app.get("/checkout/{user}")
async def checkout(user: str, request: Request) -> dict[str, bool]:
    """Whether this visitor is shown the new checkout."""
    # No await and no thread: the SDK decides from memory, and its event goes to memory that is shared.
    flag = client.get_flag("new-checkout", {"id": user, "user_agent": request.headers.get("user-agent", "")})
    return {"new_checkout": flag.is_enabled()}


@app.post("/order/{user}", status_code=204)
async def order(user: str, revenue: float = 0.0) -> None:
    """The visitor has bought something."""
    client.track_event("order", {"id": user}, {"revenue": revenue})
