"""Processes that measure in an environment of their own and are asked one round at a time.

So ways that cannot live in one process (two versions of one SDK, say) still take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.facts import ROOT
from benchmarks.support.venv import environment

__all__ = ["Peer", "cpu_seconds", "serve"]


class Peer:
    """One such process: JSON lines in, JSON lines out."""

    def __init__(self, label: str, program: str | Path, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [str(environment(label)), str(program), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid

    def send(self, question: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")

    def receive(self) -> Any:
        """Raises RuntimeError when the process has ended instead of answering."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, question: Any) -> Any:
        self.send(question)
        return self.receive()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(answer: Callable[[Any], Any]) -> None:
    """Be a peer until nobody asks any more; never returns."""
    # What the SDKs print must not come between the answers.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        channel.write(json.dumps(answer(json.loads(line))) + "\n")
    channel.close()
    # The SDKs' timers would keep the process for ever.
    os._exit(0)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken so far, with all its threads, ended ones included. Linux only."""
    # The clock of another process, as clock_getcpuclockid(3) names it.
    return time.clock_gettime((~pid << 3) | 2)
