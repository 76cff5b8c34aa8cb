"""A server of our own on the loopback, in a process of its own: it takes every request and answers 200.

It does as little as a server can, so that what is measured is the sending side.
``python -m vwo_fast.tuning.sink FD DELAY`` serves the listening socket FD, answers
each request DELAY seconds after its last byte, and ends when its standard input does,
so it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

from vwo_fast.tuning.children import child_environment, stop_child

__all__ = ["local_sink"]

HEAD_BYTES_MAX = 1 << 16
BODY = b'{"status":"success"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,12})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class _Connection(asyncio.Protocol):
    """One client: its bodies are counted down and forgotten."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._head = bytearray()
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                if not self._left:
                    self._answer()
                continue
            self._head += data
            head, found, rest = bytes(self._head).partition(b"\r\n\r\n")
            if not found:
                if len(self._head) > HEAD_BYTES_MAX and self._transport is not None:
                    self._transport.abort()
                return
            self._head.clear()
            data = rest
            length = _LENGTH.search(head + b"\r")
            self._left = int(length[1]) if length else 0
            if not self._left:
                self._answer()

    def _answer(self) -> None:
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._write)
        else:
            self._write()

    def _write(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(ANSWER)


async def _serve(listener: socket.socket, delay: float) -> None:
    loop = asyncio.get_running_loop()
    is_over = loop.create_future()
    server = await loop.create_server(lambda: _Connection(delay), sock=listener)

    def heard() -> None:
        if not os.read(sys.stdin.fileno(), 1024) and not is_over.done():
            is_over.set_result(None)

    loop.add_reader(sys.stdin.fileno(), heard)
    await is_over
    loop.remove_reader(sys.stdin.fileno())
    server.close()


@contextlib.contextmanager
def local_sink(delay: float = 0.0) -> Iterator[str]:
    """Run a sink and give its URL. It listens before this process goes on."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "vwo_fast.tuning.sink", str(listener.fileno()), repr(delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            env=child_environment(),
            # A Ctrl-C is for us, who end it in good order.
            start_new_session=True,
        )
    try:
        yield url
    finally:
        stop_child(process)


if __name__ == "__main__":
    asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])))
