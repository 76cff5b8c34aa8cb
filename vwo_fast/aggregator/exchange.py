"""A request and its answer on one connection: watched, and without ceremony where it has been made before.

``requests`` and ``urllib3`` find proxies and certificates, open connections and make the first
request of each route; that takes them several times as long as the network.  Idea: what they
wrote is kept, and the next batch of the route goes out as the same bytes with another length, on
a connection that they have opened and keep.  Key invariant: whatever is not as simple as it
usually is (no connection open, an answer that is not whole at the first look) is left to them
and to ``http.client``.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any

import requests
import urllib3

from vwo_fast.aggregator.tls import Handshake, PoolTls

__all__ = ["Answer", "Recording", "progress", "watch"]

AT_ONCE_BYTES = 1 << 16
"""A body up to this size is copied behind its head, so that both are one call and one packet."""

ANSWER_BYTES = 1 << 16

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})(?=\r\n|$)")
_LENGTH_SENT = re.compile(rb"(?<=\r\nContent-Length: )\d+(?=\r\n)")
# What says in another way how long an answer is, or that it is the last one of its connection.
_NOT_SIMPLE = re.compile(rb"\r\n(?:transfer-encoding|content-encoding|connection:(?! *keep-alive(?:\r\n|$))| |\t)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. ``headers`` are not read of an answer that is simply a success."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Progress(threading.local):
    """How far the request of this thread has come."""

    is_sent = False
    """All of it was handed to the kernel. Before that no server can have taken it."""
    head: bytes | None = None
    """Its head, as the library wrote it."""
    pool: Any = None
    """Where its connection comes from."""


progress = _Progress()


class _Watched:
    """Mixed into a connection class: watches how it is opened, how a request goes out and how long its answer takes."""

    sock: socket.socket | None
    tls: PoolTls | None = None
    handshake: Handshake | None = None

    def connect(self) -> None:
        connect = super().connect  # type: ignore[misc]
        if self.tls is None:
            connect()
        else:
            self.handshake = self.tls.open(self, connect)

    def close(self) -> None:
        # What came after the first answer, if nothing came before.
        self._learn()
        super().close()  # type: ignore[misc]

    def _learn(self) -> None:
        if self.handshake is not None:
            self.handshake.learn(self.sock)

    def request(self, *args: Any, **kwargs: Any) -> None:
        progress.head = None
        super().request(*args, **kwargs)  # type: ignore[misc]
        progress.is_sent = True

    def send(self, data: Any) -> None:
        if progress.head is None and isinstance(data, bytes):
            progress.head = data
        # Without a socket, http.client opens one; urllib3 leaves it to that before its version 2.
        if isinstance(data, bytes) and self.sock is not None:
            _send_all(self.sock, data)
        else:
            super().send(data)  # type: ignore[misc]

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> HTTPResponse:
        return HTTPResponse(_AnswerSocket(sock, at_end=self._learn), *args, **kwargs)  # type: ignore[arg-type]


def _send_all(sock: socket.socket, data: bytes) -> None:
    """Send to the end. The timeout holds for each step: it limits how long nothing moves, not how long a body takes."""
    view = memoryview(data)
    while view:
        view = view[sock.send(view) :]


class _AnswerSocket:
    """What http.client wants of a socket in order to read an answer from it.

    ``start``: what was read of it. ``at_end`` is called when it has been read, while its thread has the connection.
    """

    def __init__(self, sock: socket.socket, start: bytes = b"", *, at_end: Callable[[], None] = lambda: None) -> None:
        self._sock = sock
        self._start = start
        self._at_end = at_end

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_AnswerStream(self._sock, self._start, self._at_end))


class _AnswerStream(io.RawIOBase):
    """Reads one answer within the socket's timeout as a whole, so that one which trickles does not hold its sender."""

    def __init__(self, sock: socket.socket, start: bytes, at_end: Callable[[], None]) -> None:
        self._sock = sock
        self._start = start
        self._at_end = at_end
        self._raw = sock.makefile("rb", buffering=0)
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._start:
            count = min(len(buffer), len(self._start))
            buffer[:count], self._start = self._start[:count], self._start[count:]
            return count
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._at_end()
        self._raw.close()
        super().close()


def watch(manager: Any) -> None:
    """Let a pool manager make watched connections. May be called again for the same one."""
    found = {}
    for scheme, pool in manager.pool_classes_by_scheme.items():
        connection = pool.ConnectionCls
        if not issubclass(connection, _Watched):
            connection = type(connection.__name__, (_Watched, connection), {})
            pool = type(pool.__name__, (_Pool, pool), {"ConnectionCls": connection})
        found[scheme] = pool
    manager.pool_classes_by_scheme = found


class _Pool:
    """Mixed into a pool class: lends a connection that is open, and has its connections share what TLS needs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        proxy = getattr(self, "proxy", None)
        # To a proxy that speaks TLS itself there are two contexts per connection, which are left to urllib3.
        is_double = proxy is not None and proxy.scheme == "https"
        self._tls = PoolTls() if getattr(self, "scheme", "") == "https" and not is_double else None

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]
        connection.tls = self._tls
        return connection

    def take_open(self) -> Any:
        """A connection of the pool; None when the next one would have to be opened."""
        connection = self._get_conn()  # type: ignore[attr-defined]
        if connection.sock is None:
            self.give_back(connection)
            return None
        return connection

    def give_back(self, connection: Any) -> None:
        self._put_conn(connection)  # type: ignore[attr-defined]


class Recording:
    """A request that the libraries made, to be made again with other bodies. Several threads may use it."""

    __slots__ = ("_after", "_before", "_pool", "_timeouts")

    def __init__(self, pool: _Pool, before: bytes, after: bytes, timeouts: tuple[float, float]) -> None:
        self._pool = pool
        self._before = before
        self._after = after
        self._timeouts = timeouts

    @classmethod
    def of_this_thread(cls, timeouts: tuple[float, float]) -> Recording | None:
        """What this thread has just sent; None when it is not a POST with a length.

        ``timeouts``: how long it may stand still while it is sent, and how long an answer may take.
        """
        head = progress.head
        if head is None or not head.startswith(b"POST ") or not isinstance(progress.pool, _Pool):
            return None
        parts = _LENGTH_SENT.split(head)
        return cls(progress.pool, parts[0], parts[1], timeouts) if len(parts) == 2 else None

    def play(self, body: bytes) -> Answer | None:
        """Send it with this body. None when no connection is open: nothing has been done then.

        Raises what ``requests`` raises.
        """
        try:
            connection = self._pool.take_open()
        except urllib3.exceptions.HTTPError:
            # The manager has closed the pool, in favour of others.
            return None
        if connection is None:
            return None
        is_reusable = False
        try:
            answer, is_reusable = self._exchange(connection.sock, body)
            return answer
        except TimeoutError as exc:
            raise requests.ReadTimeout(exc) from exc
        except (OSError, HTTPException, urllib3.exceptions.HTTPError) as exc:
            raise requests.ConnectionError(exc) from exc
        finally:
            if not is_reusable:
                connection.close()
            self._pool.give_back(connection)

    def _exchange(self, sock: socket.socket, body: bytes) -> tuple[Answer, bool]:
        sending, reading = self._timeouts
        sock.settimeout(sending)
        head = b"%b%d%b" % (self._before, len(body), self._after)
        try:
            if len(body) <= AT_ONCE_BYTES:
                _send_all(sock, head + body)
            else:
                _send_all(sock, head)
                _send_all(sock, body)
            progress.is_sent = True
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered before it had read all of it, as a server does that finds it too large.
            pass
        sock.settimeout(reading)
        data = sock.recv(ANSWER_BYTES)
        return (Answer(status=200), True) if _is_simply_taken(data) else _read(sock, data)


def _is_simply_taken(data: bytes) -> bool:
    """Whether this is one answer of status 200, all of it, on a connection that stays."""
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return False
    head = head.lower()
    lengths = _LENGTH.findall(head)
    return len(lengths) == 1 and int(lengths[0]) == len(body) and not _NOT_SIMPLE.search(head)


def _read(sock: socket.socket, start: bytes) -> tuple[Answer, bool]:
    """Have http.client read the answer that begins so. Also tells whether the connection can be used again."""
    with HTTPResponse(_AnswerSocket(sock, start), method="POST") as raw:  # type: ignore[arg-type]
        raw.begin()
        headers = {name.lower(): value for name, value in raw.getheaders()}
        answer = urllib3.HTTPResponse(
            body=raw, headers=headers, status=raw.status, preload_content=False, original_response=raw
        )
        body = b""
        is_whole = False
        # The status has arrived, and it alone decides; a body that breaks off changes nothing.
        with contextlib.suppress(Exception):
            body = answer.read(ANSWER_BYTES, decode_content=True)
            is_whole = raw.isclosed()
        return Answer(status=raw.status, headers=headers, body=body), is_whole and not raw.will_close
