"""A bad network: a TCP proxy on the loopback whose faults are switched while it runs.

It knows nothing of HTTP but one thing: when a client sends after it was answered,
a new exchange begins.  Each exchange takes the fault that is set at its beginning,
so that connections which are kept alive meet it too.

::

    with Proxy(collector.port) as proxy:
        proxy.fault = Fault(cut_before_answer=True, times=2)
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import TypeVar

__all__ = ["Fault", "ForwardProxy", "Proxy"]

Self = TypeVar("Self", bound="Proxy")

PIECE_BYTES = 65536
POLL_SECONDS = 0.02


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to the next exchanges. ``times``: to how many of them; None: to all, until it is changed."""

    delay: float = 0.0
    """Seconds before the request is passed on."""
    reset: bool = False
    """The connection is reset at the first byte of the request."""
    cut_request_after: int | None = None
    """The connection is reset when this many bytes of the request, head included, have been passed on."""
    cut_before_answer: bool = False
    """The connection is reset once the server has answered; the client sees nothing of the answer."""
    cut_answer_after: int | None = None
    """The connection is closed when this many bytes of the answer have been passed on."""
    bytes_per_second: int | None = None
    """Both ways together."""
    black_hole: bool = False
    """The request is taken and never passed on."""
    times: int | None = None


class _Reset(Exception):
    """The exchange ends with a reset."""


class _Closed(Exception):
    """The exchange ends with an orderly close."""


class Proxy:
    """Listens on a port of its own from construction until :meth:`close`."""

    def __init__(self, target_port: int) -> None:
        self.fault = Fault()
        self.connections = 0
        """Connections accepted so far."""
        self.exchanges = 0
        """Exchanges begun so far."""
        self.answered_at: list[float] = []
        """When the first byte of each answer was passed on, by ``time.monotonic``."""
        self._target = ("127.0.0.1", target_port)
        self._lock = threading.Lock()
        self._is_closed = False
        self._accepts = threading.Event()
        self._accepts.set()
        self._pairs: set[_Pair] = set()
        self._fillers: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # ---- the ways to be unreachable

    def refuse(self) -> None:
        """Close the port and reset all connections: a server that is down."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self.reset_all()

    def listen(self) -> None:
        """Open the port, the same one as before."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Little is read ahead of what is passed on, so that a sender feels how slow the way is.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = int(listener.getsockname()[1])
        with self._lock:
            self._listener = listener

    def ignore(self) -> None:
        """Let new connections wait for ever, as a firewall does that drops packets."""
        self._accepts.clear()
        time.sleep(POLL_SECONDS * 2)
        self.reset_all()
        assert self._listener is not None
        self._listener.listen(0)
        # The kernel completes connections that nobody accepts until its queue is full, and then stays silent.
        while True:
            filler = socket.socket()
            filler.settimeout(0.2)
            self._fillers.append(filler)
            try:
                filler.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return

    def accept_again(self) -> None:
        """The end of :meth:`ignore`."""
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        assert self._listener is not None
        self._listener.listen(128)
        self._accepts.set()

    def reset_all(self) -> None:
        """Reset every connection."""
        self._end_all(_Reset)

    def close_all(self) -> None:
        """Close every connection in good order, as a server does with idle ones."""
        self._end_all(_Closed)

    def _end_all(self, how: type[Exception]) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.ending = how
        deadline = time.monotonic() + 10
        while any(pair in self._pairs for pair in pairs) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 2)

    def close(self) -> None:
        self._is_closed = True
        self.refuse()
        for filler in self._fillers:
            filler.close()
        self._thread.join()

    # ---- what the threads do

    def claim(self) -> Fault:
        """The fault for an exchange that begins."""
        with self._lock:
            self.exchanges += 1
            fault = self.fault
            if fault.times is None:
                return fault
            if fault.times <= 0:
                return Fault()
            fault.times -= 1
            return fault

    def dial(self, client: socket.socket) -> socket.socket:
        """The server that a client wants."""
        return socket.create_connection(self._target, timeout=10)

    def _accept(self) -> None:
        while not self._is_closed:
            listener = self._listener
            if listener is None or not self._accepts.is_set():
                time.sleep(POLL_SECONDS)
                continue
            try:
                if not wait([listener], POLL_SECONDS) or not self._accepts.is_set():
                    continue
                client = listener.accept()[0]
            except (OSError, ValueError):
                continue  # closed since it was looked at
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(client,), name="proxy-connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        pair = _Pair(self, client)
        with self._lock:
            self._pairs.add(pair)
        try:
            pair.run()
        finally:
            with self._lock:
                self._pairs.discard(pair)


class _Pair:
    """A client's connection and the one to the server, served by one thread."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.ending: type[Exception] | None = None
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None
        self._fault = Fault()
        self._asked = 0
        self._answered = 0
        self._is_idle = True

    def run(self) -> None:
        try:
            self._pump()
        except (_Reset, OSError):
            # No FIN: what the peer has not read yet is thrown away, and its next call fails.
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except _Closed:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_WR)
        finally:
            self._client.close()
            if self._server is not None:
                self._server.close()

    def _pump(self) -> None:
        while True:
            sockets = [self._client] if self._server is None else [self._client, self._server]
            ready = wait(sockets, POLL_SECONDS)
            if self.ending is not None:
                raise self.ending
            if self._client in ready:
                self._from_client()
            elif ready:
                self._from_server()

    def _from_client(self) -> None:
        if self._is_idle:
            if not self._client.recv(1, socket.MSG_PEEK):
                raise _Closed
            self._begin()
        data = self._client.recv(self._piece())
        if not data:
            raise _Closed
        if self._fault.black_hole:
            return
        limit = self._fault.cut_request_after
        if limit is not None:
            data = data[: limit - self._asked]
        assert self._server is not None
        self._server.sendall(data)
        self._asked += len(data)
        self._slow_down(len(data))
        if limit is not None and self._asked >= limit:
            raise _Reset

    def _begin(self) -> None:
        self._fault = self._proxy.claim()
        self._asked = self._answered = 0
        self._is_idle = False
        if self._fault.reset:
            raise _Reset
        self._wait(self._fault.delay)
        if self._server is None and not self._fault.black_hole:
            self._server = self._proxy.dial(self._client)

    def _from_server(self) -> None:
        assert self._server is not None
        data = self._server.recv(self._piece())
        if not data:
            raise _Closed
        if self._fault.cut_before_answer:
            raise _Reset
        limit = self._fault.cut_answer_after
        if limit is not None:
            data = data[: limit - self._answered]
        if not self._answered:
            self._proxy.answered_at.append(time.monotonic())
        self._client.sendall(data)
        self._answered += len(data)
        self._is_idle = True
        self._slow_down(len(data))
        if limit is not None and self._answered >= limit:
            raise _Closed

    def _piece(self) -> int:
        rate = self._fault.bytes_per_second
        return PIECE_BYTES if rate is None else max(1, min(PIECE_BYTES, rate // 20))

    def _slow_down(self, count: int) -> None:
        if self._fault.bytes_per_second is not None:
            self._wait(count / self._fault.bytes_per_second)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.ending is not None:
                raise self.ending
            time.sleep(min(left, POLL_SECONDS))


class ForwardProxy(Proxy):
    """What ``HTTPS_PROXY`` names: it connects where the client's first line says. Keeps these lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__(0)

    def dial(self, client: socket.socket) -> socket.socket:
        head = client.recv(PIECE_BYTES, socket.MSG_PEEK)
        line = head.split(b"\r\n")[0].decode("ascii")
        self.lines.append(line)
        method, target, _ = line.split(" ")
        if method != "CONNECT":
            # A server understands the absolute form as it is.
            host = target.split("/")[2]
            return socket.create_connection(_address(host), timeout=10)
        server = socket.create_connection(_address(target), timeout=10)
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            asked += client.recv(PIECE_BYTES)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return server


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.partition(":")
    return name, int(port or 80)
