"""What both adapters share: knowing the installed SDK, and asking for a flush without waiting."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgpack

from vwo_fast._options import in_short, seconds_to_wait
from vwo_fast.client import dealer
from vwo_fast.config import Settings, load_settings
from vwo_fast.doorbell import Doorbell
from vwo_fast.errors import ConfigError, QueueError, UnsupportedSdkError
from vwo_fast.queue import Queue

__all__ = [
    "Batching",
    "FlushRequest",
    "check",
    "check_arguments",
    "installed_version",
    "open_queue",
    "unsupported",
]

logger = logging.getLogger(__name__)

_FLUSH: bytes = msgpack.packb({"op": "flush", "id": 0, "owner": 0})

_SEALING = {
    "events_per_request": "events_per_request",
    "request_time_interval": "request_time_interval",
    "batch_min_size": "events_per_request",
    "batch_upload_time_interval": "request_time_interval",
}
"""The setting that each spelling means, for what decides when a batch is sealed."""


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def unsupported(distribution: str, version: str | None, reason: str, supported: str) -> UnsupportedSdkError:
    """The error to raise: what is installed, why it cannot be used, what could be."""
    found = f"{distribution} {version}" if version else f"{distribution} (not installed)"
    return UnsupportedSdkError(f"{found} is not supported: {reason}; supported: {supported}")


def check(function: object, *, names: tuple[str, ...] = (), parameters: tuple[str, ...] = ()) -> str | None:
    """Why ``function`` is not the seam it should be, or None when it is.

    ``names``: attributes that its code must use; ``parameters``: what it must be callable with.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return "is absent"
    missing = [name for name in names if name not in code.co_names]
    if missing:
        return f"does not use {', '.join(missing)}"
    accepted = inspect.signature(function).parameters  # type: ignore[arg-type]
    missing = [name for name in parameters if name not in accepted]
    return f"does not take {', '.join(missing)}" if missing else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """What the dict that turns batching on says, checked."""

    option: str
    """The name under which the dict was given."""
    is_given: bool
    sealing: Mapping[str, Any]
    callback: Any

    @classmethod
    def parse(cls, option: str, value: object) -> Batching:
        """Raises ConfigError for a value that is no dict, or an option in it that is unknown."""
        if value is None:
            return cls(option=option, is_given=False, sealing={}, callback=None)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{option}={in_short(value)}: expected a dict")
        known = [*_SEALING, "flush_callback"]
        for name in value:
            if name not in known:
                raise ConfigError(f"{option}: unknown option {name!r}; expected {', '.join(known)}")
        callback = value.get("flush_callback")
        if callback is not None and not callable(callback):
            raise ConfigError(f"{option}: flush_callback={in_short(callback)}: expected a callable")
        sealing = {name: value[name] for name in _SEALING if value.get(name) is not None}
        return cls(option=option, is_given=True, sealing=sealing, callback=callback)


def open_queue(queue: Queue | None, name: str, batching: Batching) -> tuple[Queue, bool]:
    """The queue that an adapter uses, and whether it was made for it.

    A queue that was given keeps its own settings; ``batching`` may only say the same.
    """
    if queue is None:
        return Queue(name, flush_callback=batching.callback, **batching.sealing), True
    option = batching.option
    if batching.callback is not None:
        raise ConfigError(f"{option}: with queue= given, flush_callback belongs to it: Queue(flush_callback=...)")
    if batching.is_given and queue.real_time:
        raise ConfigError(f"{option} is given, but queue {queue.name!r} sends in real time")
    if batching.sealing:
        wanted = load_settings(queue.name, **batching.sealing)
        for field in {_SEALING[spelling] for spelling in batching.sealing}:
            asked, has = getattr(wanted, field), getattr(queue.settings, field)
            if asked != has:
                raise ConfigError(f"{option}: {field}={asked!r}, but queue {queue.name!r} has {field}={has!r}")
    return queue, False


def check_arguments(queue: Queue | None, flush_timeout: float | None) -> None:
    """Those of an adapter's entry. Raises ConfigError: a wrong one would be found in the middle of a request."""
    if queue is not None and not isinstance(getattr(queue, "settings", None), Settings):
        raise ConfigError(f"queue={in_short(queue)}: expected a vwo_fast.Queue")
    seconds_to_wait("flush_timeout", flush_timeout)


class FlushRequest:
    """Asks the aggregator to flush and does not wait for the answer. Nothing is started for it."""

    def __init__(self, queue: Queue) -> None:
        self._folder = queue.folder
        self._callers: dict[int, _Caller] = {}

    def __call__(self) -> bool:
        """True when the request is on its way."""
        pid = os.getpid()
        caller = self._callers.get(pid)
        if caller is None:
            caller = self._callers.setdefault(pid, _Caller(self._folder))
        return caller.ask()


class _Caller:
    """One process that asks. Its parent's connections it leaves alone, and its lock, which may be held for ever."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bell = Doorbell(folder)
        self._lock = threading.RLock()
        self._waiting: contextlib.ExitStack | None = None

    def ask(self) -> bool:
        with self._lock:
            if self._waiting is not None:
                # This request says what that one was to say.
                self._waiting.close()
                self._waiting = None
            return self._bell.say(_FLUSH) or self._leave_waiting()

    def _leave_waiting(self) -> bool:
        """Nobody listens yet: ZeroMQ keeps the request until somebody does."""
        import zmq

        waiting = contextlib.ExitStack()
        try:
            waiting.enter_context(dealer(self._folder)).send(_FLUSH, zmq.NOBLOCK)
        except (QueueError, zmq.ZMQError) as exc:
            waiting.close()
            logger.warning("flush was not asked for: %s", exc)
            return False
        self._waiting = waiting
        return True
