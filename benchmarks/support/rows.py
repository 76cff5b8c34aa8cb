"""Rows of the table, the command line that all programs share, and what they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.support.facts import facts
from benchmarks.support.rounds import Pair

__all__ = ["NOT_TOLD", "Row", "finish", "options", "pair_row", "skipped"]

NOT_TOLD = "cannot be told"
"""Whether a goal is met, when the interval of what was found holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: what was measured, against what, and whether the goal was met.

    ``met`` is None where there is no goal, and where there is one but what was found cannot tell.
    """

    what: str
    against: str = "-"
    ours: str = ""
    theirs: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None
    note: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    """The numbers behind the text, for programs."""


def skipped(what: str, against: str, reason: str) -> Row:
    """What could not be measured here."""
    return Row(what=what, against=against, note=f"not measured: {reason}", figures={"skipped": reason})


def pair_row(
    pair: Pair, *, what: str, against: str, unit: str, at_most: float | None, note: str = "", times_faster: bool = False
) -> Row:
    """A row of a pair of ways; ``at_most``: the goal for ours / theirs."""
    ratio = pair.ratio
    if times_faster:
        shown = f"{1 / ratio.median:.1f} x faster ({1 / ratio.high:.1f} to {1 / ratio.low:.1f})"
        goal = "" if at_most is None else f"≥ {1 / at_most:g} x faster"
    else:
        shown = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        goal = "" if at_most is None else f"≤ {at_most:g}"
    return Row(
        what=what,
        against=against,
        ours=f"{pair.ours.median:.4g} {unit}",
        theirs=f"{pair.theirs.median:.4g} {unit}",
        ratio=shown,
        goal=goal,
        met=None if at_most is None else ratio.median <= at_most,
        note=note,
        figures={"unit": unit, **pair.as_dict()},
    )


def options(description: str | None, *, rounds: int, **more: Any) -> argparse.ArgumentParser:
    """A parser with what every program understands."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of each way (default {rounds})")
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    return parser


def finish(name: str, rows: Iterable[Row], json_path: Path | None, **more: Any) -> int:
    """Print the rows, write the JSON. Returns the exit code."""
    made = list(rows)
    result = {"benchmark": name, "facts": facts(), **more, "rows": [asdict(row) for row in made]}
    for row in made:
        mark = {True: "met", False: "MISSED", None: row.goal and NOT_TOLD}[row.met]
        parts = [
            row.what,
            row.against,
            row.ours,
            row.theirs,
            row.ratio,
            row.goal and f"goal {row.goal}",
            mark,
            row.note,
        ]
        print(" | ".join(part for part in parts if part))
    sys.stdout.flush()
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0
