"""The official Feature Management SDKs (VWO FME, Wingify FME) on top of a vwo_fast queue.

:func:`init` takes what ``vwo.init`` or ``wingify.init`` takes and returns the official
client.  Its decisions are its own; what it would send goes into the queue::

    from vwo_fast import fme

    client = fme.init({"sdk_key": "...", "account_id": 123456, "batch_event_data": {"events_per_request": 1000}})
    client.get_flag("feature", {"id": "user"})
    client.flush_events()                   # True only when VWO has accepted everything

Two places of the SDK are replaced while it builds itself, before its first event: the
queue of its batches, and the network client, whose event requests are handed to the
aggregator instead of a thread of the worker.  Settings are still fetched by the SDK.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

from vwo_fast._fme_seam import Seam, find, installed_brand
from vwo_fast._options import OPTIONS, in_short
from vwo_fast._sdk import Batching, check_arguments, open_queue
from vwo_fast._wire import EVENTS_PATH, sendable_headers, text_pairs
from vwo_fast.config import EVENTS_PER_REQUEST_DEFAULT
from vwo_fast.errors import ConfigError
from vwo_fast.queue import Producer, Queue
from vwo_fast.route import Route

__all__ = ["NetworkClient", "Transport", "init"]

logger = logging.getLogger(__name__)

FLUSH_TIMEOUT_SECONDS = 10.0
BATCH_PATH = "/server-side/batch-events-v2"
DEFAULT_HOST = "dev.visualwebsiteoptimizer.com"

_initialising = threading.RLock()


def init(
    options: Mapping[str, Any],
    *,
    queue: Queue | None = None,
    brand: str | None = None,
    flush_timeout: float | None = FLUSH_TIMEOUT_SECONDS,
) -> Any:
    """Initialise the official SDK with its transport replaced; the client, or None where the SDK returns None.

    ``options`` are those of ``vwo.init`` or ``wingify.init``; ``batch_event_data`` may also use the mobile SDKs'
    names.  Without it each event is sent at once, by the aggregator.
    ``queue``: the queue to use; without it one named ``fme-<account id>`` is opened.
    ``brand``: "vwo" or "wingify", whose hosts and SDK name are used; by default that of the installed distribution.
    ``flush_timeout``: seconds that ``flush_events()`` waits for the answers; None: as long as it takes.

    The SDK has one client per process: a second ``init`` for the same account and SDK key is fine, for
    another it raises ConfigError, because the SDK would send its events as those of the first.
    Raises ConfigError also for a wrong option of these or of batching, UnsupportedSdkError for an SDK that is
    absent or unknown.
    """
    check_arguments(queue, flush_timeout)
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"options: expected a dict, not {type(options).__name__}")
    options = dict(options or {})
    seam = find(_brand(brand, options))
    account_id, sdk_key = options.get("account_id"), options.get("sdk_key")
    if not account_id or not sdk_key:
        return seam.entry.init(options)
    with _initialising:
        _refuse_another_account(seam, account_id, sdk_key)
        opened, is_ours = _open(options, queue)
        attachment = _Attachment(seam, options, opened, flush_timeout)
        client = None
        try:
            with _hooked(seam, options, attachment):
                client = seam.entry.init(options)
            if attachment.error is not None:
                raise attachment.error
        finally:
            if is_ours and client is None:
                _forget()
                opened.close()
        return client


class Transport:
    """What takes the place of the SDK's batch event queue. ``enqueue`` never raises."""

    def __init__(self, producer: Producer, *, flush_timeout: float | None) -> None:
        self.producer = producer
        self.flush_timeout = flush_timeout
        self.enqueue: Callable[[Any], bool] = producer.enqueue

    def flush_and_clear_timer(self) -> bool:
        """What ``client.flush_events()`` returns: True only when all that was accepted has been accepted by VWO."""
        return self.producer.queue.flush(self.flush_timeout)

    @property
    def batch_queue(self) -> _Waiting:
        """The SDK logs the length of this when it flushes."""
        return _Waiting(self.producer.queue)


class _Waiting:
    """Events of the host that are accepted and not sent yet."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def __len__(self) -> int:
        with contextlib.suppress(Exception):
            return self._queue.stats().queued
        return 0


class NetworkClient:
    """The SDK's network client, except that event requests go to the aggregator."""

    def __init__(self, official: Any, producer: Producer, response_model: Callable[[], Any]) -> None:
        self._official = official
        self._producer = producer
        self._response_model = response_model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._official, name)

    def post(self, request: Any) -> Any:
        """Hand an event request over; the answer is 200 when the aggregator has it. Others the SDK sends itself."""
        path = request.get_path()
        if not path.endswith((EVENTS_PATH, BATCH_PATH)):
            return self._official.post(request)
        headers = {"Content-Type": "application/json", **sendable_headers(request.get_headers() or {})}
        query = text_pairs(request.get_query().items())
        body = request.get_body()
        response = self._response_model()
        # The SDK posts an empty batch for a flag that nobody is shown; there is nothing to send.
        if body == {"ev": []} or self._producer.enqueue_request("POST", path, query, headers, body):
            response.set_status_code(200)
        else:
            response.set_error("refused by the queue")
        return response


class _Attachment:
    """Takes the SDK's two places while it builds itself."""

    def __init__(self, seam: Seam, options: Mapping[str, Any], queue: Queue, flush_timeout: float | None) -> None:
        self._seam = seam
        self._options = options
        self._queue = queue
        self._flush_timeout = flush_timeout
        self.error: Exception | None = None
        """What went wrong here; the SDK's ``init`` swallows exceptions."""

    def hook(self, builder: Any) -> Any:
        """The builder with its two steps replaced."""
        set_network_manager = builder.set_network_manager

        def hooked_network_manager() -> Any:
            result = set_network_manager()
            self._guarded(self._attach_network)
            return result

        def hooked_batching() -> Any:
            self._guarded(lambda: self._attach_queue(builder))
            return builder

        builder.set_network_manager = hooked_network_manager
        builder.init_batching = hooked_batching
        return builder

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as exc:
            self.error = self.error or exc
            raise

    def _attach_network(self) -> None:
        manager = self._seam.network_manager.get_instance()
        producer = self._queue.producer(self._route(None))
        manager.client = NetworkClient(manager.client, producer, self._seam.response_model)
        # The SDK would start a thread per request only to wait for its answer.
        manager.should_use_threading = False

    def _attach_queue(self, builder: Any) -> None:
        client = getattr(builder, "client_instance", None) or builder.vwo_instance
        if self._queue.real_time or self._settings_manager().is_gateway_service_provided:
            client.flush_events = MethodType(lambda _: self._queue.flush(self._flush_timeout), client)
            return
        # The settings are absent when their fetch failed; then the SDK sends nothing either.
        prefix = client._settings.get_collection_prefix() if client._settings is not None else None
        route = self._route(prefix if isinstance(prefix, str) and prefix.strip() else None)
        transport = Transport(self._queue.producer(route), flush_timeout=self._flush_timeout)
        builder.batch_event_queue = client.batch_event_queue = transport
        builder.is_batching_used = True
        singleton = self._seam.client.get_instance()
        if singleton is not None and singleton is not client:
            _take_over(singleton.batch_event_queue, transport)
            singleton.batch_event_queue = transport

    def _settings_manager(self) -> Any:
        return self._seam.settings_manager.get_instance()

    def _route(self, prefix: str | None) -> Route:
        manager = self._settings_manager()
        host = getattr(manager, "events_hostname", manager.hostname)
        base_url = f"{manager.protocol}://{f'[{host}]' if ':' in host else host}"
        if manager.port:
            base_url += f":{manager.port}"
        is_redirected = manager.is_gateway_service_provided or manager.is_proxy_url_provided
        if not is_redirected and (host == DEFAULT_HOST or self._queue.settings.base_url != OPTIONS["base_url"].default):
            # A queue that was told where to send is believed more than the SDK's built-in host.
            base_url = ""
        return Route.fme(
            account_id=self._options["account_id"],
            sdk_key=self._options["sdk_key"],
            sdk_name=_sdk_name(manager, self._seam),
            sdk_version=self._seam.version,
            collection_prefix=prefix,
            base_url=base_url or None,
        )


def _sdk_name(manager: Any, seam: Seam) -> str:
    get_name = getattr(manager, "get_sdk_name", None)
    name: str = get_name() if get_name is not None else "vwo-fme-python-sdk"
    return name


@contextlib.contextmanager
def _hooked(seam: Seam, options: Mapping[str, Any], attachment: _Attachment) -> Iterator[None]:
    """While the SDK builds itself, every builder it makes or is given has our two steps.

    The SDK's option for a builder of one's own would do too, but what ``init`` is given is
    part of an event that the SDK sends, and that shall not tell of us.
    """
    given = options.get("wingifyBuilder") or options.get("vwoBuilder")
    if given is not None:
        attachment.hook(given)
    original = getattr(seam.core, seam.builder_name)
    setattr(seam.core, seam.builder_name, lambda options: attachment.hook(original(options)))
    try:
        yield
    finally:
        setattr(seam.core, seam.builder_name, original)


def _take_over(old: Any, transport: Transport) -> None:
    """Events that wait in the queue of an SDK initialised before vwo_fast came."""
    if old is None or isinstance(old, Transport):
        return
    old.clear_request_timer()
    waiting, old.batch_queue = old.batch_queue, []
    for payload in waiting:
        transport.enqueue(payload)


_made: tuple[tuple[object, ...], Queue] | None = None
"""The queue that an earlier ``init`` made, and what it was made for."""


def _open(options: Mapping[str, Any], queue: Queue | None) -> tuple[Queue, bool]:
    """The queue to use, and whether it was made now. One that an earlier ``init`` made is used again."""
    global _made
    gateway = options.get("gateway_service")
    given = options.get("batch_event_data")
    if isinstance(gateway, Mapping) and "url" in gateway and given is not None:
        logger.warning("batch_event_data has no effect: with a gateway service each event is sent at once")
        given = None
    batching = Batching.parse("batch_event_data", given)
    if batching.is_given and not batching.sealing and queue is None:
        # Here an empty dict means batching with the SDK's defaults.
        batching = replace(batching, sealing={"events_per_request": EVENTS_PER_REQUEST_DEFAULT})
    name = f"fme-{options['account_id']}"
    wanted = (name, batching.sealing, batching.callback)
    if queue is None and _made is not None and _made[0] == wanted:
        return _made[1], False
    opened, is_ours = open_queue(queue, name, batching)
    if is_ours:
        _made = (wanted, opened)
    return opened, is_ours


def _forget() -> None:
    global _made
    _made = None


def _brand(brand: str | None, options: Mapping[str, Any]) -> str:
    if brand is None and "is_via_vwo" in options:
        # This option is that of wingify.init, which speaks for both brands and needs no package vwo.
        return "wingify"
    if brand not in (None, "vwo", "wingify"):
        raise ConfigError(f"brand={in_short(brand)}: expected 'vwo' or 'wingify'")
    return brand or installed_brand()


def _refuse_another_account(seam: Seam, account_id: object, sdk_key: object) -> None:
    client = seam.client.get_instance()
    if client is None:
        return
    first = client.options
    if (str(first.get("account_id")), first.get("sdk_key")) != (str(account_id), sdk_key):
        raise ConfigError(
            f"account_id={account_id!r}: this process has an FME client of account {first.get('account_id')} already "
            "(or of another sdk_key), and the SDK would send all events as that one's; use one process per account"
        )
