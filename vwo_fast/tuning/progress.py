"""How far a measurement has come: a bar on a terminal, else a line per step."""

from __future__ import annotations

from typing import TextIO

__all__ = ["Progress"]

BAR_WIDTH = 24
CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Steps of a known number, told on ``stream``."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._begun = 0
        self._is_terminal = stream.isatty()

    def tell(self, text: str) -> None:
        """The next step begins."""
        done = min(self._begun, self._total)
        self._begun += 1
        if self._is_terminal:
            filled = BAR_WIDTH * done // self._total
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self._stream.write(f"{CLEAR_LINE}[{bar}] {100 * done // self._total:3d} %  {text}")
        else:
            self._stream.write(f"[{min(self._begun, self._total)}/{self._total}] {text}\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave a terminal as it was."""
        if self._is_terminal:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()
