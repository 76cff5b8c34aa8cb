"""The doorbell: one empty message, which wakes an aggregator that sleeps.

It is all that most workers ever say, so it goes over a plain socket: libzmq would
bring two threads and two megabytes into each of them.  What needs no answer may be
said the same way.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from vwo_fast._log import get_logger
from vwo_fast._zmtp import frame, hello

if TYPE_CHECKING:
    import socket

__all__ = ["ENDPOINT", "Doorbell"]

logger = get_logger(__name__)

ENDPOINT = "ctl"

_HELLO = hello(b"DEALER")
_RING = frame(b"")
_READ_BYTES = 1 << 14


class Doorbell:
    """Wakes the aggregator. Any thread of one process may ring; it never waits."""

    _socket: socket.socket | None = None

    def __init__(self, folder: Path) -> None:
        # Now, before the fork of a server that preloads, and not in the request that rings first.
        import socket

        self._path = str(folder / ENDPOINT)
        self._new_socket = socket.socket
        self._family, self._kind = socket.AF_UNIX, socket.SOCK_STREAM
        # An embedded interpreter may not have SIGPIPE ignored.
        self._flags = getattr(socket, "MSG_NOSIGNAL", 0)
        # Re-entrant: a signal handler that enqueues may interrupt a ring of its own thread.
        self._lock = threading.RLock()

    def ring(self) -> None:
        """Send the empty message. A socket that takes no more is fine: it is full of rings."""
        # Where nobody hears it: the aggregator looks at the lanes every second without being rung for.
        self._deliver(_RING)

    def say(self, message: bytes) -> bool:
        """Send a message whose answer nobody waits for. False: there is nobody who listens now."""
        return self._deliver(frame(message), hears=True)

    def _deliver(self, data: bytes, *, hears: bool = False) -> bool:
        with self._lock:
            # Twice: the connection may have been to an aggregator that is gone, or that needed the room.
            for _ in range(2):
                try:
                    to = self._connected()
                    if hears:
                        _take_in(to)
                    self._send(to, data)
                except BlockingIOError:
                    # It is full of what was said before.
                    return self._socket is not None
                except OSError as exc:
                    logger.debug("message to the aggregator not sent: %s", exc)
                    self.abandon()
                else:
                    return True
        return False

    def _connected(self) -> socket.socket:
        if self._socket is None:
            made = self._new_socket(self._family, self._kind)
            try:
                made.setblocking(False)
                made.connect(self._path)
                self._send(made, _HELLO)
            except BaseException:
                made.close()
                raise
            self._socket = made
        return self._socket

    def _send(self, to: socket.socket, data: bytes) -> None:
        if to.send(data, self._flags) != len(data):
            raise OSError("half a message was taken")

    def close(self) -> None:
        """No ring comes after this one."""
        with self._lock:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the connection, without the lock: in a child, a thread that it does not have may hold that."""
        made, self._socket = self._socket, None
        if made is not None:
            made.close()

    def __del__(self) -> None:
        # An owner that a process forgets is not closed, and the socket must not warn of it.
        self.abandon()


def _take_in(connection: socket.socket) -> None:
    """Answers that were not waited for would fill the socket. Raises OSError when the other end is gone."""
    try:
        while connection.recv(_READ_BYTES):
            pass
    except BlockingIOError:
        return
    raise ConnectionResetError("closed by the aggregator")
