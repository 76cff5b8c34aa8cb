"""ZMTP 3.0 (rfc.zeromq.org/spec/23), as much of it as the end that listens needs: bytes in, messages out.

A message is one frame here.  The frames of a longer message are passed over as they
come, and never put together: libzmq keeps them until the last one has come, which
it need not do, and no limit of its own counts them.
"""

from __future__ import annotations

__all__ = ["HELLO", "Incoming", "ProtocolError", "frame"]

MORE, LONG, COMMAND = 1, 2, 4
KNOWN_FLAGS = MORE | LONG | COMMAND

_SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"
_MECHANISM = b"NULL".ljust(20, b"\0")
_GREETING_BYTES = 64
_VERSION_AT, _MECHANISM_AT = 10, 12
_PROPERTIES = b"\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0"
_READY = b"\x05READY"


class ProtocolError(Exception):
    """The peer does not speak the protocol, or says more than it may."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """One frame."""
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + len(body).to_bytes(8, "big") + body


HELLO = (_SIGNATURE + b"\x03\0" + _MECHANISM).ljust(_GREETING_BYTES, b"\0") + frame(_READY + _PROPERTIES, COMMAND)
"""All that this end has to say before messages; it depends on nothing that the peer says."""


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
            if not self.is_ready and not body.startswith(_READY):
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
        if buffer and buffer[0] != _SIGNATURE[0]:
            raise ProtocolError("no greeting")
        if len(buffer) < _GREETING_BYTES:
            return False
        mechanism = bytes(buffer[_MECHANISM_AT : _MECHANISM_AT + len(_MECHANISM)])
        if buffer[9] != _SIGNATURE[9] or buffer[_VERSION_AT] < 3 or mechanism != _MECHANISM:
            raise ProtocolError("another protocol or mechanism")
        self._at = _GREETING_BYTES
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
