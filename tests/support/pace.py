"""How busy a collector is: counts the requests that it has at once, and keeps them until there are enough."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.support.collector import Collector

__all__ = ["Pace"]

HOLD_SECONDS = 60.0


class Pace:
    """From construction on, on one collector. Answers wait while ``holds(self)``, but not for ever."""

    def __init__(self, collector: Collector, holds: Callable[[Pace], bool] = lambda pace: False) -> None:
        self.inside = 0
        """Requests that have come and are not answered."""
        self.most = 0
        """The most that were inside at once."""
        self._holds = holds
        self._changed = threading.Condition()
        self._receive, self._settle = collector.receive, collector.settle
        collector.receive = self._come  # type: ignore[method-assign]
        collector.settle = self._go  # type: ignore[method-assign]

    def look_again(self) -> None:
        """What ``holds`` depends on has changed."""
        with self._changed:
            self._changed.notify_all()

    def _come(self, request: Any) -> Any:
        with self._changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._changed.notify_all()
        answer = self._receive(request)
        with self._changed:
            self._changed.wait_for(lambda: not self._holds(self), HOLD_SECONDS)
        return answer

    def _go(self, request: Any, status: int) -> None:
        with self._changed:
            self.inside -= 1
        self._settle(request, status)
