"""HTTP: one pooled ``requests`` session, and the threads that wait for answers.

A sender thread does nothing but make a request; what the answer means is decided
by the loop, which is woken through a pipe.  Nothing is retried here: the loop
keeps the batch, its order and its back-off.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import socket
import threading
import time
import traceback
import zlib
from collections import deque
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidHeader
from urllib3.connection import HTTPConnection

from vwo_fast.aggregator.exchange import Answer, Recording, progress, watch
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.outcome import Reply, parse_retry_after, server_clock
from vwo_fast.config import Settings

__all__ = ["HttpRequest", "Senders", "Transport"]

logger = logging.getLogger(__name__)

EXCERPT_BYTES = 1024
BODY_READ_MAX = 1 << 16
UNSENT_BYTES = 1 << 17
KEPT_MAX = 64
ZIP_LEVEL = 3
"""For bodies of 100 and of 5,000 events it takes as long as 1 and saves more; 4 takes twice as long."""

ZIP_BYTES_MIN = 1000
"""What is smaller is hardly worth a header."""

_NO_ZIP = (400, 415)
"""Answers to a compressed request that may say something about the compression alone."""

_TAKEN = Reply(status=200)

Token = TypeVar("Token")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request, ready to go. Its URL and headers hold the SDK key, so they stay out of ``repr``."""

    method: str
    url: str = field(repr=False)
    params: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


class _Sender(Protocol):
    def send(self, request: HttpRequest) -> Reply: ...


class _Adapter(HTTPAdapter):
    """The usual adapter, with connections that are watched, to the server and to each kind of proxy."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_socket_options(), **kwargs)
        watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, socket_options=_socket_options(), **kwargs)
        watch(manager)
        return manager

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        progress.pool = super().get_connection_with_tls_context(*args, **kwargs)
        return progress.pool

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        # What requests calls instead before 2.32.
        progress.pool = super().get_connection(*args, **kwargs)
        return progress.pool


def _socket_options() -> list[tuple[int, int, int | bytes]]:
    options = list(HTTPConnection.default_socket_options)
    # What the kernel holds back counts as sent, and the time for the answer runs: on a slow line let it hold little.
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        options.append((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES))
    return options


@dataclass(slots=True, kw_only=True)
class _Ready:
    """What is the same in all batches of a route; to prepare it takes as long as to send it.

    ``environment``: proxies and certificates as requests finds them for this URL, found once, because the
    environment of a process does not change from outside.
    """

    prepared: requests.PreparedRequest
    environment: Any
    recording: Recording | None = None
    """The last request that the libraries made of it."""


class Transport:
    """Makes requests; may be used by several threads at once."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = (settings.connect_timeout, settings.read_timeout)
        # None leaves it to the environment, as users of requests know it. What is an option goes with each
        # request, because of what a session holds the environment has the last word.
        self._proxies = None if settings.proxy is None else {"http": settings.proxy, "https": settings.proxy}
        self._verify = settings.ca_bundle
        self._cert: str | tuple[str, str] | None = settings.client_cert
        if settings.client_cert is not None and settings.client_key is not None:
            self._cert = (settings.client_cert, settings.client_key)
        self._session = requests.Session()
        # A cookie would make one request depend on another, and the jar is not made for threads.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _Adapter(pool_connections=8, pool_maxsize=settings.in_flight_max, max_retries=0, pool_block=False)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._kept: dict[object, _Ready] = {}
        self._zips = settings.compression == "gzip"
        self._refuses_zip: set[str] = set()

    def send(self, request: HttpRequest) -> Reply:
        """Send and wait for the answer. Never raises."""
        progress.is_sent = False
        try:
            answer = self._send(request)
        except Exception as exc:
            return _reply_for(exc)
        if answer.status == 200:
            return _TAKEN
        clock = server_clock(answer.headers.get("date"), time.time())
        return Reply(
            status=answer.status,
            retry_after=parse_retry_after(answer.headers.get("retry-after"), clock),
            excerpt=answer.body[:EXCERPT_BYTES].decode("utf-8", "replace"),
        )

    def _send(self, request: HttpRequest) -> Answer:
        body = request.body
        if body is None or not self._zips or len(body) < ZIP_BYTES_MIN:
            return self._make(request, body)
        server = request.url.split("/", 3)[2]
        if server in self._refuses_zip:
            return self._make(request, body)
        packer = zlib.compressobj(ZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        answer = self._make(request, packer.compress(body) + packer.flush(), is_zipped=True)
        if answer.status not in _NO_ZIP:
            return answer
        zip_status = answer.status
        progress.is_sent = False
        answer = self._make(request, body)
        # A 400 to both is about the events.
        if (zip_status == 415 or 200 <= answer.status < 300) and server not in self._refuses_zip:
            self._refuses_zip.add(server)
            logger.error("a compressed request was answered with status %d: from now on they go plain", zip_status)
        return answer

    def _make(self, request: HttpRequest, body: bytes | None, *, is_zipped: bool = False) -> Answer:
        ready = self._ready(request, is_zipped)
        if ready.recording is not None and body is not None:
            answer = ready.recording.play(body)
            if answer is not None:
                return answer
        return self._send_first(ready, body)

    def _send_first(self, ready: _Ready, body: bytes | None) -> Answer:
        """Have the libraries send it, and keep how they did."""
        prepared = ready.prepared.copy()
        if body is not None:
            prepared.prepare_body(body, None)
        with self._session.send(
            prepared, timeout=self._timeout, allow_redirects=False, **ready.environment
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(status=response.status_code, headers=headers, body=_read_beginning(response))
        ready.recording = Recording.of_this_thread(self._timeout)
        return answer

    def _ready(self, request: HttpRequest, is_zipped: bool) -> _Ready:
        key = (is_zipped, request.method, request.url, request.params, tuple(request.headers.items()))
        ready = self._kept.get(key)
        if ready is None:
            prepared = self._session.prepare_request(
                requests.Request(
                    request.method,
                    request.url,
                    params=request.params,
                    headers={**request.headers, "Content-Encoding": "gzip"} if is_zipped else request.headers,
                    auth=_keep_authorization,
                )
            )
            environment = self._session.merge_environment_settings(
                prepared.url, self._proxies or {}, True, self._verify, self._cert
            )
            ready = _Ready(prepared=prepared, environment=environment)
            if len(self._kept) >= KEPT_MAX:
                # Requests of one event each differ in their query, and would fill any memory.
                self._kept.clear()
            self._kept[key] = ready
        return ready

    def close(self) -> None:
        self._session.close()


def _keep_authorization(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    # Without an auth of our own, requests would replace our Authorization header by what ~/.netrc has for the host.
    return prepared


def _read_beginning(response: requests.Response) -> bytes:
    """The beginning of the body; reading it to its end gives the connection back to the pool."""
    data = b""
    # The status has arrived, and it alone decides; a body that breaks off changes nothing.
    with contextlib.suppress(Exception):
        for chunk in response.iter_content(4096):
            data += chunk
            if len(data) >= BODY_READ_MAX:
                break
    return data


def _reply_for(exc: Exception) -> Reply:
    is_unsendable = isinstance(exc, (InvalidHeader, UnicodeError))
    return Reply(error=_describe(exc), unsendable=is_unsendable, may_have_arrived=progress.is_sent)


def _causes(exc: BaseException) -> list[BaseException]:
    """The exception and what it wraps, the innermost last."""
    found: list[BaseException] = []
    queue: list[Any] = [exc]
    while queue and len(found) < 16:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or current in found:
            continue
        found.append(current)
        queue += [getattr(current, "reason", None), current.__cause__, current.__context__, *current.args]
    return found


def _describe(exc: Exception) -> str:
    """What went wrong, from types and system errors only: the texts of HTTP libraries quote the URL and its key."""
    if type(exc) is OSError and exc.errno is None:
        # What requests says of a certificate's path that leads nowhere.
        return "ca_bundle, client_cert or client_key: no such file"
    detail = ""
    for cause in _causes(exc):
        if isinstance(cause, OSError) and isinstance(cause.strerror, str) and cause.errno is not None:
            detail = f": {cause.strerror}"
    return f"{type(exc).__name__}{detail}"


class Senders(Generic[Token]):
    """Threads that each make one request at a time, at most ``count`` of them; they start when there is work.

    They are not ``threading.Thread``s: its ``start`` waits for ever when memory runs out in the new
    thread, and this process would hold the queue without serving it.  A thread that could not start
    or that ended is replaced as long as there is work for it.
    """

    def __init__(self, sender: _Sender, count: int) -> None:
        self._sender = sender
        self._work: SimpleQueue[tuple[Token, HttpRequest] | None] = SimpleQueue()
        self._results: deque[tuple[Token, Reply]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._count = count
        self._living = 0
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Readable when there may be results."""
        return self._wake_read

    def submit(self, token: Token, request: HttpRequest) -> None:
        """Have the request made; its reply comes out of :meth:`results` with the token."""
        self._work.put((token, request))
        self._start_one()

    def results(self) -> list[tuple[Token, Reply]]:
        """The replies since the last call."""
        if not self._work.empty():
            self._start_one()
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._wake_read, 4096)) == 4096:
                pass
        found = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def wake(self) -> None:
        """Make :meth:`fileno` readable. May be called from a signal handler."""
        # A full pipe wakes as well as one more byte would; without any wake the loop looks within a second.
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")

    def stop(self) -> None:
        """Let the threads end after what they are doing; nobody waits for them."""
        for _ in range(self._count):
            self._work.put(None)

    def _start_one(self) -> None:
        if self._living < self._count:
            try:
                _thread.start_new_thread(self._run, ())
            except RuntimeError as exc:
                logger.error("no more threads for now: %s", exc)

    def _run(self) -> None:
        with self._lock:
            # Those that were started just now may not have been counted yet.
            if self._living >= self._count:
                return
            self._living += 1
        try:
            self._serve()
        finally:
            with self._lock:
                self._living -= 1

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            token, request = item
            reach("post: in the thread")
            try:
                reply = self._sender.send(request)
            except Exception as exc:
                # The token must come back whatever happens, or its batch would wait for ever.
                # Without the exception's text, which may quote a URL and the key in it.
                place = traceback.extract_tb(exc.__traceback__)[-1]
                logger.error("a sender thread failed: %s in %s", type(exc).__name__, place.name)
                reply = Reply(error=type(exc).__name__, may_have_arrived=True)
            reach("answer: in the thread")
            self._results.append((token, reply))
            reach("answer: queued")
            self.wake()
