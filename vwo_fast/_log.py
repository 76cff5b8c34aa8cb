"""The loggers of what every worker imports: ``logging`` itself comes with the first message.

It takes a fifth of what ``import vwo_fast`` costs, and most processes that import it
alone, a script or a command, never have anything to say.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["get_logger"]


class _LateLogger:
    """Stands for a logger until there is something to say."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "debug" and "logging" not in sys.modules:
            # Who has not even loaded it has not asked for these.
            return _nothing
        import logging

        return getattr(logging.getLogger(self._name), attribute)


def get_logger(name: str) -> Logger:
    """``logging.getLogger(name)``, at the first use of it."""
    return cast("Logger", _LateLogger(name))


def _nothing(*_: object) -> None:
    pass
