"""What ``vwo-fast tune`` writes: a configuration file that loads as it is, and one page of HTML with plots."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from vwo_fast.tuning.advice import OUTAGE_SECONDS, Advice
from vwo_fast.tuning.figures import Figures, amount, rows_of
from vwo_fast.tuning.plot import Line, Mark, line_chart

__all__ = ["configuration", "expected", "facts", "outage_facts", "page", "time_text"]

COMMENT_WIDTH = 100
MINUTE = 60.0
WISH_SHOWN = 2.0


def time_text(seconds: float) -> str:
    """A time as a reader wants it."""
    if seconds >= 2 * MINUTE:
        return f"{seconds / MINUTE:.3g} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def expected(advice: Advice) -> list[tuple[str, str]]:
    """What the settings are expected to do, as (what, figure)."""
    flow, demand = advice.flow, advice.demand
    body = flow.events_per_request * demand.event_bytes
    return [
        ("delay from enqueue to answer, median", time_text(flow.delay_median)),
        ("delay from enqueue to answer, 99 of 100", time_text(flow.delay_p99)),
        ("events between enqueue and answer, median", amount(flow.depth_median)),
        ("events between enqueue and answer, 99 of 100 moments", amount(flow.depth_p99)),
        ("requests", f"{flow.requests_per_second:.3g} a second, of {flow.events_per_request:.0f} events"),
        ("bytes sent", f"{amount(body, 'B')} a request, {amount(demand.rate * demand.event_bytes, 'B')} a second"),
        ("the most that can be carried", f"{amount(advice.capacity)} events/s"),
        ("one core, used by the aggregator", f"{advice.core_share:.2%}"),
        ("a worker's time, used by enqueue", f"{advice.worker_share:.3%}"),
        ("memory of the aggregator, lanes aside", amount(advice.aggregator_bytes, "B")),
        ("shared memory of the lanes", amount(advice.lanes_bytes, "B")),
        ("on a connection that was idle, TCP's slow start adds up to", time_text(advice.cold_delay)),
    ]


def outage_facts(advice: Advice) -> list[tuple[str, str]]:
    """What becomes of an outage of ten minutes, as (what, figure)."""
    outage = advice.outage
    even = "not at this rate" if outage.even_after is None else time_text(outage.even_after)
    return [
        ("events in the spool at most", amount(outage.spool_peak)),
        ("bytes of disk at most", amount(advice.disk_bytes(outage.spool_peak), "B")),
        ("events refused", amount(outage.refused)),
        ("all sent, after the server is back", even),
        (
            "of it, until the next try notices that it is back",
            f"{time_text(advice.notice_median)}, or up to {time_text(advice.notice_max)}",
        ),
    ]


def configuration(advice: Advice, command: str, version: str) -> str:
    """The TOML file."""
    flow = advice.flow
    lines = [
        *_comment(f"Written by `{command}`, vwo_fast {version}."),
        *_comment(
            f"Expected: {time_text(flow.delay_median)} from enqueue to answer (median), {time_text(flow.delay_p99)}"
            f" for 99 of 100 events, {flow.requests_per_second:.3g} requests a second."
        ),
        *_comment("Name this file by VWO_FAST_CONFIG, by config_file= in code or by --config."),
        "",
        "[vwo_fast]",
    ]
    for choice in advice.choices:
        lines.append("")
        if choice.value is None:
            lines += _comment(f"{choice.name} is not set. {choice.reason}")
        else:
            lines += [*_comment(choice.reason), f"{choice.name} = {choice.value!r}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, COMMENT_WIDTH, break_on_hyphens=False)]


# ---- the page

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
  background: Canvas; color: CanvasText; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #8884; }
td:nth-child(2) { white-space: nowrap; }
code { font-size: .95em; }
figure { margin: 1rem 0; } figcaption { font-size: .85rem; opacity: .8; }
svg { max-width: 100%; height: auto; }
.warning { border-left: 4px solid #b8860b; padding: .2rem .8rem; }
"""


def page(advice: Advice, figures: Figures, command: str, version: str, taken: str) -> str:
    """The report: one file that needs no other."""
    demand = advice.demand
    title = f"A queue for {amount(demand.rate)} events/s"
    wanted = (
        f"{demand.event_bytes} bytes an event, {demand.workers} workers, a server that answers after"
        f" {demand.rtt * 1000:g} ms; 99 of 100 events answered within {demand.delay:g} s."
    )
    warnings = [f'<p class="warning">{escape(text)}</p>' for text in advice.warnings]
    choices = [
        (f"<code>{choice.name}</code>", "not set" if choice.value is None else f"{choice.value:,}", choice.reason)
        for choice in advice.choices
    ]
    measured = [(row.what, row.value, row.spread, row.rate) for row in rows_of(figures)]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(wanted)}</p>",
        f"<p><code>{escape(command)}</code>, vwo_fast {escape(version)}, {escape(taken)}</p>",
        *warnings,
        "<h2>Settings</h2>",
        _table(("option", "value", "why"), choices, raw=(0,)),
        "<h2>What to expect</h2>",
        _table(("what", "figure"), expected(advice)),
        *_flow_plots(advice),
        "<h2>Ten minutes without the server</h2>",
        _table(("what", "figure"), outage_facts(advice)),
        _outage_plot(advice),
        "<h2>What was measured on this machine</h2>",
        f"<p>{escape(_machine(figures))}</p>",
        _table(("what", "median", "spread", "rate"), measured),
        "<h2>How it was worked out</h2>",
        METHOD,
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n' + "\n".join(
        [*parts, "</body></html>", ""]
    )


METHOD = """
<p>The costs of an event and of a request are measured here, on the loopback, with the parts that a queue uses.
The rest is simulated: events come at random (a Poisson process) at the given rate on one account, each of
another visitor; the server answers after the given time, always the same. Real traffic comes in waves: give the
rate of the busiest minutes.</p>
<p>Batches that may share a visitor follow each other, so that a visitor's events stay in order. The filter that
decides it is small: large batches nearly always follow each other, and more requests in flight help only small
ones.</p>
<p>In the outage each try fails at once. Tries become rarer, up to one in a minute, so the server's return is noticed
with a delay; the simulation takes the one that half of all outages stay below.</p>
"""


def _machine(figures: Figures) -> str:
    return (
        f"{figures.cpus} cores, events of {figures.event_bytes} bytes; {amount(figures.shared_memory_free, 'B')} of"
        f" shared memory and {amount(figures.disk_free, 'B')} of disk are free. Times are per event, of HTTP per"
        " request; the spread leaves out the outer tenths."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], raw: Sequence[int] = ()) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [f"<table><tr>{cells}</tr>"]
    for row in rows:
        shown = (text if number in raw else escape(text) for number, text in enumerate(row))
        lines.append("<tr>" + "".join(f"<td>{text}</td>" for text in shown) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _flow_plots(advice: Advice) -> list[str]:
    demand = advice.demand
    chosen = advice.value("events_per_request")
    tried = [(trial.plan.events_per_request, trial.flow) for trial in advice.trials if trial.flow is not None]
    plots = []
    if len(tried) > 1:
        lines = [
            Line(name="median", points=[(events, flow.delay_median) for events, flow in tried]),
            Line(name="99 of 100", points=[(events, flow.delay_p99) for events, flow in tried]),
        ]
        # Far above the others it would only press them flat.
        if demand.delay <= WISH_SHOWN * max(flow.delay_p99 for _, flow in tried):
            lines.append(Line(name="wished", points=[(tried[0][0], demand.delay), (tried[-1][0], demand.delay)]))
        drawn = line_chart(
            lines,
            title="Delay by the size of a request",
            x_name="events per request",
            y_name="seconds from enqueue to answer",
            log_x=True,
        )
        plots.append(_figure(drawn, f"At {amount(demand.rate)} events/s. Recommended: {chosen}."))
    sizes = [(trial.plan.events_per_request, trial.capacity) for trial in advice.trials]
    if len(sizes) > 1:
        lines = [
            Line(name="can be carried", points=sizes),
            Line(name="comes", points=[(sizes[0][0], demand.rate), (sizes[-1][0], demand.rate)]),
        ]
        drawn = line_chart(
            lines,
            title="What can be carried, by the size of a request",
            x_name="events per request",
            y_name="events per second",
            log_x=True,
            log_y=True,
        )
        plots.append(_figure(drawn, "Limited by the aggregator's core, the window and the way to the server."))
    plots.append(_depth_plot(advice))
    return plots


def _depth_plot(advice: Advice) -> str:
    flow = advice.flow
    begin = flow.depth[0][0]
    drawn = line_chart(
        [Line(name="events", points=[(now - begin, depth) for now, depth in flow.depth])],
        title="Events between enqueue and answer, simulated",
        x_name="seconds",
        y_name="events",
    )
    caption = f"Median {amount(flow.depth_median)}, 99 of 100 moments below {amount(flow.depth_p99)}."
    return _figure(drawn, caption)


def _outage_plot(advice: Advice) -> str:
    points = advice.outage.points
    minutes = [(now / MINUTE, lanes, spool) for now, lanes, spool, _ in points]
    scale = 1e9 if advice.disk_bytes(advice.outage.spool_peak) >= 1e9 else 1e6
    drawn = line_chart(
        [Line(name="spool on disk", points=[(now, advice.disk_bytes(spool) / scale) for now, _, spool in minutes])],
        title="The spool in an outage of ten minutes",
        x_name="minutes",
        y_name="GB" if scale == 1e9 else "MB",
        marks=[Mark(name="no server", begin=0.0, end=OUTAGE_SECONDS / MINUTE)],
    )
    return _figure(drawn, "It goes as fast as the server answers, while new events keep coming.")


def facts(advice: Advice) -> dict[str, Any]:
    """The expectations as JSON can carry them."""
    flow, outage = advice.flow, advice.outage
    return {
        "expected": {
            "delay_median_seconds": flow.delay_median,
            "delay_p99_seconds": flow.delay_p99,
            "depth_median_events": flow.depth_median,
            "depth_p99_events": flow.depth_p99,
            "requests_per_second": flow.requests_per_second,
            "events_per_request": flow.events_per_request,
            "capacity_events_per_second": advice.capacity,
            "core_share": advice.core_share,
            "worker_share": advice.worker_share,
            "aggregator_bytes": advice.aggregator_bytes,
            "lanes_bytes": advice.lanes_bytes,
            "idle_connection_adds_seconds": advice.cold_delay,
        },
        "outage": {
            "seconds": outage.seconds,
            "spool_events": outage.spool_peak,
            "spool_bytes": advice.disk_bytes(outage.spool_peak),
            "refused_events": outage.refused,
            "all_sent_after_seconds": outage.even_after,
            "noticed_after_seconds": advice.notice_median,
            "noticed_after_seconds_at_most": advice.notice_max,
        },
    }
