"""TLS of one pool of connections: the context that they share, and the sessions that its server has granted.

``urllib3`` makes a context for each connection and reads the authorities into it, which takes longer
than the handshake; and a session can only be resumed with the context that it was made with.  Idea:
the context of the first connection, just as ``urllib3`` has made it, serves those that follow, each
with a session to resume.  Key invariant: all connections of a pool go to one host and port, with one
set of files, and neither context nor session leaves the pool.  Hard case: a resumed handshake checks
no certificate, so a session is worth no more than the check it goes back to.  It ends with the files
that were read for that check, and after an hour.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Handshake", "PoolTls"]

FULL_EVERY_SECONDS = 3600.0
"""A session that goes back to an older check of certificates is not offered."""

SESSIONS_MAX = 64
"""Each connection of TLS 1.3 uses up one session and brings another."""

_FILES = ("ca_certs", "cert_file", "key_file")
_IN_CONTEXT = (*_FILES, "ca_cert_dir", "ca_cert_data", "key_password", "ssl_context")
"""What ``urllib3`` would put into a context; a shared one has it, and must not be changed under other threads."""


@dataclass(frozen=True, slots=True, eq=False)
class _Granted:
    """A session, the context that alone may offer it, and when the certificates were checked that it rests on."""

    session: ssl.SSLSession
    context: ssl.SSLContext
    checked_at: float
    is_lasting: bool
    """It may be offered again and again. A ticket of TLS 1.3 should be shown once (RFC 8446, C.4)."""


class _Lent:
    """Stands for the shared context while one connection is opened, and offers its session."""

    def __init__(self, context: ssl.SSLContext, granted: _Granted | None) -> None:
        self.__dict__.update(_context=context, _session=granted and granted.session, is_offered=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self._context, name) != value:
            setattr(self._context, name, value)

    def set_alpn_protocols(self, protocols: Any) -> None:
        # It has them since its first connection. To set them again would free what a handshake in
        # another thread may be copying just now (python/cpython#141012).
        pass

    def wrap_socket(self, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        self.__dict__["is_offered"] = True
        return self._context.wrap_socket(sock, *args, session=self._session, **kwargs)  # type: ignore[no-any-return]


class Handshake:
    """How a connection was opened, and whether the session of it is kept already."""

    __slots__ = ("_checked_at", "_is_learned", "_offered", "_pool")

    def __init__(self, pool: PoolTls, checked_at: float, offered: ssl.SSLSession | None) -> None:
        self._pool = pool
        self._checked_at = checked_at
        self._offered = offered
        self._is_learned = False

    def learn(self, sock: Any) -> None:
        """Keep what the server has granted; in TLS 1.3 that comes after the handshake, with or behind the first answer.

        For the thread that has the connection. Costs nothing once there was something to keep.
        """
        if self._is_learned or type(sock) is not ssl.SSLSocket:
            return
        # Whatever goes wrong here costs a full handshake later, and must not cost this request.
        with contextlib.suppress(Exception):
            session = sock.session
            if session is None or not (session.has_ticket or session.id):
                return
            if self._offered is not None and session.id == self._offered.id:
                return
            self._is_learned = True
            is_lasting = sock.version() != "TLSv1.3"
            self._pool.keep_session(_Granted(session, sock.context, self._checked_at, is_lasting))


class PoolTls:
    """What the connections of one pool share. Several threads may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._files: tuple[Any, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._granted: deque[_Granted] = deque(maxlen=SESSIONS_MAX)

    def open(self, connection: Any, connect: Callable[[], None]) -> Handshake:
        """Have ``connect`` open a connection of ``urllib3``, with what is at hand. Raises what it raises."""
        began, files = self._clock(), _files_of(connection)
        context, granted = self._take(files)
        own = vars(connection)
        given = {name: own[name] for name in _IN_CONTEXT if name in own}
        lent = None
        if context is not None:
            lent = own["ssl_context"] = _Lent(context, granted)
            own.update(dict.fromkeys(given.keys() - {"ssl_context"}))
        try:
            connect()
        except BaseException:
            self._failed(granted, was_offered=lent is not None and lent.is_offered)
            raise
        finally:
            own.update(given)
        if context is None:
            self._keep_context(connection.sock, files)
        if granted is None:
            return Handshake(self, began, None)
        is_resumed = getattr(connection.sock, "session_reused", False)
        return Handshake(self, granted.checked_at if is_resumed else began, granted.session)

    def keep_session(self, granted: _Granted) -> None:
        """Have it for a later connection, unless it belongs to a context that is not the shared one."""
        with self._lock:
            if granted.context is self._context:
                if granted.is_lasting:
                    self._granted.clear()
                self._granted.append(granted)

    def _take(self, files: tuple[Any, ...]) -> tuple[ssl.SSLContext | None, _Granted | None]:
        """The shared context, None if there is none of these files, and the latest session that may be offered."""
        oldest = self._clock() - FULL_EVERY_SECONDS
        with self._lock:
            if files != self._files:
                return None, None
            while self._granted:
                granted = self._granted.pop()
                if granted.checked_at > oldest:
                    if granted.is_lasting:
                        self._granted.append(granted)
                    return self._context, granted
            return self._context, None

    def _failed(self, granted: _Granted | None, *, was_offered: bool) -> None:
        """A session that was offered to a connection which failed is not offered again; any other is kept."""
        if granted is None:
            return
        with self._lock:
            with contextlib.suppress(ValueError):
                self._granted.remove(granted)
            if not was_offered and granted.context is self._context:
                self._granted.append(granted)

    def _keep_context(self, sock: Any, files: tuple[Any, ...]) -> None:
        # Only the usual classes: where something else was put in their place, it checks certificates in its own way.
        if type(sock) is not ssl.SSLSocket or type(sock.context) is not ssl.SSLContext:
            return
        with self._lock:
            if files != self._files or self._context is None:
                self._files, self._context = files, sock.context
                self._granted.clear()


def _files_of(connection: Any) -> tuple[Any, ...]:
    """The files that a new context would be made of, and their state: one that has changed is read again."""
    paths = [path for name in _FILES if (path := getattr(connection, name, None))]
    folder = getattr(connection, "ca_cert_dir", None)
    if folder:
        with contextlib.suppress(OSError):
            paths += sorted(os.path.join(folder, name) for name in os.listdir(folder))
    return (getattr(connection, "cert_reqs", None), folder, *map(_state_of, paths))


def _state_of(path: str) -> tuple[Any, ...]:
    try:
        state = os.stat(path)
    except OSError:
        return (path,)
    return (path, state.st_mtime_ns, state.st_ino, state.st_size)
