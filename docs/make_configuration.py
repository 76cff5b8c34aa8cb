"""Writes the tables of configuration.md. Run it after a change to the table in ``vwo_fast/_options.py``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vwo_fast._options import ALIASES, OPTIONS, Option

PAGE = Path(__file__).resolve().parent / "configuration.md"


def page(text: str) -> str:
    """The page with its tables made anew; everything outside the marks stays as it is."""
    for name, lines in (("options", options_table()), ("names", names_table())):
        marks = re.compile(rf"(<!-- begin: {name} .*?-->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        if len(marks.findall(text)) != 1:
            raise ValueError(f"{PAGE.name}: expected one pair of marks for the table of {name}")
        text = marks.sub(lambda found, lines=lines: found[1] + "\n".join(lines) + "\n" + found[2], text)
    return text


def options_table() -> list[str]:
    """All options, the important ones first."""
    rank = {"high": 0, "medium": 1, "low": 2}
    lines = ["| option | allowed | default | importance | scope | meaning |", "|---|---|---|---|---|---|"]
    for option in sorted(OPTIONS.values(), key=lambda option: rank[option.importance]):
        default = f"`{option.default}`" if option.default_text is None else option.default_text
        cells = (f"`{option.name}`", allowed(option), default, option.importance, option.scope, option.doc)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def names_table() -> list[str]:
    """The other names of options."""
    lines = ["| name | option | unit |", "|---|---|---|"]
    return lines + [f"| `{alias.name}` | `{alias.option}` | {alias.unit} |" for alias in ALIASES.values()]


def allowed(option: Option) -> str:
    """The range as a reader of a table wants it."""
    if option.kind == "choice":
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if option.kind == "url":
        return "http or https URL"
    if option.kind in ("file", "folder", "program"):
        return "path"
    noun = "power of two, " if option.kind == "power of two" else ""
    if option.maximum is None:
        return f"{noun}{option.minimum} {option.unit} or more"
    return f"{noun}{option.minimum} to {option.maximum} {option.unit}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
