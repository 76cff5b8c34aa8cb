"""A TLS server of one thread per connection, which keeps how each connection was opened."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Opened", "TlsServer", "server_context"]

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\n{}"
DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Opened:
    """How the connection of a request was opened."""

    is_resumed: bool
    version: str | None
    client: str | None
    """Common name of the client's certificate."""


def server_context(
    certificate: tuple[Path, Path],
    *,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    clients_of: Path | None = None,
) -> ssl.SSLContext:
    """``clients_of``: the authority whose certificate a client must have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(*certificate)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients_of)
    return context


class TlsServer:
    """Answers requests, and ends each connection after the first. ``context`` is asked for each connection."""

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        self.opened: list[Opened] = []
        self.breaks = 0
        """So many connections are cut in the middle of their handshake."""
        self.keeps_alive = False
        """Connections stay open until their client ends them."""
        self.hold_until = 0
        """Nobody is answered before so many requests have come."""
        self._context = context
        self._changed = threading.Condition()
        self._ended: list[ssl.SSLSocket] = []
        self.port = 0
        self.listen()
        self.url = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> TlsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()

    def listen(self) -> None:
        """Be there, at the port that it has had before."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), name="tls-server", daemon=True).start()

    def refuse(self) -> None:
        """Be away: connections are refused."""
        # Wakes the thread that waits in accept, which closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def resumed(self) -> list[bool]:
        """Of each request, whether its connection began with an earlier session."""
        with self._changed:
            return [one.is_resumed for one in self.opened]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="tls-connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(DEADLINE_SECONDS)
        with self._changed:
            is_broken = self.breaks > 0
            self.breaks -= is_broken
        try:
            with client:
                if is_broken:
                    client.recv(1)
                    raise ConnectionError("broken off")
                secure = self._context().wrap_socket(client, server_side=True)
                try:
                    while self._answer(secure):
                        pass
                except OSError:
                    secure.close()
        except OSError:
            pass  # the client did not like what it saw, or was meant not to

    def _answer(self, secure: ssl.SSLSocket) -> bool:
        """Answer one request. False: that was the last of its connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = secure.recv(1)
            if not piece:
                raise ConnectionError("no request")
            head += piece
        left = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while left:
            left -= len(secure.recv(left))
        with self._changed:
            self.opened.append(Opened(bool(secure.session_reused), secure.version(), _common_name(secure)))
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self.opened) >= self.hold_until, DEADLINE_SECONDS)
        if self.keeps_alive:
            secure.sendall(ANSWER % b"")
            return True
        secure.sendall(ANSWER % b"Connection: close\r\n")
        # OpenSSL forgets a session of TLS 1.2 with a connection that ends without a word, as this one does.
        self._ended.append(secure)
        socket.socket(fileno=secure.detach()).close()
        return False


def _common_name(secure: ssl.SSLSocket) -> str | None:
    certificate: dict[str, Any] = dict(secure.getpeercert() or {})
    names = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return names[0] if names else None
