"""From results to docs: the table between the marks of docs/benchmarks.md, and the plots beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.support.facts import ROOT
from benchmarks.support.rows import NOT_TOLD
from vwo_fast.tuning.plot import Bar, Line, bar_chart, line_chart, save

__all__ = ["table", "write_report"]

PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "img"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
ORDER = (
    *("enqueue", "tail", "adapters", "transcode", "end_to_end", "steady", "wsgi", "scale", "memory", "idle", "wire"),
    *("tls", "floor"),
)

Result = dict[str, Any]


def load(results: Path) -> dict[str, Result]:
    """Results by the name of their program, in the order of the table."""
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    return {name: found[name] for name in ORDER if name in found}


def machine(facts: dict[str, Any]) -> str:
    return f"{facts['cpu']}, {facts['cpus']} cores, {facts['system']}, Python {facts['python']}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(results: dict[str, Result]) -> str:
    """All rows as Markdown, one table per program, each under the facts of its own run."""
    lines: list[str] = []
    for name, result in results.items():
        facts = result["facts"]
        load_before = ", ".join(map(str, facts["load"]))
        sink = f", server: {result['sink']}" if "sink" in result else ""
        lines += [
            f"### `python benchmarks/bench_{name}.py`",
            "",
            f"{machine(facts)}; commit {facts['commit']}; {facts['taken']}; load at the end {load_before}{sink}.",
            "",
            "| what | beside | ours | theirs | ratio | goal | met | note |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in result["rows"]:
            met = {True: "yes", False: "**no**", None: row["goal"] and NOT_TOLD}[row["met"]]
            cells = (
                row["what"],
                row["against"],
                row["ours"],
                row["theirs"],
                row["ratio"],
                row["goal"],
                met,
                row["note"],
            )
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
        lines.append("")
    return "\n".join(lines)


def caption(result: Result) -> str:
    facts = result["facts"]
    return f"{machine(facts)}; commit {facts['commit']}; python -m benchmarks {result['benchmark']}"


def enqueue_plot(result: Result) -> str:
    """Each contender beside the median of our own figures in all the runs."""
    rows = [row for row in result["rows"] if "theirs" in row["figures"]]
    ours = sorted(rows, key=lambda row: row["figures"]["ours"]["median"])[len(rows) // 2]["figures"]["ours"]
    bars = [Bar(name="vwo_fast enqueue", value=ours["median"], low=ours["p10"], high=ours["p90"], is_ours=True)]
    for row in rows:
        theirs = row["figures"]["theirs"]
        bars.append(Bar(name=row["against"], value=theirs["median"], low=theirs["p10"], high=theirs["p90"]))
    bars.sort(key=lambda bar: bar.value)
    title = "Handing one impression over, nanoseconds of the caller's time (logarithmic)"
    return bar_chart(bars, title=title, unit="ns", caption=caption(result), log=True)


def scale_plot(row: dict[str, Any], result: Result, x_name: str, y_name: str) -> str:
    figures = row["figures"]
    lines = [
        Line(name=name, points=sorted((float(point), value) for point, value in figures[name].items()))
        for name in ("producer", "aggregator")
    ]
    title = str(row["what"])
    return line_chart(lines, title=title, x_name=x_name, y_name=y_name, caption=caption(result), log_x=True)


def write_report(results_folder: Path) -> None:
    """Write plots and table of what has been measured."""
    results = load(results_folder)
    if "enqueue" in results and any("theirs" in row["figures"] for row in results["enqueue"]["rows"]):
        save(IMAGES / "bench-enqueue.svg", enqueue_plot(results["enqueue"]))
    if "scale" in results:
        axes = (
            ("bench-producers.svg", "producers", "ns per event"),
            ("bench-events.svg", "events", "ns per event"),
            ("bench-sizes.svg", "bytes", "ns per byte"),
        )
        drawn = [row for row in results["scale"]["rows"] if "producer" in row["figures"]]
        for (name, x_name, y_name), row in zip(axes, drawn, strict=True):
            save(IMAGES / name, scale_plot(row, results["scale"], x_name, y_name))
    if PAGE.exists():
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n{END}{after}")
