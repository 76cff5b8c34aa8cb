"""Where and with what a number was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "facts", "versions"]

ROOT = Path(__file__).resolve().parents[2]


def _first_line(path: str, name: str) -> str:
    try:
        with open(path) as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith(name))
    except (OSError, StopIteration):
        return "unknown"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    # Only what can change a number counts as a difference from the commit.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "csrc", "vwo_fast", "benchmarks/*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with changes" if changed else "")


def facts() -> dict[str, Any]:
    """Machine, interpreter, commit and time."""
    return {
        "cpu": _first_line("/proc/cpuinfo", "model name") if os.path.exists("/proc/cpuinfo") else platform.processor(),
        "cpus": os.cpu_count(),
        "memory": _first_line("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def versions(*distributions: str) -> dict[str, str]:
    """Versions of installed distributions."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
