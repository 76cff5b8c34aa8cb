"""The control socket: doorbells, questions, answers.

Clients are ZeroMQ sockets; this end speaks their protocol itself (docs/decisions),
because whoever may connect must not be able to cost more than a little: a peer
holds one frame, sends a limited amount per moment, and the one that has been
silent longest makes room when there are too many.  A client that was cut off
connects again by itself.

Whoever reaches the socket is this user, because the folder lets nobody else in;
still a message is believed only after it was checked.
"""

from __future__ import annotations

import logging
import os
import resource
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from vwo_fast._zmtp import frame
from vwo_fast.aggregator.zmtp import HELLO, Incoming, ProtocolError

__all__ = ["ControlSocket", "Question"]

logger = logging.getLogger(__name__)

ENDPOINT = "ctl"
MESSAGE_BYTES_MAX = 1 << 16
MESSAGES_PER_TURN = 256
PEERS_PER_TURN = 64
ACCEPTS_PER_TURN = 256
BACKLOG = 512
READ_BYTES = 1 << 14
PEERS_MAX = 16384
FDS_KEPT = 128
"""Descriptors that lanes, spool and requests need beside the peers."""

ALLOWANCE = 64
"""Messages of one peer per period, a kilobyte counting as one more."""
PERIOD_SECONDS = 0.05
HANDSHAKE_SECONDS = 5.0
OUT_BYTES_MAX = 1 << 20
OUT_TOTAL_MAX = 1 << 25
LINGER_SECONDS = 0.5

# A question has a handful of short values; what has more need not be unpacked to know that it is none.
_LIMITS = {"max_map_len": 16, "max_array_len": 16, "max_str_len": 256, "max_bin_len": 256, "max_ext_len": 0}


class Question:
    """A question of a client, its ``id`` checked."""

    __slots__ = ("client", "number", "op", "values")

    def __init__(self, client: bytes, op: str, number: int, values: dict[str, Any]) -> None:
        self.client = client
        self.op = op
        self.number = number
        self.values = values

    def id_value(self, name: str) -> int:
        """An id of 62 bits; 0 when it is absent or none."""
        value = self.values.get(name)
        return value if type(value) is int and 0 < value < 1 << 62 else 0


class _Peer:
    """One connection."""

    __slots__ = (
        "events",
        "incoming",
        "is_listener",
        "is_resting",
        "key",
        "out",
        "out_size",
        "period",
        "since",
        "sock",
        "spent",
    )

    def __init__(self, key: bytes, sock: socket.socket, now: float) -> None:
        self.key = key
        self.sock = sock
        self.since = now
        self.incoming = Incoming(MESSAGE_BYTES_MAX)
        self.out: deque[memoryview] = deque()
        self.out_size = 0
        self.period = 0.0
        self.spent = 0
        self.events = 0
        self.is_resting = False
        self.is_listener = False
        """It waits for reports: silence says nothing about whether anybody is there."""


class ControlSocket:
    """The endpoint at ``ctl``. One thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._path = folder / ENDPOINT
        self._peers: dict[bytes, _Peer] = {}
        """The one that has been silent longest comes first."""
        self._peers_max = _peers_max()
        self._ready: dict[_Peer, None] = {}
        self._strangers: deque[_Peer] = deque()
        self._resting: deque[tuple[float, _Peer | None]] = deque()
        """Until when a peer is not listened to; None stands for those that want to connect."""
        self._out_total = 0
        self._last_key = 0
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        # The lock of the queue is ours, so whatever lies here was left by one that is gone.
        _clear(self._path)
        self._listener.bind(str(self._path))
        os.chmod(self._path, 0o600)
        self._listener.listen(BACKLOG)
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    def watch(self, fd: int) -> None:
        """Let :meth:`wait` return when this descriptor is readable too."""
        self._selector.register(fd, selectors.EVENT_READ, fd)

    def unwatch(self, fd: int) -> None:
        """No longer look at a descriptor, which is about to be closed."""
        self._selector.unregister(fd)

    # ---- what comes in

    def wait(self, seconds: float) -> bool:
        """Until there is a message, a watched descriptor is readable, or the time is over. False: it was the time."""
        now = self._clock()
        if self._resting:
            seconds = min(seconds, self._resting[0][0] - now)
        found = self._selector.select(0 if self._ready else max(0.0, seconds))
        for key, events in found:
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Peer):
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if events & selectors.EVENT_READ:
                    self._ready[key.data] = None
        self._wake_rested()
        self._drop_strangers()
        return bool(found or self._ready)

    def questions(self) -> Iterator[Question]:
        """The questions that have come, a limited number of them. A doorbell is none: waking was all it is for."""
        messages = MESSAGES_PER_TURN
        for _ in range(min(PEERS_PER_TURN, len(self._ready))):
            peer = next(iter(self._ready))
            del self._ready[peer]
            for data in self._receive(peer):
                messages -= 1
                question = _parse(peer.key, data) if data else None
                if question is not None:
                    peer.is_listener |= question.op == "reports"
                    yield question
            if messages <= ALLOWANCE:
                return

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                # Out of descriptors: who waits to be let in would wake us again and again.
                logger.debug("nobody can connect now: %s", exc)
                self._make_room()
                self._selector.unregister(self._listener)
                self._resting.append((self._clock() + PERIOD_SECONDS, None))
                return
            if len(self._peers) >= self._peers_max:
                self._make_room()
            sock.setblocking(False)
            self._last_key += 1
            peer = _Peer(self._last_key.to_bytes(8, "big"), sock, self._clock())
            self._peers[peer.key] = peer
            self._strangers.append(peer)
            self._write(peer, HELLO)

    def _make_room(self) -> None:
        silent = next((peer for peer in self._peers.values() if not peer.is_listener), None)
        peer = silent or next(iter(self._peers.values()), None)
        if peer is not None:
            self._drop(peer)

    def _receive(self, peer: _Peer) -> Iterator[bytes]:
        """What the peer has said, as far as it may speak now."""
        now = self._clock()
        if now - peer.period >= PERIOD_SECONDS:
            peer.period, peer.spent = now, 0
        try:
            while peer.spent < ALLOWANCE and peer.key in self._peers:
                message = peer.incoming.next_message()
                if message is None:
                    data = peer.sock.recv(READ_BYTES)
                    if not data:
                        self._drop(peer)
                        return
                    peer.spent += len(data) >> 10
                    peer.incoming.feed(data)
                    continue
                peer.spent += 1
                self._peers[peer.key] = self._peers.pop(peer.key)
                yield message
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ProtocolError) as exc:
            logger.debug("a client is cut off: %s", exc)
            self._drop(peer)
            return
        if peer.key in self._peers:
            self._rest(peer, now)

    def _rest(self, peer: _Peer, now: float) -> None:
        """Do not listen for a while: what it sends waits in the kernel, and so does the peer."""
        peer.is_resting = True
        self._resting.append((now + PERIOD_SECONDS, peer))
        self._watch_peer(peer)

    def _wake_rested(self) -> None:
        now = self._clock()
        while self._resting and self._resting[0][0] <= now:
            peer = self._resting.popleft()[1]
            if peer is None:
                self._selector.register(self._listener, selectors.EVENT_READ, None)
            elif peer.key in self._peers:
                peer.is_resting = False
                self._watch_peer(peer)
                # Whole messages may be in its buffer already.
                self._ready[peer] = None

    def _watch_peer(self, peer: _Peer) -> None:
        wanted = (0 if peer.is_resting else selectors.EVENT_READ) | (selectors.EVENT_WRITE if peer.out else 0)
        if wanted == peer.events:
            return
        if not wanted:
            self._selector.unregister(peer.sock)
        elif not peer.events:
            self._selector.register(peer.sock, wanted, peer)
        else:
            self._selector.modify(peer.sock, wanted, peer)
        peer.events = wanted

    def _drop_strangers(self) -> None:
        horizon = self._clock() - HANDSHAKE_SECONDS
        while self._strangers and (self._strangers[0].incoming.is_ready or self._strangers[0].since < horizon):
            peer = self._strangers.popleft()
            if not peer.incoming.is_ready:
                self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.key, None) is None:
            return
        self._ready.pop(peer, None)
        self._out_total -= peer.out_size
        if peer.events:
            self._selector.unregister(peer.sock)
        peer.sock.close()

    # ---- what goes out

    def send(self, client: bytes, message: dict[str, Any]) -> bool:
        """Send to one client. False when it is gone or takes no more now."""
        peer = self._peers.get(client)
        if peer is None:
            return False
        data = frame(msgpack.packb(message))
        size = len(data)
        if peer.out and (peer.out_size + size > OUT_BYTES_MAX or self._out_total + size > OUT_TOTAL_MAX):
            return False
        return self._write(peer, data)

    def _write(self, peer: _Peer, data: bytes) -> bool:
        peer.out.append(memoryview(data))
        peer.out_size += len(data)
        self._out_total += len(data)
        return len(peer.out) > 1 or self._flush(peer)

    def _flush(self, peer: _Peer) -> bool:
        """Write as much as the peer takes now. False when it is gone."""
        while peer.out:
            try:
                written = peer.sock.send(peer.out[0])
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._drop(peer)
                return False
            peer.out_size -= written
            self._out_total -= written
            peer.out[0] = peer.out[0][written:]
            if not peer.out[0]:
                peer.out.popleft()
        self._watch_peer(peer)
        return True

    def close(self) -> None:
        """Close; answers that were just sent still go out."""
        self._listener.close()
        _clear(self._path)
        deadline = self._clock() + LINGER_SECONDS
        while self._out_total and (left := deadline - self._clock()) > 0:
            for peer in [peer for peer in self._peers.values() if peer.out]:
                self._flush(peer)
            time.sleep(min(left, 0.005))
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._selector.close()


def _peers_max() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return PEERS_MAX if limit == resource.RLIM_INFINITY else max(16, min(PEERS_MAX, limit - FDS_KEPT))


def _clear(path: Path) -> None:
    """Have nothing at ``path``; a folder is put aside."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        aside = path.with_name(f"{path.name}.{time.time_ns()}.bad")
        os.rename(path, aside)
        logger.error("%s was no socket: it is put aside as %s", path, aside.name)


def _parse(client: bytes, data: bytes) -> Question | None:
    try:
        values = msgpack.unpackb(data, strict_map_key=False, **_LIMITS)
    except Exception:
        return None
    if not isinstance(values, dict):
        return None
    op, number = values.get("op"), values.get("id")
    if not isinstance(op, str) or type(number) is not int or not 0 <= number < 1 << 63:
        return None
    return Question(client, op, number, values)
