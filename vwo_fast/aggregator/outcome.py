"""What a reply, or the lack of one, means for the batch that was sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from enum import Enum, auto

__all__ = ["Reply", "Verdict", "judge", "parse_retry_after", "server_clock"]

RETRY_AFTER_MAX = 3600.0

BAD_REQUEST = 400

_SPLIT = frozenset({BAD_REQUEST, 413})
_HELD = frozenset({401, 403})
_SERVER_AWAY = frozenset({408, 425, 429})
_GATEWAY_LOST_IT = frozenset({502, 504})
_PAGES = ("<html", "<!doctype html", "<head", "<title")
_ASKS_FOR = "SSL certificate"


class Verdict(Enum):
    """What to do next."""

    DELIVERED = auto()
    REFUSED = auto()
    """VWO refuses these very events: split the batch; one event alone becomes a dead letter."""
    HELD = auto()
    """VWO refuses the account or key: the route waits, the others go on."""
    ROUTE_FAILED = auto()
    """An answer that says nothing about the events: try again later, the other routes go on."""
    SERVER_FAILED = auto()
    """The server is away or overloaded: one request at a time until it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back. ``status`` is None when no answer came.

    ``error``: what went wrong, without URL, key or visitor.  ``may_have_arrived``: the
    request was sent, so without an answer its outcome is unknown.  ``unsendable``: the
    request itself cannot be put on a wire.
    """

    status: int | None = None
    retry_after: float | None = None
    excerpt: str = ""
    error: str | None = None
    may_have_arrived: bool = False
    unsendable: bool = False

    @property
    def message(self) -> str:
        """One line for people."""
        if self.is_page:
            hint = "; a client certificate is asked for: see client_cert" if _ASKS_FOR in self.excerpt else ""
            return f"status {self.status} with a page for people, perhaps of a proxy in front of VWO{hint}"
        if self.status is not None:
            return f"VWO answered with status {self.status}"
        return self.error or "no answer"

    @property
    def is_page(self) -> bool:
        """Whether this is a refusal that whatever stands in front of VWO may have made up, whatever the events are.

        nginx answers so, with a page for people, to a client without a certificate.
        """
        return self.status == BAD_REQUEST and self.excerpt.lstrip().lower().startswith(_PAGES)

    @property
    def is_unknown(self) -> bool:
        """The events may have been accepted, and nobody can tell."""
        if self.status is None:
            return self.may_have_arrived
        # A gateway's word for an answer that it did not get itself.
        return self.status in _GATEWAY_LOST_IT


def judge(reply: Reply) -> Verdict:
    """The verdict for a reply."""
    status = reply.status
    if status is None:
        return Verdict.REFUSED if reply.unsendable else Verdict.SERVER_FAILED
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status in _SPLIT:
        return Verdict.REFUSED
    if status in _HELD:
        return Verdict.HELD
    if status in _SERVER_AWAY or status >= 500:
        return Verdict.SERVER_FAILED
    return Verdict.ROUTE_FAILED


def server_clock(date: str | None, wall_clock: float) -> float:
    """The server's own time, from its Date header; else ours, which may be off by hours."""
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return wall_clock


def parse_retry_after(value: str | None, wall_clock: float) -> float | None:
    """Seconds to wait, from seconds or an HTTP date; None when there is none that can be read."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Digits beyond any sensible wait need not become a number.
        return RETRY_AFTER_MAX if len(text) > 9 else min(float(text), RETRY_AFTER_MAX)
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = date.timestamp() - wall_clock
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX)
