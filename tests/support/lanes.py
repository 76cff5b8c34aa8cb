"""A lane owner that writes down what its hooks are told, and a reader's shortest way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vwo_fast import _batch, _lane

__all__ = ["CAPACITY", "LANE_ID", "Owner", "in_child", "read"]

CAPACITY = 1 << 16
LANE_ID = 77


def _nothing(*_: object) -> bool:
    return False


def _agree(*_: object) -> bool:
    return True


class Owner(_lane.LaneOwner):
    """Hooks that write down what they are told; each can be replaced by a function."""

    def __init__(self, control: _lane.Control, folder: Path) -> None:
        super().__init__(control)
        self.folder = folder
        self.lanes: list[str] = []
        self.heard: list[tuple[Any, ...]] = []
        self.on: dict[str, Callable[..., Any]] = {}

    def path(self) -> str:
        return self.lanes[-1]

    def refusals(self) -> list[int]:
        return [entry[1] for entry in self.heard if entry[0] == "refused"]

    def hook_attach(self) -> bool:
        if "attach" in self.on:
            return bool(self.on["attach"]())
        return self.make_lane()

    def make_lane(self) -> bool:
        path = str(self.folder / f"lane-{os.getpid()}-{len(self.lanes)}")
        self.open_lane(path, LANE_ID + len(self.lanes), 5, CAPACITY, True)
        os.rename(f"{path}.tmp", path)
        self.lanes.append(path)
        return True

    def hook_ring(self) -> None:
        self.heard.append(("ring",))
        self.on.get("ring", _nothing)()

    def hook_tick(self) -> None:
        self.heard.append(("tick",))
        self.on.get("tick", _nothing)()

    def hook_full(self, needed_bytes: int, waited: float) -> bool:
        self.heard.append(("full", needed_bytes))
        return bool(self.on.get("full", _nothing)(needed_bytes))

    def hook_external(self, seq: int, payload: bytes) -> bool:
        self.heard.append(("external", seq, payload))
        return bool(self.on.get("external", _agree)(seq, payload))

    def hook_refused(self, reason: int, detail: str) -> None:
        self.heard.append(("refused", reason, detail))
        self.on.get("refused", _nothing)(reason, detail)


def read(reader: _lane.LaneReader) -> list[bytes]:
    """JSON of everything that is left in a lane."""
    found = []
    while (record := reader.take()) is not None:
        found.append(_batch.to_json(record[5]))
    return found


def in_child(work: Callable[[], object]) -> int:
    """Exit status of a forked child that does ``work``."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
