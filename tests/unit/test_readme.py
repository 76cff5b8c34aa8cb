"""The README is short, its links lead somewhere, and what it shows runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import engine
from tests.support.servers import ROOT, environment_python, queue_environment

README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_it_is_short() -> None:
    """Less than 150 lines."""
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link of the documents at the top names a file of the repository."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / document).read_text())
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert missing == []


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet-{number}" for number in range(1, len(SNIPPETS) + 1)])
def test_snippets_run(snippet: str) -> None:
    """Each Python block runs as it stands, against the collector, and its events arrive."""
    python = environment_python("fullstack") if "fullstack" in snippet else sys.executable
    with engine() as made:
        environment = queue_environment(made)
        # The snippets name their own queue and batches.
        for option in ("VWO_FAST_QUEUE", "VWO_FAST_EVENTS_PER_REQUEST", "VWO_FAST_REQUEST_TIME_INTERVAL"):
            del environment[option]
        done = subprocess.run([python, "-c", snippet], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert made.collector.events


def test_commands_exist() -> None:
    """Each make target that the README and CONTRIBUTING name is in the Makefile."""
    named = set(re.findall(r"\bmake ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    targets = set(re.findall(r"^([a-z-]+):", Path(ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= targets
