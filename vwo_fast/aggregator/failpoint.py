"""Named places where a test has the aggregator die, as kill -9 at that very moment would.

``VWO_FAST_TEST_FAIL_POINT="name"`` or ``"name#n"`` in the environment of the aggregator: the n-th
time the place is reached, the process kills itself.  Without it a place costs one call that does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

__all__ = ["VARIABLE", "killer", "reach", "watch"]

VARIABLE = "VWO_FAST_TEST_FAIL_POINT"

_watcher: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Tell that a place has been reached."""
    if _watcher is not None:
        _watcher(name)


def watch(watcher: Callable[[str], None]) -> None:
    """Have a function called with the name of each place that is reached."""
    global _watcher
    _watcher = watcher


def killer(target: str) -> Callable[[str], None]:
    """A watcher that kills this process at ``target``, which is a name, or a name and a count."""
    wanted, _, count = target.partition("#")
    left = int(count or 1)
    lock = threading.Lock()

    def kill_at(name: str) -> None:
        nonlocal left
        if name == wanted:
            with lock:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    return kill_at


if os.environ.get(VARIABLE):
    watch(killer(os.environ[VARIABLE]))
