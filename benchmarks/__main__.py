"""``make bench``: every program, one after the other; then the plots and the table of docs/benchmarks.md.

``python -m benchmarks [NAME ...] [--quick]`` runs some of them.  The results are kept in
``benchmarks/results/``, one JSON file per program, and ``--report`` makes plots and table from what is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import write_report
from benchmarks.support.facts import ROOT

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"

QUICK: dict[str, list[str]] = {
    "adapters": ["--rounds", "3"],
    "durable": ["--rounds", "2"],
    "end_to_end": ["--rounds", "1", "--each", "20000"],
    "enqueue": ["--rounds", "6"],
    "idle": ["--rounds", "5", "--seconds", "3"],
    "memory": ["--rounds", "3", "--seconds", "2"],
    "scale": [
        "--rounds",
        "1",
        "--producers",
        "1",
        "8",
        "--events",
        "1000",
        "100000",
        "--sizes",
        "100",
        "10000",
        "--total",
        "64000",
    ],
    "steady": ["--rounds", "1", "--seconds", "0.5", "--rates", "100", "1000"],
    "tail": ["--rounds", "2"],
    "tls": ["--rounds", "2"],
    "transcode": ["--rounds", "6"],
    "wire": ["--quick"],
    "wsgi": ["--rounds", "2"],
}
"""Arguments that only show that a program works."""


def names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run(name: str, results: Path, *, quick: bool) -> bool:
    """Run one program. False: it failed."""
    print(f"== {name} ==", flush=True)
    begin = time.monotonic()
    extra = QUICK.get(name, []) if quick else []
    command = [sys.executable, str(HERE / f"bench_{name}.py"), "--json", str(results / f"{name}.json"), *extra]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(f"   {time.monotonic() - begin:.0f} s" + (f", FAILED with {code}" if code else ""), flush=True)
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*names(), []], help="programs to run (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, into a folder of its own: shows that all work"
    )
    parser.add_argument("--report", action="store_true", help="run nothing; plots and table from the last results")
    given = parser.parse_args()
    results = RESULTS.with_name("results-quick") if given.quick else RESULTS
    results.mkdir(exist_ok=True)
    wanted = [] if given.report else given.name or names()
    failed = [name for name in wanted if not run(name, results, quick=given.quick)]
    if not given.quick:
        write_report(results)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
