"""The program behind ``make demo``."""

from __future__ import annotations

import subprocess

from tests.support.servers import ROOT, environment_python


def test_vwo_fast_loses_and_duplicates_nothing() -> None:
    """The demo's own half, a tenth of its size: one worker killed, gunicorn stopped, exit 0 and zeros in the table."""
    python = environment_python("fullstack")
    command = [python, "examples/demo.py", "--only=vwo_fast", "--requests=200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line[:20].strip(): line[20:].strip() for line in done.stdout.splitlines()}
    assert rows["lost"] == rows["duplicated"] == "0"
    assert rows["arrived"] == rows["impressions made"]
    assert "kill -9 worker" in done.stderr
