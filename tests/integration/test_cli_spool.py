"""``vwo-fast spool`` and ``vwo-fast dead`` beside a running aggregator and without one."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import ACCOUNT, SDK_KEY, Engine, engine, impression, numbers, route, wait_for
from vwo_fast import cli
from vwo_fast.cli_spool import duration

Command = Callable[..., tuple[int, Any]]


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


@pytest.fixture
def command(shop: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on the engine's queue: (exit code, what it printed, parsed when that was asked for)."""
    for name in [name for name in os.environ if name.startswith("VWO_FAST_")]:
        monkeypatch.delenv(name)

    def run(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = cli.main([*words, "--queue", "shop", "--run-dir", str(shop.run_dir)])
        printed = capsys.readouterr().out
        return code, json.loads(printed) if "--json" in words and printed else printed

    return run


def away(shop: Engine, batches: int) -> vwo_fast.Queue:
    """A queue with so many batches of 5 events in its spool, because VWO answers 503."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=5)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(5 * batches))
    wait_for(lambda: queue.stats().spooled == 5 * batches)
    return queue


def refused(shop: Engine, letters: int) -> vwo_fast.Queue:
    """A queue with dead letters: VWO answers 400 to whatever comes."""
    shop.collector.rules.append(Rule(status=400, body=b"no such event"))
    queue = shop.queue(events_per_request=1)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(letters))
    wait_for(lambda: queue.stats().dead == letters)
    shop.collector.rules.clear()
    return queue


def ledger(queue: vwo_fast.Queue) -> int:
    stats = queue.stats()
    where = stats.delivered + stats.queued + stats.in_flight + stats.spooled + stats.dead
    return where + sum(stats.dropped.values())


@pytest.mark.parametrize("running", [True, False])
def test_the_spool_is_listed_shown_and_exported(shop: Engine, command: Command, tmp_path: Path, running: bool) -> None:
    """All of it with and without an aggregator; lists hold no key and no visitor, and nothing leaves the spool."""
    queue = away(shop, 4)
    if not running:
        shop.kill_aggregator(number=signal.SIGTERM)
    code, listed = command("spool", "ls", "--json")
    assert code == 0
    assert [(batch["events"], batch["account_id"], batch["sdk"]) for batch in listed["batches"]] == [
        (5, ACCOUNT, "fullstack")
    ] * 4
    text = command("spool", "ls")[1]
    for shown in (json.dumps(listed), text):
        assert not any(secret in shown for secret in (SDK_KEY, "203.0.113.7", "Mozilla", f"{3:032X}"))
    assert "4 batches with 20 events" in text
    first = listed["batches"][0]["id"]
    code, batch = command("spool", "show", first[:12], "--json")
    assert (code, numbers(batch["content"])) == (0, [0, 1, 2, 3, 4])
    assert SDK_KEY not in json.dumps(batch)
    assert f"{4:032X}" in command("spool", "show", first)[1]
    assert command("spool", "show", "none") == (1, "")
    out = tmp_path / "out.jsonl"
    assert command("spool", "export", str(out), "--json")[1]["events"] == 20
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert numbers([event for line in lines for event in line["content"]]) == list(range(20))
    assert command("spool", "export", str(out))[0] == 2, "nothing is written over"
    assert len(command("spool", "export", "-")[1].splitlines()) == 4
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == list(range(20))


def test_dead_letters_are_sent_again_by_a_running_aggregator(shop: Engine, command: Command) -> None:
    """replay ID sends one, replay --all the others, each once; the ledger holds at every step."""
    queue = refused(shop, 4)
    code, listed = command("dead", "ls", "--json")
    assert code == 0
    assert [letter["status"] for letter in listed["dead"]] == [400] * 4
    assert SDK_KEY not in json.dumps(listed) + command("dead", "ls")[1]
    chosen = listed["dead"][2]["id"]
    code, shown = command("dead", "show", chosen, "--json")
    (number,) = numbers(shown["content"])
    assert shown["answer"] == "no such event"
    assert command("dead", "replay")[0] == 2
    assert command("dead", "replay", "--all", chosen)[0] == 2
    code, done = command("dead", "replay", chosen, "--json")
    assert (code, done) == (0, {"letters": 1, "events": 1, "damaged": 0, "running": True})
    wait_for(lambda: queue.stats().delivered == 1)
    assert numbers(shop.collector.events) == [number]
    wait_for(lambda: queue.stats().dead == 3)
    assert ledger(queue) == 4
    assert command("dead", "replay", "--all")[0] == 0
    wait_for(lambda: queue.stats().delivered == 4)
    assert sorted(numbers(shop.collector.events)) == [0, 1, 2, 3]
    assert queue.stats().dead == 0
    assert not queue.flush(60), "that they were refused is told once"
    assert queue.flush(60)
    assert command("dead", "replay", "--all")[0] == 1, "there is none"


def test_dead_letters_are_sent_again_by_the_next_aggregator(shop: Engine, command: Command) -> None:
    """Marked while nobody runs, they go when one starts; one that is refused again is a dead letter again."""
    queue = refused(shop, 3)
    shop.kill_aggregator(number=signal.SIGTERM)
    assert command("dead", "replay", "--all", "--json")[1] == {
        "letters": 3,
        "events": 3,
        "damaged": 0,
        "running": False,
    }
    assert all(letter["to_be_sent_again"] for letter in command("dead", "ls", "--json")[1]["dead"])
    shop.collector.rules.append(Rule(status=400, times=1))
    queue.flush(60)
    wait_for(lambda: queue.stats().delivered == 2)
    wait_for(lambda: queue.stats().dead == 1)
    assert ledger(queue) == 3
    (left,) = command("dead", "ls", "--json")[1]["dead"]
    assert not left["to_be_sent_again"]
    assert left["attempts"] == 2


@pytest.mark.parametrize("running", [True, False])
def test_dead_letters_are_purged(shop: Engine, command: Command, running: bool) -> None:
    """They are gone from the file at once, and counted as dropped when the aggregator learns of it."""
    queue = refused(shop, 4)
    if not running:
        shop.kill_aggregator(number=signal.SIGTERM)
    letters = command("dead", "ls", "--json")[1]["dead"]
    assert command("dead", "purge")[0] == 2
    assert command("dead", "purge", "--older-than", "1h")[0] == 1
    assert command("dead", "purge", letters[0]["id"], letters[1]["id"], "--json") == (0, {"letters": 2, "events": 2})
    assert command("dead", "show", letters[0]["id"])[0] == 1
    assert command("dead", "purge", "--older-than", "0s")[0] == 0
    assert command("dead", "ls", "--json")[1] == {"dead": []}
    folder = shop.spool_dir / "shop"
    kept = b"".join(path.read_bytes() for path in folder.glob("spool.sqlite*"))
    assert f"{1:032X}".encode() not in kept, "what is purged is not left in the file"
    if not running:
        # No answer has told yet that they were refused.
        assert not queue.flush(60)
        assert queue.flush(60)
    wait_for(lambda: queue.stats().dropped == {"purged": 4})
    assert queue.stats().dead == 0
    assert ledger(queue) == 4


def test_without_a_spool_the_commands_say_so(
    shop: Engine, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that has kept nothing yet: exit code 2 and the reason."""
    shop.queue(events_per_request=1)
    code = cli.main(["spool", "ls", "--queue", "shop", "--run-dir", str(shop.run_dir)])
    assert code == 2
    assert "there is no spool" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("7d", 604_800)])
def test_times_as_operators_write_them(text: str, seconds: float) -> None:
    """A number with s, m, h or d behind it."""
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "1w", "h", "1 h", "nan", "1e3"])
def test_other_times_are_refused(text: str) -> None:
    """Anything else is an error of the command line."""
    with pytest.raises(ValueError, match="not a time"):
        duration(text)
