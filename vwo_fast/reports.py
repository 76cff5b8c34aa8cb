"""Calling ``flush_callback``: one daemon thread in the process that registered it.

The thread only listens.  What VWO answered has been decided, counted and released
by the aggregator before a report is sent, so a callback that is slow, raises or
never returns can neither delay nor repeat a delivery.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vwo_fast._lane import Control
from vwo_fast._log import get_logger
from vwo_fast.client import dealer
from vwo_fast.counters import ControlCounter
from vwo_fast.errors import DeliveryError, QueueError

if TYPE_CHECKING:
    import zmq

__all__ = ["FlushCallback", "ReportListener"]

logger = get_logger(__name__)

FlushCallback = Callable[[DeliveryError | None, list[dict[str, Any]]], object]

POLL_MS = 250
CONNECT_RETRY_SECONDS = 1.0
REPORT_BYTES_MAX = 64 << 20


class ReportListener:
    """Registers for the reports of one owner and hands each to the callback."""

    def __init__(self, folder: Path, control: Control, owner: int, callback: FlushCallback) -> None:
        self._folder = folder
        self._control = control
        self._owner = owner
        self._callback = callback
        self._stop = threading.Event()
        self._done = threading.Condition()
        self._handled = 0
        self._thread = threading.Thread(target=self._run, name="vwo_fast-flush_callback", daemon=True)
        self._thread.start()

    def wait(self, reports: int, timeout: float) -> None:
        """Wait until this many reports have been handed to the callback, at most ``timeout`` seconds."""
        if threading.current_thread() is self._thread:
            return
        with self._done:
            self._done.wait_for(lambda: self._handled >= reports, min(timeout, threading.TIMEOUT_MAX))

    def stop(self) -> None:
        """End the thread; it is not waited for, as a callback may take long."""
        self._stop.set()

    def _run(self) -> None:
        import zmq

        while not self._stop.is_set():
            try:
                with dealer(self._folder, answer_bytes_max=REPORT_BYTES_MAX) as socket:
                    self._listen(socket)
            except QueueError:
                # Until there are descriptors for a socket.
                self._stop.wait(CONNECT_RETRY_SECONDS)
            except zmq.ZMQError as exc:
                logger.error("flush_callback of %s is no longer called: %s", self._folder.name, exc)
                return

    def _listen(self, socket: zmq.Socket[bytes]) -> None:
        import msgpack
        import zmq

        registered = -1
        while not self._stop.is_set():
            # An aggregator that started anew knows no listeners.
            starts = self._control.counter(ControlCounter.STARTS)
            if starts != registered:
                registered = starts
                socket.send(msgpack.packb({"op": "reports", "id": 0, "owner": self._owner}), zmq.NOBLOCK)
            if socket.poll(POLL_MS):
                self._handle(socket.recv(zmq.NOBLOCK))

    def _handle(self, data: bytes) -> None:
        try:
            import json

            import msgpack

            report = msgpack.unpackb(data, strict_map_key=False)
            if "report" not in report:
                return
            events = [json.loads(event) for event in report["events"]]
            error = None
            if report["outcome"] != "delivered":
                error = DeliveryError(
                    report["message"],
                    status=report["status"],
                    attempts=report["attempts"],
                    outcome=report["outcome"],
                )
        except Exception:
            logger.exception("a delivery report could not be read")
            return
        try:
            self._callback(error, events)
        except BaseException:
            # SystemExit too: it would end this thread, and no later report would be told.
            logger.exception("flush_callback raised; the batch stays as it was settled")
        finally:
            with self._done:
                self._handled += 1
                self._done.notify_all()
