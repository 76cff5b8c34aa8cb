"""ZMTP 3.0 (rfc.zeromq.org/spec/23), as much of it as the end that listens needs: bytes in, messages out.

A message is one frame here.  The frames of a longer message are passed over as they
come, and never put together: libzmq keeps them until the last one has come, which
it need not do, and no limit of its own counts them.
"""

from __future__ import annotations

from vwo_fast._zmtp import COMMAND, GREETING, LONG, MORE, READY, hello

__all__ = ["HELLO", "Incoming", "ProtocolError"]

KNOWN_FLAGS = MORE | LONG | COMMAND
HELLO = hello(b"ROUTER")

_VERSION_AT = 10
_MECHANISM = slice(12, 32)


class ProtocolError(Exception):
    """The peer does not speak the protocol, or says more than it may."""


class Incoming:
    """What one peer says. Holds at most one frame that is not complete, and what was fed beyond it."""

    __slots__ = ("_at", "_buffer", "_bytes_max", "_has_greeted", "_is_inside", "is_ready")

    def __init__(self, bytes_max: int) -> None:
        self.is_ready = False
        """The peer has said all that comes before messages."""
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._at = 0
        self._has_greeted = False
        self._is_inside = False
        """The frames to come belong to a message of several."""

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next message; empty also for a frame that is none; None: more bytes are needed. Raises ProtocolError."""
        if not self._has_greeted and not self._greeted():
            return None
        found = self._next_frame()
        if found is None:
            return None
        flags, body = found
        if flags & COMMAND:
            if not self.is_ready and not body.startswith(READY):
                raise ProtocolError("a command that is not READY")
            self.is_ready = True
            return b""
        if not self.is_ready:
            raise ProtocolError("a message before READY")
        is_part = self._is_inside or bool(flags & MORE)
        self._is_inside = bool(flags & MORE)
        return b"" if is_part else body

    def _greeted(self) -> bool:
        buffer = self._buffer
        # The length between the first and the last byte of the signature says nothing since version 3.
        if buffer and buffer[0] != GREETING[0]:
            raise ProtocolError("no greeting")
        if len(buffer) < len(GREETING):
            return False
        is_signed = buffer[9] == GREETING[9]
        if not is_signed or buffer[_VERSION_AT] < 3 or buffer[_MECHANISM] != GREETING[_MECHANISM]:
            raise ProtocolError("another protocol or mechanism")
        self._at = len(GREETING)
        self._has_greeted = True
        return True

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 2:
            return None
        flags = buffer[at]
        if flags & ~KNOWN_FLAGS:
            raise ProtocolError("unknown flags")
        if flags & LONG:
            begin = at + 9
            if len(buffer) < begin:
                return None
            size = int.from_bytes(buffer[at + 1 : begin], "big")
        else:
            begin, size = at + 2, buffer[at + 1]
        if size > self._bytes_max:
            raise ProtocolError(f"a frame of {size} bytes")
        if len(buffer) - begin < size:
            return None
        self._at = begin + size
        return flags, bytes(buffer[begin : self._at])
