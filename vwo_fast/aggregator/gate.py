"""A gate: how many requests may be on their way to one place, and when to try again after a failure.

While a place answers, its window is open.  After a failure only one request at a
time goes through, each after a back-off; the first success opens the window
again, doubling with every further success, so that a server that comes back is
not run over.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Gate", "backoff"]

EXPONENT_MAX = 30


def backoff(failures: int, delay_min: float, delay_max: float, random: Callable[[], float]) -> float:
    """Seconds to wait after the n-th failure in a row: exponential, with full jitter."""
    ceiling = min(delay_max, delay_min * 2.0 ** min(failures - 1, EXPONENT_MAX))
    return ceiling * random()


class Gate:
    """State of one place (a server, or one route on it)."""

    def __init__(self, *, window_max: int, delay_min: float, delay_max: float, random: Callable[[], float]) -> None:
        self.failures = 0
        self.in_flight = 0
        self.retry_at = 0.0
        self._window_max = window_max
        self._window = window_max
        self._delay_min = delay_min
        self._delay_max = delay_max
        self._random = random
        self._failed_at = 0.0
        self._not_before = 0.0

    def allows(self, now: float) -> bool:
        """Whether one more request may go."""
        return self.in_flight < (1 if self.failures else self._window) and now >= self.retry_at

    def begin(self) -> None:
        """A request goes."""
        self.in_flight += 1

    def end(self) -> None:
        """It is back, whatever became of it."""
        self.in_flight -= 1

    def succeeded(self) -> None:
        """The place answered as it should."""
        if self.failures:
            self.failures = 0
            self.retry_at = self._not_before = 0.0
        else:
            self._window = min(self._window_max, self._window * 2)

    def failed(self, now: float, started: float, retry_after: float | None = None) -> None:
        """A request that began at ``started`` failed.

        Requests that were on their way together fail together; they count as one failure.
        """
        if started > self._failed_at or not self.failures:
            self.failures += 1
            self._failed_at = now
            self._window = 1
            wait = backoff(self.failures, self._delay_min, self._delay_max, self._random)
            self.retry_at = max(self._not_before, now + wait)
        if retry_after is not None:
            self._not_before = max(self._not_before, now + retry_after)
            self.retry_at = max(self.retry_at, self._not_before)

    def kick(self) -> None:
        """Try now, unless the place itself has said how long to wait."""
        self.retry_at = self._not_before
