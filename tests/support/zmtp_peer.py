"""A peer of the control socket that keeps to nothing but what it must, and floods made of such peers.

As a program: ``python -m tests.support.zmtp_peer KIND PATH SECONDS`` floods and ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack

from vwo_fast._zmtp import LONG, MORE, frame
from vwo_fast._zmtp import hello as said
from vwo_fast.aggregator.zmtp import HELLO

__all__ = ["FLOODS", "connect", "hello"]

CONNECTIONS = 3


def connect(path: Path) -> socket.socket:
    """A connection that has said nothing."""
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    return made


def hello(path: Path) -> socket.socket:
    """A connection over which messages may go."""
    made = connect(path)
    made.sendall(said(b"DEALER"))
    got = 0
    while got < len(HELLO) and (part := made.recv(len(HELLO) - got)):
        got += len(part)
    return made


def _junk() -> bytes:
    return b"".join(frame(random.randbytes(random.randrange(300))) for _ in range(200))


def _questions() -> bytes:
    return b"".join(frame(msgpack.packb({"op": "flush", "id": number})) for number in range(500))


def _nested() -> bytes:
    # An array that says it is long, in an array that says it is long, ...
    return frame(b"\xdc\xff\xff" * 20000)


FLOODS: dict[str, Callable[[], bytes]] = {
    "noise": lambda: os.urandom(1 << 16),
    "junk": _junk,
    "nested": _nested,
    "endless": lambda: frame(bytes(60000), MORE),
    "endless and small": lambda: frame(b"x", MORE) * 20000,
    "doorbells": lambda: frame(b"") * 20000,
    "questions": _questions,
    "too large": lambda: bytes((LONG,)) + (1 << 62).to_bytes(8, "big") + bytes(1 << 16),
}


def _messages(kind: str) -> Iterator[bytes]:
    data = FLOODS[kind]()
    while True:
        yield data


def flood(kind: str, path: Path, seconds: float) -> None:
    """Send as fast as the other end takes it, over some connections; one that is cut off is made anew."""
    until = time.monotonic() + seconds
    peers: list[tuple[socket.socket, bytes]] = []
    messages = _messages(kind)
    while time.monotonic() < until:
        while len(peers) < CONNECTIONS:
            made = connect(path) if kind == "noise" else hello(path)
            made.setblocking(False)
            peers.append((made, b""))
        for index, (peer, rest) in enumerate(list(peers)):
            data = rest or next(messages)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                try:
                    sent = peer.send(data)
                except (BrokenPipeError, ConnectionError):
                    peer.close()
                    peers.pop(index)
                    break
            peers[index] = (peer, data[sent:])
        time.sleep(0.0002)


if __name__ == "__main__":
    flood(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
