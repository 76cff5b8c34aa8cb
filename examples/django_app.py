"""A shop with an A/B test: Django in one file, the official FullStack SDK, and vwo_fast under it.

::

    pip install django gunicorn vwo-python-sdk==1.68.2 "setuptools<81"
    gunicorn --workers 4 --preload examples.django_app:application

In a project of several files the client is launched by ``AppConfig.ready``, and the views are where views are.
To look at it without VWO, let ``python examples/collector.py`` stand in for it, and start gunicorn with
``VWO_FAST_BASE_URL=http://127.0.0.1:8200``.
"""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from vwo_fast import fullstack

SETTINGS_FILE = Path(__file__).with_name("settings.json").read_text()

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"])

# With --preload this is before the fork. Either way each worker gets a lane of its own at its first event.
vwo = fullstack.launch(SETTINGS_FILE, batch_events={"events_per_request": 1000, "request_time_interval": 60})


@require_GET
def checkout(request: HttpRequest, user: str) -> HttpResponse:
    """Which button this visitor is shown."""
    return JsonResponse(
        {"button": vwo.activate("checkout-button", user, user_agent=request.headers.get("User-Agent", ""))}
    )


@require_POST
def order(request: HttpRequest, user: str) -> HttpResponse:
    """The visitor has bought something."""
    vwo.track("checkout-button", user, "order", revenue_value=float(request.POST.get("revenue", 0.0)))
    return HttpResponse(status=204)


urlpatterns = [path("checkout/<user>", checkout), path("order/<user>", order)]
application = get_wsgi_application()
