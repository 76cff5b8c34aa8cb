"""The spool: what is kept, in which order, and what a damaged file does."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.rooms import ROUTE, sealed
from vwo_fast.aggregator.sealed import ALL_VISITORS, Sealed, Source
from vwo_fast.aggregator.spool import Damaged, Fragment, Spool
from vwo_fast.aggregator.spool_file import LOG_BYTES
from vwo_fast.route import Route

OTHER = Route.fullstack(account_id=2, sdk_key="k", sdk_version="1")
ROUTES = [(route.key, route.encode()) for route in (ROUTE, OTHER)]
ANY = 1 << 30
_open: list[Spool] = []


@pytest.fixture(autouse=True)
def _close_spools() -> Iterator[None]:
    """A database that is still open when it is collected is a warning, which is an error here."""
    yield
    while _open:
        _open.pop().close()


def opened(path: Path, **options: Any) -> Spool:
    """A spool that is closed at the end of the test."""
    _open.append(Spool(path, **options))
    return _open[-1]


def load(spool: Spool, after: tuple[int, int] = (-1, -1), rows_max: int = 100) -> list[Sealed]:
    found, damaged = spool.load(ROUTE.key, after, rows_max=rows_max, bytes_max=ANY)
    assert damaged.rows == 0
    return found


def test_batches_come_back_as_they_were(tmp_path: Path) -> None:
    """After a reopen, everything that matters of a batch is there: body, order, sources, visitors, tries."""
    spool = opened(tmp_path / "s")
    made = sealed(5, events=3, owner=9)
    made.attempts, made.first_try, made.last_error, made.is_uncertain = 4, 12.5, "status 503", True
    spool.add([made], ROUTES)
    spool.close()
    again = opened(tmp_path / "s")
    (found,) = load(again)
    for name in ("id", "route_key", "ordinal", "part", "body", "offsets", "events", "visitors", "sources", "attempts"):
        assert getattr(found, name) == getattr(made, name), name
    assert (found.first_try, found.last_error, found.created) == (12.5, "status 503", 1.0)
    assert found.is_uncertain
    assert dict(again.routes()) == dict(ROUTES)
    assert (again.totals.batches, again.totals.events) == (1, 3)
    assert again.rows_per_route() == {ROUTE.key: 1}


def test_the_log_beside_the_file_stays_small(tmp_path: Path) -> None:
    """However much is written, SQLite's log has its bound and what one transaction adds: the rest is in the file."""
    spool = opened(tmp_path / "s")
    log = tmp_path / "s-wal"
    most = 0
    for ordinal in range(40):
        spool.add([sealed(ordinal, events=300, size=1000)], ROUTES)
        most = max(most, log.stat().st_size)
    assert spool.totals.bytes > 2 * LOG_BYTES
    assert LOG_BYTES < most < LOG_BYTES + 2 * spool.totals.bytes / 40


def test_the_order_is_that_of_sealing(tmp_path: Path) -> None:
    """Rows come by ordinal and part, whatever the order of writing; a place in the order is where reading goes on."""
    spool = opened(tmp_path / "s")
    spool.add([sealed(3), sealed(1)], ROUTES)
    spool.add([sealed(2, events=4), sealed(9, route=OTHER)], ROUTES)
    parent = load(spool)[1]
    spool.split(parent, parent.split())
    assert [found.key for found in load(spool)] == [(1, 0), (2, 0), (2, 2), (3, 0)]
    assert [found.key for found in load(spool, (2, 0))] == [(2, 2), (3, 0)]
    assert [found.key for found in load(spool, rows_max=2)] == [(1, 0), (2, 0)]
    assert (spool.first_ordinal(), spool.last_ordinal()) == (1, 9)
    assert spool.totals.events == 1 + 4 + 1 + 1


def test_reading_is_bounded_in_bytes(tmp_path: Path) -> None:
    """One batch comes however large it is; no further one once the budget is used, visitor filters included."""
    spool = opened(tmp_path / "s")
    spool.add([sealed(n, size=1000) for n in range(5)], ROUTES)
    found, _ = spool.load(ROUTE.key, (-1, -1), rows_max=100, bytes_max=1)
    assert len(found) == 1
    found, _ = spool.load(ROUTE.key, (-1, -1), rows_max=100, bytes_max=sealed(0, size=1000).memory * 5 // 2)
    assert len(found) == 3


def test_totals_follow_every_change(tmp_path: Path) -> None:
    """Adding, removing and burying keep the totals equal to what a fresh look at the file gives."""
    spool = opened(tmp_path / "s")
    batches = [sealed(n, events=n + 1) for n in range(4)]
    spool.add(batches, ROUTES)
    spool.remove([batches[0]])
    spool.bury(batches[3], status=400, message="no", excerpt="why")
    totals = spool.totals
    spool.close()
    again = opened(tmp_path / "s")
    assert again.totals == totals
    assert (totals.batches, totals.events, totals.dead_events) == (2, 5, 4)
    assert totals.bytes > batches[1].size + batches[2].size


def test_a_limit_in_bytes(tmp_path: Path) -> None:
    """has_room counts bodies, fragments and what a row costs."""
    spool = opened(tmp_path / "s", bytes_max=5000)
    assert spool.has_room(5000)
    assert not spool.has_room(5001)
    spool.add([sealed(1, size=1000)], ROUTES)
    assert not spool.has_room(4000)
    spool.save_fragment(fragment(1, 0, 2), ROUTES)
    assert not spool.has_room(3000)


def fragment(open_id: int, first: int, last: int) -> Fragment:
    whole = sealed(0, events=last)
    bounds = memoryview(whole.offsets).cast("I")
    json_part = whole.body[bounds[first] : bounds[last] - 1]
    offsets = b"".join((bounds[i] - bounds[first]).to_bytes(4, "little") for i in range(first, last + 1))
    source = Source(7, 0, first * 64, last * 64, last - first)
    return Fragment(open_id=open_id, route_key=ROUTE.key, json=json_part, offsets=offsets, sources=(source,))


def test_fragments_of_a_batch_that_was_never_sealed_become_one(tmp_path: Path) -> None:
    """After a kill the parts of each open batch are joined in order; such a batch may hold any visitor."""
    spool = opened(tmp_path / "s")
    spool.add([sealed(4)], ROUTES)
    spool.save_fragment(fragment(11, 0, 3), ROUTES)
    spool.save_fragment(fragment(22, 0, 1), ROUTES)
    spool.save_fragment(fragment(11, 3, 5), ROUTES)
    assert spool.totals.fragment_events == 6
    spool.close()
    again = opened(tmp_path / "s")
    assert sorted(source.start for source in again.sources()) == [0, 0, 192, 4000]
    assert again.seal_fragments() == Damaged()
    assert again.totals.batches == 3
    joined = load(again, (4, 0))
    assert [[e["n"] for e in json.loads(batch.body)["ev"]] for batch in joined] == [[0, 1, 2, 3, 4], [0]]
    assert all(batch.visitors == ALL_VISITORS for batch in joined)
    assert [json.loads(half.body)["ev"][0]["n"] for half in joined[0].split()] == [0, 2]
    assert (again.totals.batches, again.totals.events, again.totals.fragment_events) == (3, 7, 0)
    assert again.seal_fragments() == Damaged()


def test_a_sealed_batch_takes_its_fragments_with_it(tmp_path: Path) -> None:
    """Whether it is spilled or delivered, no fragment is left that a restart would send again."""
    for name, finish in (("spilled", Spool.add), ("delivered", Spool.remove)):
        spool = opened(tmp_path / name)
        spool.save_fragment(fragment(11, 0, 3), ROUTES)
        made = sealed(1, events=3)
        made.open_id = 11
        assert spool.events_held(made) == 3
        if finish is Spool.add:
            spool.add([made], ROUTES)
        else:
            spool.remove([made])
        assert spool.totals.fragment_events == 0
        assert spool.totals.fragment_bytes == 0
        assert spool.seal_fragments() == Damaged()


def test_a_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    """When a write fails in the middle, rows, totals and the batch are as before."""
    spool = opened(tmp_path / "s")
    good, bad = sealed(1), sealed(2)
    bad.body = None  # type: ignore[assignment]
    with pytest.raises((sqlite3.Error, TypeError)):
        spool.add([good, bad], ROUTES)
    assert (spool.totals.batches, good.row) == (0, None)
    assert load(spool) == []
    spool.add([good], ROUTES)
    assert [found.id for found in load(spool)] == [good.id]


def test_files_are_of_this_user_alone(tmp_path: Path) -> None:
    """The database and its companions are 0600, whatever the umask."""
    spool = opened(tmp_path / "s")
    spool.add([sealed(1)], ROUTES)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert "s-wal" in modes


@pytest.mark.parametrize("content", [b"garbage" * 2000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_put_aside(tmp_path: Path, content: bytes) -> None:
    """What is no database is renamed and kept; the spool works."""
    (tmp_path / "s").write_bytes(content)
    spool = opened(tmp_path / "s")
    assert spool.put_aside is not None
    assert spool.put_aside.read_bytes() == content
    spool.add([sealed(1)], ROUTES)
    assert len(load(spool)) == 1


def test_damage_that_sqlite_cannot_put_into_words(tmp_path: Path) -> None:
    """A byte of the schema that is no UTF-8 gets into SQLite's message: it is damage like any other."""
    spool = opened(tmp_path / "s")
    spool.add([sealed(n) for n in range(3)], ROUTES)
    spool.close()
    content = (tmp_path / "s").read_bytes()
    assert b"CREATE TABLE batch" in content
    (tmp_path / "s").write_bytes(content.replace(b"CREATE TABLE batch", b"CREATE TABL\xc5 batch"))
    again = opened(tmp_path / "s")
    assert again.put_aside is not None
    assert [batch.ordinal for batch in load(again)] == [0, 1, 2]


def test_an_emptied_spool_gives_its_space_back(tmp_path: Path) -> None:
    """After an outage is over the file is small again."""
    spool = opened(tmp_path / "s")
    batches = [sealed(n, size=100_000) for n in range(20)]
    spool.add(batches, ROUTES)
    for made in batches:
        spool.remove([made])
    spool.close()
    assert (tmp_path / "s").stat().st_size < 200_000


def test_a_row_that_contradicts_itself_becomes_a_dead_letter(tmp_path: Path) -> None:
    """Damage inside a row is found when it is read; the others are delivered, and nothing is thrown away."""
    spool = opened(tmp_path / "s")
    spool.add([sealed(n, events=4) for n in range(5)], ROUTES)
    spool.save_fragment(fragment(1, 0, 3), ROUTES)
    spool.close()
    with sqlite3.connect(tmp_path / "s") as db:
        db.execute("UPDATE batch SET offsets=X'00000000' WHERE ordinal=1")
        db.execute("UPDATE batch SET visitors=X'1234' WHERE ordinal=2")
        db.execute("UPDATE batch SET sources=X'C1' WHERE ordinal=3")
        db.execute("UPDATE fragment SET offsets=X'0102'")
    db.close()
    again = opened(tmp_path / "s")
    assert {source.lane for source in again.sources()} == {7}
    again.seal_fragments()
    found, damaged = again.load(ROUTE.key, (-1, -1), rows_max=100, bytes_max=ANY)
    assert [batch.ordinal for batch in found] == [0, 4]
    assert (damaged.rows, damaged.events) == (3, 12)
    assert (again.totals.batches, again.totals.events) == (2, 8)
