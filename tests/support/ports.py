"""Ports for servers that must bind them themselves."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

_BELOW_EPHEMERAL = range(20_000, 30_000)
"""The kernel gives none of these to a connection that goes out, so nobody takes one by chance."""


def free_port() -> int:
    """A port that nobody listens on now."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_BELOW_EPHEMERAL)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
