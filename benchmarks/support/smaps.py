"""Memory of a process, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["memory"]

MEGABYTE = 1 << 20


def memory(pid: int | str = "self") -> dict[str, float]:
    """Megabytes."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    uss = fields["Private_Clean"] + fields["Private_Dirty"]
    return {name: value / MEGABYTE for name, value in (("RSS", fields["Rss"]), ("PSS", fields["Pss"]), ("USS", uss))}
