"""The spool under damage: any byte changed, the file cut anywhere, and still every event is accounted for."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.rooms import ROUTE, sealed
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.spool_file import PAGE_BYTES
from vwo_fast.aggregator.spool_rows import SCHEMA
from vwo_fast.route import Route

OTHER = Route.fullstack(account_id=2, sdk_key="k", sdk_version="1")
ROUTES = [(route.key, route.encode()) for route in (ROUTE, OTHER)]
BATCHES = 24
ANY = 1 << 40

_SETTINGS = settings(max_examples=80, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two spools of the same content: in one it is in the database, in the other in its log."""
    folder = tmp_path_factory.mktemp("intact")
    for name in ("closed", "open"):
        (folder / name).mkdir()
        spool = Spool(folder / name / "s")
        spool.add([made(n) for n in range(BATCHES)], ROUTES)
        if name == "closed":
            spool.close()
        else:
            copy = folder / "copy"
            copy.mkdir()
            for suffix in ("", "-wal"):
                shutil.copy(folder / name / f"s{suffix}", copy / f"s{suffix}")
            spool.close()
            shutil.rmtree(folder / name)
            copy.rename(folder / name)
    return folder


def made(number: int) -> Sealed:
    """A batch whose id, events and size follow from its number."""
    batch = sealed(
        number + 1, events=1 + number % 5, route=OTHER if number % 3 == 0 else ROUTE, size=3000 * (number % 4)
    )
    batch.id = f"{number:032x}"
    return batch


def damaged_copy(intact: Path, where: Path, changes: list[tuple[float, int]], cut: float | None) -> None:
    """``changes``: place in the file from 0 to 1, and what is put there; ``cut``: how much of it is left."""
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(intact, where)
    files = sorted(path for path in where.iterdir() if path.stat().st_size)
    data = [bytearray(path.read_bytes()) for path in files]
    total = sum(map(len, data))
    for place, value in changes:
        offset = min(int(place * total), total - 1)
        for content in data:
            if offset < len(content):
                content[offset] ^= value
                break
            offset -= len(content)
    if cut is not None:
        # The larger one holds what matters.
        largest = max(range(len(data)), key=lambda index: len(data[index]))
        del data[largest][int(cut * len(data[largest])) :]
    for path, content in zip(files, data, strict=True):
        path.write_bytes(content)


def drain(spool: Spool) -> tuple[list[Sealed], int]:
    """All batches that a shipper would get, and the events it would be told are dead letters."""
    found: list[Sealed] = []
    dead = 0
    for key in spool.rows_per_route():
        after = (-(1 << 62), 0)
        for _ in range(10 * BATCHES):
            batches, damaged = spool.load(key, after, rows_max=7, bytes_max=ANY)
            dead += damaged.events
            found += batches
            if not batches and not damaged.rows:
                break
            if batches:
                after = batches[-1].key
    return found, dead


def examine(folder: Path) -> dict[str, Any]:
    """Open the spool of a folder and say what became of its events."""
    spool = Spool(folder / "s")
    try:
        spool.seal_fragments()
        held = spool.totals.events
        batches, dead = drain(spool)
        spool.add([sealed(10_000)], [(ROUTE.key, ROUTE.encode())])
    finally:
        spool.close()
    return {"batches": batches, "held": held, "dead": dead, "aside": spool.put_aside, "salvaged": spool.salvaged}


def check(intact: Path, folder: Path) -> dict[str, Any]:
    """Nothing is sent that was not put in, nothing twice, and a second start finds a whole spool."""
    originals = {batch.id: batch for batch in map(made, range(BATCHES))}
    seen = examine(folder)
    ids = [batch.id for batch in seen["batches"]]
    assert len(ids) == len(set(ids))
    for batch in seen["batches"]:
        original = originals[batch.id]
        assert (batch.body, batch.events, batch.key) == (original.body, original.events, original.key)
        assert batch.offsets == original.offsets
    assert sum(batch.events for batch in seen["batches"]) + seen["dead"] == seen["held"]
    again = Spool(folder / "s")
    assert again.put_aside is None
    again.close()
    return seen


@pytest.mark.parametrize("state", ["closed", "open"])
@given(data=st.data())
@_SETTINGS
def test_any_bytes_changed(intact: Path, tmp_path: Path, state: str, data: st.DataObject) -> None:
    """Whatever is hit, the start succeeds, and no batch is sent that differs from what was kept."""
    changes = data.draw(
        st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4), label="changes"
    )
    damaged_copy(intact / state, tmp_path / "s", changes, None)
    check(intact, tmp_path / "s")


def test_any_name_of_the_schema_changed(intact: Path, tmp_path: Path) -> None:
    """A table or column that is called otherwise is damage, also where its name is first used long after the start."""
    content = (intact / "closed" / "s").read_bytes()
    names = [found for found in re.finditer(rb"[a-z_]{3,}", content[: 2 * PAGE_BYTES]) if found[0].decode() in SCHEMA]
    assert len(names) > 20
    for found in names:
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        shutil.copytree(intact / "closed", tmp_path / "s")
        changed = bytearray(content)
        changed[found.start() + 1] ^= 1
        (tmp_path / "s" / "s").write_bytes(changed)
        seen = check(intact, tmp_path / "s")
        assert len(seen["batches"]) == BATCHES


@pytest.mark.parametrize("state", ["closed", "open"])
@given(cut=st.floats(0, 1))
@example(cut=0.0)
@example(cut=0.5)
@_SETTINGS
def test_cut_anywhere(intact: Path, tmp_path: Path, state: str, cut: float) -> None:
    """A file that ends too early costs what it lost, and no start."""
    damaged_copy(intact / state, tmp_path / "s", [], cut)
    check(intact, tmp_path / "s")


def test_one_changed_bit_costs_little(intact: Path, tmp_path: Path) -> None:
    """A single bit changed anywhere in the database costs on average less than three of 24 batches."""
    chance = random.Random(7)
    lost = []
    for _ in range(60):
        damaged_copy(intact / "closed", tmp_path / "s", [(chance.random(), 1 << chance.randrange(8))], None)
        lost.append(BATCHES - len(check(intact, tmp_path / "s")["batches"]))
    assert sum(lost) / len(lost) < 3, lost


def test_the_first_page_gone_costs_nothing(intact: Path, tmp_path: Path) -> None:
    """With its first 4096 bytes overwritten no database can be opened; every batch is read out of it all the same."""
    folder = tmp_path / "s"
    shutil.copytree(intact / "closed", folder)
    with (folder / "s").open("r+b") as file:
        file.write(b"\xa5" * 4096)
    seen = check(intact, folder)
    assert len(seen["batches"]) == BATCHES
    assert seen["aside"] is not None
    assert seen["aside"].read_bytes().startswith(b"\xa5" * 4096)
