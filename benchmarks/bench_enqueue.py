"""``producer.enqueue`` beside every other way to hand the same impression over.

Each contender runs in an environment of its own, in one process with vwo_fast, in alternating
rounds.  vwo_fast's aggregator reads, builds batches and delivers them to a local server all the
while; what another contender does behind its call (a thread, a consumer process) goes on too,
unless said otherwise in the row.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support import contenders
from benchmarks.support.rounds import Pair, Spread, Way, alternate, nanoseconds_each
from benchmarks.support.rows import Row, finish, options, pair_row, skipped
from benchmarks.support.sink import sink
from benchmarks.support.venv import NotMeasuredError, run_in
from benchmarks.support.work import drained, queue_on, route
from tests.support import sdk_settings

WHAT = "producer.enqueue(impression)"
LEAD = 4000
"""Events before the timed ones of a round, so that the aggregator is awake and reading while the clock runs."""


def measure(name: str, url: str, rounds: int) -> Pair:
    """One contender beside vwo_fast, in this process."""
    contender = contenders.CONTENDERS[name]
    lead = contenders.impressions(LEAD)
    with queue_on(url) as queue, contender.make(url) as theirs:
        enqueue = queue.producer(route()).enqueue

        def prepare() -> list[dict[str, object]]:
            made = contenders.impressions(contender.events, distinct=contender.distinct)
            for event in lead:
                enqueue(event)
            return made

        ours = Way(run=lambda made: nanoseconds_each(enqueue, made), prepare=prepare, settle=lambda: drained(queue))
        pair = alternate(ours, theirs, rounds)
        stats = queue.stats()
        expected = 1 + (rounds + 1) * (LEAD + contender.events)
        if stats.accepted != expected or stats.delivered != expected:
            raise RuntimeError(f"{expected} events were enqueued, but {stats}")
        return pair


def main() -> int:
    parser = options(__doc__, rounds=40)
    parser.add_argument("--contender", choices=sorted(contenders.CONTENDERS), help="only this one")
    parser.add_argument("--inside", metavar="URL", help="measure in this process, against a sink that runs already")
    given = parser.parse_args()
    if given.inside:
        pair = measure(given.contender, given.inside, given.rounds)
        found = contenders.CONTENDERS[given.contender].versions()
        print(json.dumps({"pair": pair.as_dict(), "versions": found}), flush=True)
        # The FME SDK's timers would keep the process for ever.
        os._exit(0)
    rows: list[Row] = []
    with sink(sdk_settings.fme()) as server:
        for name, contender in contenders.CONTENDERS.items():
            if given.contender in (None, name):
                rows.append(one_row(name, contender, server.url, given.rounds))
        return finish("enqueue", rows, given.json, sink=server.kind)


def one_row(name: str, contender: contenders.Contender, url: str, rounds: int) -> Row:
    arguments = ["--contender", name, "--rounds", str(rounds), "--inside", url]
    try:
        result = run_in(contender.environment, Path(__file__), arguments)
    except NotMeasuredError as exc:
        return skipped(WHAT, contender.title, str(exc))
    spreads = {
        part: Spread(values["median"], values["p10"], values["p90"], values["rounds"])
        for part, values in result["pair"].items()
    }
    found = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    return pair_row(
        Pair(**spreads),
        what=WHAT,
        against=contender.title,
        unit="ns",
        at_most=contender.at_most,
        times_faster=name != "msgspec",
        note="; ".join(part for part in (found, contender.note) if part),
    )


if __name__ == "__main__":
    sys.exit(main())
