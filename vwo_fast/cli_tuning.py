"""The commands ``vwo-fast bench`` and ``vwo-fast tune``: measure this machine, and find settings for a demand."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vwo_fast import __version__
from vwo_fast._options import Option
from vwo_fast.config import Settings, load_settings
from vwo_fast.errors import ConfigError, QueueError
from vwo_fast.folder import write_private

if TYPE_CHECKING:
    from vwo_fast.tuning.advice import Advice, Demand
    from vwo_fast.tuning.figures import Figures
    from vwo_fast.tuning.measure import Effort
    from vwo_fast.tuning.progress import Progress

__all__ = ["add_commands"]

EXIT_OK = 0
EXIT_NO = 1

CONFIG_NAME = "vwo_fast.toml"
REPORT_NAME = "report.html"
SIMULATION_STEPS = 2
DELAY_DEFAULT = 5.0
EVENT_BYTES_DEFAULT = 400


def _option(name: str, kind: Any, minimum: float, maximum: float, unit: str, doc: str) -> Option:
    return Option(
        name=name,
        kind=kind,
        default=None,
        minimum=minimum,
        maximum=maximum,
        unit=unit,
        importance="high",
        scope="process",
        doc=doc,
    )


# What a demand may be. The bounds of event_bytes are those of the synthetic events.
_DEMAND = {
    "rate": _option("rate", "fraction", 0.001, 100_000_000, "events/s", "events a second, over all workers"),
    "event_bytes": _option("event-bytes", "bytes", 160, 100_000, "bytes", "an event as JSON"),
    "rtt_ms": _option("rtt-ms", "fraction", 0, 9_000, "ms", "from sending a request to its answer"),
    "workers": _option("workers", "count", 1, 4096, "processes", "processes that enqueue"),
    "delay": _option("delay", "seconds", 0.01, 3600, "s", "from enqueue to answer, for 99 of 100 events"),
}


def add_commands(commands: Any) -> None:
    """Add both commands to the parser of the command line."""
    size = f"{_DEMAND['event_bytes'].doc} (default {EVENT_BYTES_DEFAULT})"
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--run-dir", metavar="FOLDER", help="where lanes will be: what is measured has a folder there")
    places.add_argument("--spool-dir", metavar="FOLDER", help="where the spool will be, likewise")
    places.add_argument("--config", metavar="FILE", help="TOML file with options; default: VWO_FAST_CONFIG")

    bench = commands.add_parser(
        "bench", parents=[places], help="measure this machine: enqueue, drain, HTTP, the aggregator, the disk"
    )
    bench.add_argument("--event-bytes", metavar="BYTES", default=str(EVENT_BYTES_DEFAULT), help=size)
    bench.add_argument("--quick", action="store_true", help="some seconds instead of half a minute")
    bench.add_argument("--base-url", metavar="URL", help="server for the HTTP part; default: one of our own, here")
    bench.add_argument(
        "--yes-send-synthetic-events",
        action="store_true",
        help="needed for a --base-url that is not on this machine: made-up events are sent there, as fast as it takes"
        " them",
    )
    bench.add_argument("--json", action="store_true", help="as one JSON object")
    bench.set_defaults(command=_bench)

    tune = commands.add_parser(
        "tune", parents=[places], help="find settings for a demand, and write them to a file with a report"
    )
    tune.add_argument("--rate", metavar="EVENTS", required=True, help=_DEMAND["rate"].doc)
    tune.add_argument("--event-bytes", metavar="BYTES", default=str(EVENT_BYTES_DEFAULT), help=size)
    tune.add_argument("--rtt-ms", metavar="MS", required=True, help=_DEMAND["rtt_ms"].doc)
    workers = 2 * (os.cpu_count() or 1) + 1
    tune.add_argument(
        "--workers", metavar="N", default=str(workers), help=f"{_DEMAND['workers'].doc} (default here {workers})"
    )
    tune.add_argument(
        "--delay",
        metavar="SECONDS",
        default=str(DELAY_DEFAULT),
        help=f"{_DEMAND['delay'].doc} (default {DELAY_DEFAULT:g})",
    )
    tune.add_argument(
        "--output", metavar="FOLDER", default="vwo-fast-tuning", help="for the two files (default %(default)s)"
    )
    tune.add_argument("--force", action="store_true", help="replace files that are there already")
    tune.add_argument("--json", action="store_true", help="as one JSON object; the files are written all the same")
    tune.set_defaults(command=_tune)


def _number(options: argparse.Namespace, name: str) -> Any:
    option, text = _DEMAND[name], getattr(options, name)
    try:
        return option.parse(text, text=True)
    except ValueError as exc:
        raise ConfigError(f"--{option.name}={text!r}: {exc}; expected {option.expected}") from None


def _measure(
    progress: Progress, effort: Effort, event_bytes: int, places: Settings, server: Settings | None
) -> Figures:
    """The figures of this machine. Raises QueueError."""
    from vwo_fast.tuning import measure

    try:
        return measure.measure(effort, event_bytes, places=places, server=server, tell=progress.tell)
    except OSError as exc:
        if isinstance(exc, QueueError):
            raise
        raise QueueError(f"this machine cannot be measured: {exc}") from exc


def _places(options: argparse.Namespace) -> Settings:
    """Settings as a queue would have them here: they say where lanes and spool are."""
    return load_settings("bench", run_dir=options.run_dir, spool_dir=options.spool_dir, config_file=options.config)


# ---- bench


def _bench(options: argparse.Namespace) -> int:
    from vwo_fast.tuning.figures import rows_of
    from vwo_fast.tuning.measure import Effort, steps_of
    from vwo_fast.tuning.progress import Progress

    event_bytes = _number(options, "event_bytes")
    effort = Effort.quick() if options.quick else Effort.full()
    places = _places(options)
    server = _server(options, effort, event_bytes)
    with Progress(sys.stderr, steps_of(effort, event_bytes)) as progress:
        figures = _measure(progress, effort, event_bytes, places, server)
    rows = rows_of(figures)
    if options.json:
        shown = {"version": __version__, "figures": figures.to_json_dict(), "rows": [_row_dict(row) for row in rows]}
        print(json.dumps(shown, indent=2))
        return EXIT_OK
    where = f"sent to {figures.url}" if figures.url else "sent to a sink on this machine"
    print(f"{figures.cpus} cores, events of {event_bytes} bytes, {where}")
    print("times per event, of HTTP per request; the spread leaves out the outer tenths")
    print()
    _print_table(("what", "median", "spread", "rate"), [(row.what, row.value, row.spread, row.rate) for row in rows])
    return EXIT_OK


def _row_dict(row: Any) -> dict[str, str]:
    return {name: getattr(row, name) for name in row.__slots__}


def _server(options: argparse.Namespace, effort: Effort, event_bytes: int) -> Settings | None:
    """The way to the server that was given, None for our own. Raises ConfigError where consent is missing."""
    if options.base_url is None:
        return None
    settings = load_settings("bench", base_url=options.base_url, config_file=options.config)
    if _is_here(settings.base_url):
        return settings
    from vwo_fast.tuning import events, figures

    sizes = figures.sizes_for(event_bytes)
    text = (
        f"{settings.base_url} is not on this machine. For {len(sizes) * len(effort.windows) * effort.seconds:.0f} s it"
        f" would get as many POST requests to {events.route().batch_path} as it answers, {max(effort.windows)} at a"
        f" time, of up to {max(sizes) * event_bytes / 1e6:.3g} MB each, with made-up events of account"
        f" {events.ACCOUNT}"
    )
    if not options.yes_send_synthetic_events:
        raise ConfigError(f"{text}. If that server is yours to burden, add --yes-send-synthetic-events")
    print(text.replace("would get", "gets"), file=sys.stderr)
    return settings


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    cells = [tuple(head), *rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(head))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


# ---- tune


def _tune(options: argparse.Namespace) -> int:
    from vwo_fast.tuning.advice import Demand, ImpossibleError, advise
    from vwo_fast.tuning.measure import Effort, steps_of
    from vwo_fast.tuning.progress import Progress

    demand = Demand(
        rate=_number(options, "rate"),
        event_bytes=_number(options, "event_bytes"),
        rtt=_number(options, "rtt_ms") / 1000,
        workers=_number(options, "workers"),
        delay=_number(options, "delay"),
    )
    places = _places(options)
    config, report = _targets(options)
    effort = Effort.quick()
    try:
        with Progress(sys.stderr, steps_of(effort, demand.event_bytes) + SIMULATION_STEPS) as progress:
            figures = _measure(progress, effort, demand.event_bytes, places, None)
            advice = advise(demand, figures, progress.tell)
    except ImpossibleError as exc:
        return _refuse(options, exc)
    _write(advice, figures, _command(demand), config, report)
    if options.json:
        print(json.dumps(_as_json(advice, figures, config, report), indent=2))
    else:
        _show(advice, config, report)
    return EXIT_OK


def _targets(options: argparse.Namespace) -> tuple[Path, Path]:
    """Both files. Looked at before anything is measured. Raises ConfigError."""
    folder = Path(os.path.abspath(os.path.expanduser(options.output)))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"--output={options.output!r}: cannot be made a folder: {exc.strerror}") from exc
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--output={options.output!r}: expected a folder that this process can write to")
    config, report = folder / CONFIG_NAME, folder / REPORT_NAME
    there = [str(path) for path in (config, report) if os.path.lexists(path)]
    if there and not options.force:
        raise ConfigError(f"{' and '.join(there)} would be replaced: choose another --output, or add --force")
    return config, report


def _command(demand: Demand) -> str:
    """The command as it can be given again."""
    given = {
        "--rate": f"{demand.rate:g}",
        "--event-bytes": str(demand.event_bytes),
        "--rtt-ms": f"{demand.rtt * 1000:g}",
        "--workers": str(demand.workers),
        "--delay": f"{demand.delay:g}",
    }
    return "vwo-fast tune " + shlex.join(part for pair in given.items() for part in pair)


def _refuse(options: argparse.Namespace, exc: Any) -> int:
    if options.json:
        print(json.dumps({"possible": False, "bottleneck": exc.bottleneck, "reason": str(exc)}, indent=2))
    else:
        print(f"not possible here: {exc}")
    return EXIT_NO


def _write(advice: Advice, figures: Figures, command: str, config: Path, report: Path) -> None:
    from vwo_fast.tuning.report import configuration, page

    taken = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    try:
        write_private(config, configuration(advice, command, __version__).encode())
        write_private(report, page(advice, figures, command, __version__, taken).encode())
    except OSError as exc:
        raise QueueError(f"{config.parent}: cannot be written to: {exc.strerror}") from exc


def _as_json(advice: Advice, figures: Figures, config: Path, report: Path) -> dict[str, Any]:
    from vwo_fast.tuning.report import facts

    demand = advice.demand
    return {
        "possible": True,
        "demand": {name: getattr(demand, name) for name in demand.__slots__},
        "options": {choice.name: {"value": choice.value, "reason": choice.reason} for choice in advice.choices},
        **facts(advice),
        "warnings": list(advice.warnings),
        "files": {"config": str(config), "report": str(report)},
        "figures": figures.to_json_dict(),
    }


def _show(advice: Advice, config: Path, report: Path) -> None:
    from vwo_fast.tuning.report import expected, outage_facts

    for choice in advice.choices:
        print(f"{choice.name} = {'not set' if choice.value is None else choice.value}")
        print(f"    {choice.reason}")
    print("\nexpected")
    _print_indented(expected(advice))
    print("\nten minutes without the server")
    _print_indented(outage_facts(advice))
    for warning in advice.warnings:
        print(f"\nWARNING: {warning}")
    print(f"\nsettings: {config}\nreport:   {report}")


def _print_indented(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(what) for what, _ in rows)
    for what, figure in rows:
        print(f"  {what.ljust(width)}  {figure}")
