"""What an application holds: :class:`Queue` and :class:`Producer`.

Nothing here runs on the usual way of an event: ``Producer.enqueue`` is compiled,
and what it needs beside is in ``owner``.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from pathlib import Path
from typing import Any

from vwo_fast import _batch, _lane
from vwo_fast._log import get_logger
from vwo_fast._options import in_short, seconds_to_wait
from vwo_fast._wire import fme_realtime_request, is_impression
from vwo_fast.client import Link, flush
from vwo_fast.config import load_settings
from vwo_fast.errors import ConfigError, QueueError
from vwo_fast.folder import Membership
from vwo_fast.owner import Owner
from vwo_fast.reports import FlushCallback
from vwo_fast.route import Route, route_key
from vwo_fast.stats import Stats, read_stats

__all__ = ["Producer", "Queue"]

logger = get_logger(__name__)

GONE_NAP_SECONDS = 0.005


class Producer(_lane.Producer):
    """Puts the events of one route into the queue. Get it from :meth:`Queue.producer`.

    ``enqueue(event)`` takes the dict that the official SDK gives to its own queue and
    returns True once the event is safe from the death of this process.  It never raises
    and never waits (unless ``on_full="block"`` asks for it); False means refused, counted
    and logged with the reason.
    """

    def __init__(self, queue: Queue, owner: Owner, route: Route, key: int) -> None:
        real_time = queue.real_time
        shape, kind = _lane.SHAPE_PLAIN, _lane.KIND_EVENT
        if route.sdk == "fullstack":
            shape = _lane.SHAPE_PLAIN if real_time else _lane.SHAPE_FULLSTACK
            kind = _lane.KIND_IMPRESSION if real_time else _lane.KIND_EVENT
        super().__init__(owner, key, shape, kind)
        self.queue = queue
        self.route = route
        self._requests = _lane.Producer(owner, key, _lane.SHAPE_PLAIN, _lane.KIND_REQUEST)
        self._refuse = owner.refuse

    def enqueue_request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: dict[str, str],
        body: dict[str, Any] | None,
    ) -> bool:
        """Accept one event that travels alone, as this HTTP request: GET or POST, a path, texts. Never raises."""
        text, visitor = None, 0
        try:
            head = _request_head(method, path, query, headers)
            if body is not None:
                packed = _lane.pack(body)
                text, visitor = _batch.to_json(packed).decode("ascii"), _visitor_of(body, packed)
        except ValueError as exc:
            self._refuse(_lane.REASON_NOT_JSON, str(exc))
            return False
        except Exception as exc:
            self._refuse(_lane.REASON_BAD_IMPRESSION, f"not a request ({type(exc).__name__}: {exc})")
            return False
        return self._requests.enqueue([*head, text, visitor])


class _FullStackRealTimeProducer(Producer):
    """Without batching the aggregator makes a request of each impression, so here it is seen that it is one."""

    def enqueue(self, event: Any, /) -> bool:
        if not is_impression(event):
            self._refuse(_lane.REASON_BAD_IMPRESSION, "its url ends in none of track-user, track-goal, push")
            return False
        return super().enqueue(event)


class _FmeRealTimeProducer(Producer):
    """Without batching, each FME event is a request of its own, as the SDK would send it."""

    def enqueue(self, event: Any, /) -> bool:
        try:
            method, path, query, headers, body = fme_realtime_request(self.route, event)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            self._refuse(_lane.REASON_BAD_IMPRESSION, f"not an FME payload ({type(exc).__name__})")
            return False
        return self.enqueue_request(method, path, query, headers, body)


class Queue:
    """One crash-safe queue per host, shared by every process that opens it under the same name.

    Making a Queue opens no network connection, starts no thread and no process; the
    aggregator is launched by the first event.  A Queue may be made before a fork: each
    child gets a lane of its own at its first event.

    ``events_per_request``: 1 to 5000 events; ``request_time_interval``: seconds, at least 1.
    With neither, each event is sent at once.  ``flush_callback(err, events)`` is called once
    per batch that holds events of this process, on a thread of its own; ``err`` is None when
    VWO accepted it, else a :class:`~vwo_fast.errors.DeliveryError`.
    ``run_dir``: folder in shared memory; ``spool_dir``: folder on disk; ``base_url``: where the
    requests go.  All options and their ranges: docs/configuration.md.

    Raises ConfigError for a wrong option, or when the queue is in use with other settings;
    QueueError when its folder cannot be used.
    """

    def __init__(
        self,
        name: str,
        *,
        events_per_request: int | None = None,
        request_time_interval: float | None = None,
        flush_callback: FlushCallback | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> None:
        options.update(
            events_per_request=events_per_request,
            request_time_interval=request_time_interval,
            run_dir=run_dir,
            spool_dir=spool_dir,
            base_url=base_url,
        )
        given = {option: value for option, value in options.items() if value is not None}
        self.settings = load_settings(name, **given)
        if flush_callback is not None and not callable(flush_callback):
            raise ConfigError(f"flush_callback={in_short(flush_callback)}: expected a callable")
        self._member = Membership(self.settings)
        link = Link(
            self._member.folder,
            self.settings.queue,
            claim=self._member.claim_launch,
            auto=self.settings.aggregator == "auto",
            python=str(self.settings.python) if self.settings.python else None,
        )
        self._owner = Owner(self._member, flush_callback, link)
        if flush_callback is not None:
            # Its listener needs it: now, before the fork of a server that preloads, and not in the first request.
            import zmq  # noqa: F401
        self._link = link
        self._finalizer = weakref.finalize(self, _at_exit, self._owner)

    @property
    def name(self) -> str:
        return self.settings.queue

    @property
    def folder(self) -> Path:
        """The queue's folder in shared memory."""
        return self._member.folder

    @property
    def real_time(self) -> bool:
        """Whether each event is sent at once, because neither count nor interval was given."""
        return self.settings.real_time

    def producer(self, route: Route) -> Producer:
        """A producer for the events of ``route``.

        Raises ConfigError for what is no route, QueueError when it cannot be stored.
        """
        if not isinstance(route, Route):
            raise ConfigError(f"route: expected a vwo_fast.Route, not {type(route).__name__}")
        encoded = route.encode()
        key = route_key(encoded)
        try:
            self._owner.store_route(key, encoded)
        except OSError as exc:
            raise QueueError(f"route cannot be stored in {self._member.folder}: {exc}") from exc
        alone = {"fme": _FmeRealTimeProducer, "fullstack": _FullStackRealTimeProducer}
        kind = alone[route.sdk] if self.real_time else Producer
        return kind(self, self._owner, route, key)

    def flush(self, timeout: float | None = 10) -> bool:
        """Send everything now and wait for the answers, at most ``timeout`` seconds; None: as long as it takes.

        True only if every event that any process had put into this queue before the call
        has been accepted by VWO.  False: not yet, or some were refused by VWO; nothing is lost by it.
        Raises ConfigError for a timeout that is none.
        """
        deadline = time.monotonic() + seconds_to_wait("timeout", timeout)
        self._owner.see_lane()
        while self._member.is_gone:
            # An aggregator in a new folder would know nothing of what the one in the old folder still saves.
            if time.monotonic() >= deadline:
                return False
            time.sleep(GONE_NAP_SECONDS)
            self._owner.see_lane()
        try:
            answer = flush(self._link, max(0.0, deadline - time.monotonic()), self._owner.owner_id)
        except (QueueError, OSError) as exc:
            logger.error("flush of queue %r: %s", self.name, exc)
            return False
        if answer is None:
            return False
        listener = self._owner.listener
        if listener is not None:
            listener.wait(int(answer.get("reports", 0)), max(0.0, deadline - time.monotonic()))
        return bool(answer.get("ok"))

    def stats(self) -> Stats:
        """What has become of the events, counted over all processes of the queue."""
        return read_stats(self._member.folder)

    def close(self) -> None:
        """Give the lane back; events accepted before are delivered by the aggregator.

        After it every ``enqueue`` of this queue's producers is refused.  It does not wait for
        deliveries: call :meth:`flush` first to know their outcome.
        """
        if self._finalizer.detach() is not None:
            self._owner.close()
            self._member.leave()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _request_head(method: object, path: object, query: Any, headers: Any) -> list[Any]:
    """What the aggregator needs beside the body. Raises TypeError for what no request can be made of."""
    if method not in ("GET", "POST"):
        raise TypeError("the method is neither GET nor POST")
    if not isinstance(path, str) or not path.startswith("/"):
        raise TypeError("the path does not begin with /")
    try:
        pairs = [[name, value] for name, value in query]
        fields = dict(headers.items())
        # It fails for what is no text, and for a lone surrogate, which has no place in a request.
        "".join([path, *(text for pair in (*pairs, *fields.items()) for text in pair)]).encode()
    except Exception:
        raise TypeError("query and headers: expected pairs of texts that UTF-8 can carry") from None
    return [method, path, pairs, fields]


def _visitor_of(body: dict[str, Any], packed: bytes) -> int:
    """Visitor of a request. The events of one that is a batch come from one call, so they have one visitor."""
    batched = body.get("ev")
    return _batch.visitor(_lane.pack(batched[0]) if isinstance(batched, list) and batched else packed)


def _at_exit(owner: Owner) -> None:
    """The last chance of this process to see that somebody will read its lane."""
    with contextlib.suppress(Exception):
        owner.close()
