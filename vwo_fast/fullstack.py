"""The official FullStack SDK (``vwo-python-sdk``) on top of a vwo_fast queue.

:func:`launch` takes what ``vwo.launch`` takes and returns the official instance.
Its decisions are its own; what it would send goes into the queue::

    from vwo_fast import fullstack

    client = fullstack.launch(settings_file, batch_events={"events_per_request": 1000, "request_time_interval": 60})
    client.activate("campaign", "user")
    client.flush_events(mode="sync")        # True only when VWO has accepted everything
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import MethodType
from typing import Any

from vwo_fast._options import in_short
from vwo_fast._sdk import (
    Batching,
    FlushRequest,
    check,
    check_arguments,
    installed_version,
    open_queue,
    unsupported,
)
from vwo_fast._wire import fullstack_event_request, fullstack_impression
from vwo_fast.config import Settings, load_settings
from vwo_fast.errors import ConfigError
from vwo_fast.queue import Producer, Queue
from vwo_fast.route import Route

__all__ = ["Dispatcher", "launch"]

DISTRIBUTION = "vwo-python-sdk"
SUPPORTED = "vwo-python-sdk 1.68"
FLUSH_TIMEOUT_SECONDS = 10.0

# The SDK keeps usage statistics and the collection prefix of the instance launched last; between
# its launch and our reading them no other launch may come.
_launching = threading.Lock()


def launch(
    settings_file: str,
    logger: Any = None,
    user_storage: Any = None,
    is_development_mode: bool = False,
    *,
    batch_events: dict[str, Any] | None = None,
    queue: Queue | None = None,
    keep_properties: bool = False,
    flush_timeout: float | None = FLUSH_TIMEOUT_SECONDS,
    **kwargs: Any,
) -> Any:
    """Launch the official SDK with its dispatcher replaced; the instance, or None where ``vwo.launch`` returns None.

    All parameters of ``vwo.launch`` mean what they mean there.

    ``batch_events``: as there, ``flush_callback`` included, or with the mobile SDKs' names; without it each
    event is sent at once, by the aggregator.
    ``queue``: the queue to use; without it one named ``fullstack-<account id>`` is opened.
    ``keep_properties``: with batching and event-architecture settings, post each event to ``/events/t``,
    so that custom properties arrive; the official batch endpoint has no place for them.
    ``flush_timeout``: seconds that ``flush_events(mode="sync")`` and ``set_opt_out()`` wait for VWO's answers;
    None: as long as it takes.

    In development mode nothing is replaced and no queue is opened, because nothing is sent.

    Raises ConfigError for a wrong option of these or of batching, UnsupportedSdkError for an SDK that is
    absent or unknown.
    """
    official = _official()
    check_arguments(queue, flush_timeout)
    if not isinstance(keep_properties, bool):
        raise ConfigError(f"keep_properties={in_short(keep_properties)}: expected True or False")
    kwargs.update(logger=logger, user_storage=user_storage, is_development_mode=is_development_mode)
    # An empty dict means here, as for the SDK, no batching.
    batching = Batching.parse("batch_events", batch_events or None)
    name = f"fullstack-{_account_id(settings_file)}"
    if batching.is_given and queue is None and load_settings(name, **batching.sealing).real_time:
        raise ConfigError("batch_events: expected events_per_request or request_time_interval in it")
    if is_development_mode:
        plan = queue.settings if queue is not None else load_settings(name, **batching.sealing)
        return official.launch(settings_file, batch_events=_official_batching(plan), **kwargs)
    if not official.is_valid(settings_file):
        return official.launch(settings_file, **kwargs)
    opened, is_ours = open_queue(queue, name, batching)
    instance = None
    try:
        instance, stats = official.launch_alone(settings_file, _official_batching(opened.settings), kwargs)
        if instance is not None:
            _attach(official, instance, opened, stats, keep_properties, flush_timeout)
    finally:
        if is_ours and not isinstance(getattr(instance, "event_dispatcher", None), Dispatcher):
            opened.close()
    return instance


class Dispatcher:
    """What takes the place of the SDK's event dispatcher."""

    def __init__(self, producer: Producer, *, flush_timeout: float | None) -> None:
        self.producer = producer
        self.flush_timeout = flush_timeout
        self._request_flush = FlushRequest(producer.queue)
        self.dispatch: Callable[[Any], bool] = producer.enqueue
        """Accept one classic impression. Never raises."""
        if producer.queue.real_time:
            self.dispatch = self._dispatch_alone

    def _dispatch_alone(self, impression: Any) -> bool:
        with suppress(ValueError):
            return self.producer.enqueue(fullstack_impression(self.producer.route, impression))
        return self.producer.enqueue(impression)  # it is refused there, counted and logged

    def dispatch_events(self, params: dict[str, Any], impression: dict[str, Any]) -> bool:
        """Accept one event of the event architecture."""
        return self.producer.enqueue_request(*fullstack_event_request(self.producer.route, params, impression))

    def flush_queue(self, manual: bool = False, mode: str = "async") -> bool:
        """``mode="async"``: ask for a flush, True when asked. Else wait for the outcome, True when all was accepted."""
        if mode == "async":
            return self._request_flush()
        return self.producer.queue.flush(self.flush_timeout)


def _official_batching(settings: Settings) -> dict[str, Any] | None:
    """What the SDK is told, so that it knows of batching: for its statistics and the way its calls take.

    The values are checked already and spelt in its way, so that they pass its own check.
    """
    if settings.real_time:
        return None
    return {
        "events_per_request": settings.events_per_request,
        "request_time_interval": settings.request_time_interval,
    }


def _attach(
    official: _Official,
    instance: Any,
    queue: Queue,
    stats: dict[str, int],
    keep_properties: bool,
    flush_timeout: float | None,
) -> None:
    settings = instance.settings_file
    prefix = settings.get("collectionPrefix")
    route = Route.fullstack(
        account_id=settings["accountId"],
        sdk_key=settings.get("sdkKey"),
        sdk_name=official.sdk_name,
        sdk_version=official.sdk_version,
        collection_prefix=prefix if isinstance(prefix, str) and prefix else None,
        usage_stats=stats,
    )
    instance.event_dispatcher = Dispatcher(queue.producer(route), flush_timeout=flush_timeout)
    if keep_properties and instance.is_event_arch_enabled:
        # The SDK takes the classic way, which drops properties, whenever this is set.
        instance.is_event_batching_enabled = False
    instance.flush_events = MethodType(_flush_events, instance)


def _flush_events(instance: Any, mode: str = "async") -> bool:
    """``flush_events`` of the instance; the official one says True whatever came of it."""
    if instance.is_opted_out:
        return False
    flushed: bool = instance.event_dispatcher.flush_queue(manual=True, mode=mode)
    return flushed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Official:
    """The parts of the installed SDK that are used here."""

    launch: Any
    usage_stats: Any
    is_valid: Any
    """Whether a settings file is one."""
    sdk_name: str
    sdk_version: str

    def launch_alone(
        self, settings_file: str, batching: dict[str, Any] | None, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, int]]:
        """The official instance, or None, and the usage statistics collected for it."""
        with _launching:
            instance = self.launch(settings_file, batch_events=batching, **kwargs)
            return instance, dict(self.usage_stats.get_usage_stats())


def _official() -> _Official:
    """The installed FullStack SDK, its seam checked. Raises UnsupportedSdkError."""
    version = installed_version(DISTRIBUTION)
    try:
        problem = _problem()
        if problem is None:
            constants = import_module("vwo.constants.constants")
            return _Official(
                launch=import_module("vwo").launch,
                usage_stats=import_module("vwo.services.usage_stats_manager").UsageStats,
                is_valid=import_module("vwo.helpers.validate_util").is_valid_settings_file,
                sdk_name=constants.SDK_NAME,
                sdk_version=constants.SDK_VERSION,
            )
    except (ImportError, AttributeError) as exc:
        problem = f"its parts are not where they should be ({exc})"
        if getattr(exc, "name", None) == "pkg_resources":
            problem = "it imports pkg_resources, so it needs setuptools<81 beside it"
    raise unsupported(DISTRIBUTION, version, problem, SUPPORTED)


def _problem() -> str | None:
    """The first part of the installed SDK that is not as expected."""
    dispatcher = import_module("vwo.event.event_dispatcher").EventDispatcher
    stats = import_module("vwo.services.usage_stats_manager").UsageStats
    instance = import_module("vwo.vwo").VWO
    checks = {
        "launch": check(
            import_module("vwo").launch,
            names=("collect_usage_stats", "VWO"),
            parameters=("settings_file", "logger", "user_storage", "is_development_mode", "kwargs"),
        ),
        "VWO": check(
            instance.__init__, names=("event_dispatcher", "is_event_batching_enabled", "is_event_arch_enabled")
        ),
        "EventDispatcher.dispatch": check(dispatcher.dispatch, parameters=("impression",)),
        "EventDispatcher.dispatch_events": check(dispatcher.dispatch_events, parameters=("params", "impression")),
        "EventDispatcher.flush_queue": check(dispatcher.flush_queue, parameters=("manual", "mode")),
        "UsageStats.get_usage_stats": check(stats.get_usage_stats),
        "flush_events": check(import_module("vwo.api.flush_events")._flush_events, names=("flush_queue",)),
        "set_opt_out": check(
            import_module("vwo.api.set_opt_out")._set_opt_out, names=("flush_queue", "is_opted_out", "event_dispatcher")
        ),
    }
    for api in ("activate", "is_feature_enabled", "push"):
        function = getattr(import_module(f"vwo.api.{api}"), f"_{api}")
        checks[api] = check(function, names=("event_dispatcher", "dispatch", "dispatch_events"))
    broken = [f"{name} {why}" for name, why in checks.items() if why]
    return broken[0] if broken else None


def _account_id(settings_file: object) -> object:
    """Account of a settings file, None when it is not one: the official launch then says what is wrong with it."""
    try:
        account_id: object = json.loads(settings_file)["accountId"]  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError):
        return None
    return account_id
