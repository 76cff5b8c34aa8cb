"""Environments of the competitors: one each, so that one that cannot be installed costs only its own row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.facts import ROOT
from tests.support import venvs

__all__ = ["NotMeasuredError", "environment", "run_in"]

PACKAGES: dict[str, tuple[str, ...]] = {
    "bench-json": ("msgspec", "orjson"),
    "bench-fifo": ("msgspec", "faster-fifo"),
    "bench-kafka": ("msgspec", "confluent-kafka"),
    "bench-posthog": ("posthog",),
    "bench-otel": ("opentelemetry-sdk",),
}
TIMEOUT_SECONDS = 600


class NotMeasuredError(Exception):
    """Why something cannot be measured on this machine."""


def environment(label: str) -> Path:
    """Interpreter of the environment; one of ``tests.support.venvs`` when it is not ours."""
    try:
        return venvs.ensure(label, packages=PACKAGES.get(label))
    except subprocess.CalledProcessError as exc:
        raise NotMeasuredError(f"the environment {label} cannot be made") from exc


def run_in(label: str, program: Path, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> Any:
    """Run a program in an environment; the JSON of its last line of output. ``variables``: instead of our own."""
    command = [str(environment(label)), str(program), *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"} if variables is None else variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise NotMeasuredError(reason[0][:200])
    return json.loads(done.stdout.splitlines()[-1])
