"""The commands ``vwo-fast spool`` and ``vwo-fast dead``: what waits on disk, and what VWO has refused.

They work beside a running aggregator and without one.  Lists show neither keys nor
visitors; ``show`` and ``export`` show events, because that is what they are asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vwo_fast.config import Settings
from vwo_fast.errors import QueueError
from vwo_fast.folder import read_settings
from vwo_fast.locks import AGGREGATOR_LOCK, lock_file
from vwo_fast.paths import private_folder

if TYPE_CHECKING:
    from vwo_fast.aggregator.spool_view import SpoolView

__all__ = ["add_commands", "duration"]

EXIT_OK = 0
EXIT_NO = 1

SettingsOf = Callable[[argparse.Namespace], Settings]

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)\Z")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_commands(commands: Any, common: argparse.ArgumentParser, settings_of: SettingsOf) -> None:
    """Add both commands to the parser of the command line."""
    shared = argparse.ArgumentParser(add_help=False, parents=[common])
    shared.add_argument("--json", action="store_true", help="as JSON")
    shared.set_defaults(settings_of=settings_of)

    spool = commands.add_parser("spool", help="what waits on disk until VWO takes it")
    actions = spool.add_subparsers(metavar="action", required=True)
    _add(actions, shared, "ls", _spool_ls, "list the batches")
    show = _add(actions, shared, "show", _spool_show, "show one batch with its events")
    show.add_argument("id", help="its id, or the beginning of it")
    export = _add(actions, shared, "export", _spool_export, "write all batches with their events, one JSON per line")
    export.add_argument("file", help="a new file, or - for the output")

    dead = commands.add_parser("dead", help="dead letters: events that VWO has refused one by one")
    actions = dead.add_subparsers(metavar="action", required=True)
    _add(actions, shared, "ls", _dead_ls, "list them")
    show = _add(actions, shared, "show", _dead_show, "show one with its event and VWO's answer")
    show.add_argument("id", help="its id, or the beginning of it")
    replay = _add(actions, shared, "replay", _dead_replay, "send them again")
    replay.add_argument("id", nargs="*", help="ids, or the beginnings of them")
    replay.add_argument("--all", action="store_true", help="all of them")
    purge = _add(actions, shared, "purge", _dead_purge, "delete them for good")
    purge.add_argument("id", nargs="*", help="ids, or the beginnings of them")
    purge.add_argument("--all", action="store_true", help="all of them")
    purge.add_argument("--older-than", type=_age, metavar="TIME", help="those that are older: 90s, 15m, 12h, 7d")


def _add(
    actions: Any,
    shared: argparse.ArgumentParser,
    name: str,
    command: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, parents=[shared], help=text)
    parser.set_defaults(command=command)
    return parser


def duration(text: str) -> float:
    """Seconds of a time as an operator writes it. Raises ValueError."""
    found = _DURATION.match(text)
    if found is None:
        raise ValueError("not a time")
    return float(found[1]) * _UNITS[found[2]]


def _age(text: str) -> float:
    try:
        return duration(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {exc}; expected a number, and s, m, h or d behind it: 90s, 15m, 12h, 7d"
        ) from None


def _view(options: argparse.Namespace) -> SpoolView:
    from vwo_fast.aggregator.spool import FILE_NAME
    from vwo_fast.aggregator.spool_view import SpoolView

    settings = options.settings_of(options)
    folder = settings.queue_spool_dir
    if options.spool_dir is None and os.path.lexists(settings.queue_dir):
        # The application may have said in its code where the spool is.
        written = read_settings(private_folder(settings.queue_dir, create=False))
        folder = written.queue_spool_dir if written is not None else folder
    return SpoolView(private_folder(folder, create=False) / FILE_NAME)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _table(rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> None:
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [["-" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


# ---- spool


def _spool_ls(options: argparse.Namespace) -> int:
    with _view(options) as view:
        batches, opened = list(view.batches()), view.open_events()
    if options.json:
        _print_json({"batches": batches, "open_events": opened})
        return EXIT_OK
    if batches:
        _table(batches, ("id", "account_id", "sdk", "events", "bytes", "attempts", "created", "last_error"))
    events = sum(batch["events"] for batch in batches)
    print(f"{len(batches)} batches with {events} events, and {opened} events of batches that are still open")
    return EXIT_OK


def _spool_show(options: argparse.Namespace) -> int:
    with _view(options) as view:
        return _show(view.batch(options.id), "batch", options)


def _show(found: dict[str, Any] | None, noun: str, options: argparse.Namespace) -> int:
    if found is None:
        print(f"vwo-fast: {options.id}: there is no such {noun}", file=sys.stderr)
        return EXIT_NO
    if options.json:
        _print_json(found)
        return EXIT_OK
    for name, value in found.items():
        if name != "content":
            print(f"{name.replace('_', ' '):<16} {'-' if value is None else value}")
    for event in found.get("content", ()):
        print(json.dumps(event))
    return EXIT_OK


def _spool_export(options: argparse.Namespace) -> int:
    count = events = 0
    with _view(options) as view:
        if options.file == "-":
            for batch in view.contents():
                print(json.dumps(batch))
            return EXIT_OK
        path = Path(options.file)
        try:
            # It holds visitors' data: for this user alone, and nothing is written over.
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                for batch in view.contents():
                    file.write(json.dumps(batch) + "\n")
                    count += 1
                    events += batch["events"]
        except OSError as exc:
            raise QueueError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    if options.json:
        _print_json({"file": str(path), "batches": count, "events": events})
    else:
        print(f"{count} batches with {events} events are in {path}; they stay in the spool")
    return EXIT_OK


# ---- dead letters


def _dead_ls(options: argparse.Namespace) -> int:
    with _view(options) as view:
        letters = list(view.letters())
    if options.json:
        _print_json({"dead": letters})
        return EXIT_OK
    if letters:
        _table(letters, ("id", "account_id", "sdk", "events", "status", "attempts", "died", "message"))
    print(f"{len(letters)} dead letters with {sum(letter['events'] for letter in letters)} events")
    return EXIT_OK


def _dead_show(options: argparse.Namespace) -> int:
    with _view(options) as view:
        return _show(view.letter(options.id), "dead letter", options)


def _dead_replay(options: argparse.Namespace) -> int:
    if bool(options.id) == options.all:
        raise QueueError("dead replay: give ids, or --all")
    with _view(options) as view:
        done = view.replay(None if options.all else options.id)
    running = _is_running(options)
    if options.json:
        _print_json({"letters": done.letters, "events": done.events, "damaged": done.damaged, "running": running})
    else:
        when = "now" if running else "when an aggregator runs (`vwo-fast flush`, or the next event, starts one)"
        print(f"{done.letters} dead letters are sent again {when}")
        if done.damaged:
            print(f"{done.damaged} are damaged and cannot be sent; `vwo-fast dead show` shows what is left of them")
    return EXIT_OK if done.letters else EXIT_NO


def _dead_purge(options: argparse.Namespace) -> int:
    if bool(options.id) + options.all + (options.older_than is not None) != 1:
        raise QueueError("dead purge: give ids, --all or --older-than")
    with _view(options) as view:
        done = view.purge(options.id or None, older_than=options.older_than)
    if options.json:
        _print_json({"letters": done.letters, "events": done.events})
    else:
        print(f"{done.letters} dead letters with {done.events} events are deleted")
    return EXIT_OK if done.letters else EXIT_NO


def _is_running(options: argparse.Namespace) -> bool:
    lock = options.settings_of(options).queue_dir / AGGREGATOR_LOCK
    return lock.exists() and lock_file(lock).is_held(0)
