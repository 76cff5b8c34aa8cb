"""ZMTP 3.0 (rfc.zeromq.org/spec/23): what either end says. What is heard is read by the aggregator alone."""

from __future__ import annotations

__all__ = ["COMMAND", "GREETING", "LONG", "MORE", "READY", "frame", "hello"]

MORE, LONG, COMMAND = 1, 2, 4
READY = b"\x05READY"

_SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"
_MECHANISM = b"NULL".ljust(20, b"\0")
GREETING = (_SIGNATURE + b"\x03\0" + _MECHANISM).ljust(64, b"\0")


def frame(body: bytes, flags: int = 0) -> bytes:
    """One frame."""
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + len(body).to_bytes(8, "big") + body


def hello(socket_type: bytes) -> bytes:
    """All that an end has to say before messages; it depends on nothing that the other end says."""
    size = len(socket_type).to_bytes(4, "big")
    return GREETING + frame(READY + b"\x0bSocket-Type" + size + socket_type + b"\x08Identity\0\0\0\0", COMMAND)
