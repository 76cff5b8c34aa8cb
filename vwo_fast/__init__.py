"""One crash-safe event queue per host under the VWO (Wingify) Python SDKs.

:class:`Queue` and :class:`Route` are the engine; ``vwo_fast.fullstack`` and
``vwo_fast.fme`` put it under the official SDKs.
"""

from __future__ import annotations

from vwo_fast.errors import ConfigError, DeliveryError, QueueError, UnsupportedSdkError, VwoFastError
from vwo_fast.queue import Producer, Queue
from vwo_fast.route import Route
from vwo_fast.stats import Stats

__all__ = [
    "ConfigError",
    "DeliveryError",
    "Producer",
    "Queue",
    "QueueError",
    "Route",
    "Stats",
    "UnsupportedSdkError",
    "VwoFastError",
    "__version__",
]

__version__ = "0.1.0"
