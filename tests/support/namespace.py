"""A view of the file system for one program alone: small, full, read-only or missing disks that nobody else sees."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

__all__ = ["reason_not", "run_with"]

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def reason_not() -> str | None:
    """Why mounts of our own cannot be had; None when they can."""
    if not sys.platform.startswith("linux"):
        return "optional: mount namespaces are of Linux"
    if os.geteuid() != 0:
        return "optional: only root may mount"
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "optional: no unshare or mount here"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else f"optional: no mounts here: {done.stderr.strip()}"


def run_with(script: str, program: str, *arguments: str) -> dict[str, Any]:
    """Run a shell script that mounts, then a Python program that prints one JSON object, in a namespace of their own.

    What the program starts sees the same; a signal that ends it (SIGBUS, say) fails the test.
    """
    if (reason := reason_not()) is not None:
        pytest.skip(reason)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script + '\nexec "$@"', "sh", sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
