"""Instructions per event on the hot paths, against the committed budget: a count is the same on a busy machine.

A change that costs more than the tolerance is either a mistake or a decision; for the latter the budget is
written anew by ``python -m tests.unit.test_budget``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUDGET = ROOT / "benchmarks" / "budget.json"
C_EVENTS = 1000
PYTHON_EVENTS = 2000
C_COSTS = {
    "publish": ("vf_lane_publish", "fullstack"),
    "drain": ("vf_reader_drain", "fullstack"),
    "drain_fme": ("vf_reader_drain", "fme"),
}
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def budget() -> Any:
    return json.loads(BUDGET.read_text())


@cache
def driver() -> Path:
    """The compiled C program, in a folder that lasts as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="vft-cost-"))
    sources = [ROOT / "tests" / "c" / "cost_lane.c", *sorted((ROOT / "csrc").glob("*.c"))]
    command = [os.environ.get("CC", "cc"), "-std=c11", "-O2", "-g", f"-I{ROOT / 'csrc'}", *map(str, sources)]
    subprocess.run([*command, "-lm", "-o", str(folder / "cost_lane")], check=True)
    return folder / "cost_lane"


def instructions(function: str, command: list[str], folder: Path) -> int:
    """Executed inside ``function``, with all that it calls."""
    output = folder / "callgrind.out"
    valgrind = ["valgrind", "--tool=callgrind", f"--toggle-collect={function}", f"--callgrind-out-file={output}"]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([*valgrind, *command], check=True, capture_output=True, env=environment, cwd=ROOT)
    found = re.search(r"^(?:summary|totals): (\d+)", output.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def c_cost(name: str, folder: Path) -> float:
    function, shape = C_COSTS[name]
    return instructions(function, [str(driver()), shape, str(folder / "lane")], folder) / C_EVENTS


def python_cost(folder: Path) -> float:
    command = [sys.executable, "-m", "tests.support.cost_enqueue", str(PYTHON_EVENTS), str(folder)]
    return instructions("*8Producer*enqueue*", command, folder) / PYTHON_EVENTS


def check(cost: float, allowed: float) -> None:
    tolerance = budget()["tolerance"]
    assert 0 < cost <= allowed * (1 + tolerance), f"{cost:.0f} instructions per event, the budget is {allowed}"


needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")


@needs_valgrind
@pytest.mark.parametrize("name", sorted(C_COSTS))
def test_c_paths_keep_their_budget(name: str, tmp_path: Path) -> None:
    """Publishing a record, and turning records into a batch, take no more instructions than was decided."""
    check(c_cost(name, tmp_path), budget()["instructions_per_event"][name])


@needs_valgrind
def test_enqueue_keeps_its_budget(tmp_path: Path) -> None:
    """So does the whole of Producer.enqueue, interpreter's own functions included, which differ by its version."""
    allowed = budget()["instructions_per_event"]["enqueue"].get(VERSION)
    if allowed is None:
        pytest.skip(f"optional: no budget for Python {VERSION}")
    check(python_cost(tmp_path), allowed)


def write_budget() -> None:
    """Take what it costs now as the budget."""
    kept = budget()
    counts = kept["instructions_per_event"]
    for name in C_COSTS:
        with tempfile.TemporaryDirectory() as folder:
            counts[name] = round(c_cost(name, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        counts["enqueue"][VERSION] = round(python_cost(Path(folder)))
    BUDGET.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    write_budget()
