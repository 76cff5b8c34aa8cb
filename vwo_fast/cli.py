"""The command line: run the aggregator, show a queue, flush it, check and measure the machine, look at the disk.

Exit codes: 0 done, 1 the answer is no (not delivered, a check failed), 2 the
question could not be asked (wrong option, no such queue).

A worker never imports this module, and each command imports only what it needs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vwo_fast import __version__
from vwo_fast.config import Settings, check_queue_name, load_settings
from vwo_fast.errors import ConfigError, QueueError, VwoFastError
from vwo_fast.paths import private_folder, queue_folder

__all__ = ["main"]

EXIT_OK = 0
EXIT_NO = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

FLUSH_TIMEOUT_DEFAULT = 10.0
ANSWER_TIMEOUT = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except VwoFastError as exc:
        print(f"vwo-fast: {exc}", file=sys.stderr)
        return EXIT_ERROR
    except BrokenPipeError:
        # The reader of our output has gone; the interpreter must not fail on the rest of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--queue", help="name of the queue; default: VWO_FAST_QUEUE")
    common.add_argument("--run-dir", metavar="FOLDER", help="folder of the queues in shared memory")
    common.add_argument("--spool-dir", metavar="FOLDER", help="folder of the spools on disk")
    common.add_argument("--base-url", metavar="URL", help="where requests go")
    common.add_argument("--config", metavar="FILE", help="TOML file with options; default: VWO_FAST_CONFIG")

    parser = argparse.ArgumentParser(
        prog="vwo-fast",
        description="One crash-safe event queue per host under the VWO (Wingify) Python SDKs.",
        epilog="Every option can also come from the environment or a file: see docs/configuration.md.",
    )
    parser.add_argument("--version", action="version", version=f"vwo-fast {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    run = commands.add_parser("run", parents=[common], help="run the aggregator here, until SIGTERM or Ctrl-C")
    run.add_argument("--detached", action="store_true", help=argparse.SUPPRESS)
    run.set_defaults(command=_run)

    status = commands.add_parser("status", parents=[common], help="show what has become of the events")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(command=_status)

    flush = commands.add_parser(
        "flush", parents=[common], help="send everything now; exit code 0 when it was delivered"
    )
    flush.add_argument("--timeout", type=seconds, default=FLUSH_TIMEOUT_DEFAULT, help="seconds to wait (default 10)")
    flush.add_argument("--json", action="store_true", help="as one JSON object")
    flush.set_defaults(command=_flush)

    doctor = commands.add_parser("doctor", parents=[common], help="check this machine and say what to do")
    doctor.add_argument("--json", action="store_true", help="as one JSON object")
    doctor.set_defaults(command=_doctor)

    from vwo_fast import cli_spool, cli_tuning

    cli_spool.add_commands(commands, common, _settings)
    cli_tuning.add_commands(commands)
    return parser


def seconds(text: str) -> float:
    """Seconds to wait, as an operator writes them. Raises ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds, at least 0")
    return seconds


def _settings(options: argparse.Namespace) -> Settings:
    return load_settings(
        options.queue,
        run_dir=options.run_dir,
        spool_dir=options.spool_dir,
        base_url=options.base_url,
        config_file=options.config,
    )


def _run(options: argparse.Namespace) -> int:
    from vwo_fast.aggregator import loop

    settings = _written_settings(options) if options.detached else _operator_settings(options)
    # Whoever runs it in the foreground watches it and ends it; what a worker launches must leave by itself,
    # also when the application that wrote the settings down had somebody else to start it.
    settings = settings.replace(aggregator="auto" if options.detached else "external")
    code: int = loop.run(settings.queue_dir, settings, foreground=not options.detached)
    return code


def _written_settings(options: argparse.Namespace) -> Settings:
    """What the process that launched us has written down: its code may say what no environment or file does."""
    from vwo_fast.folder import read_settings

    if options.queue is None or options.run_dir is None:
        raise ConfigError("run --detached: needs --queue and --run-dir")
    folder = Path(os.path.abspath(options.run_dir), check_queue_name(options.queue))
    settings = read_settings(private_folder(folder, create=False))
    return _settings(options) if settings is None else settings


def _operator_settings(options: argparse.Namespace) -> Settings:
    """Settings of a queue in use when it is, else from the options, environment and file.

    A queue in use has the settings that its processes opened it with.  Only what
    the command line says is held against them, by the aggregator when it opens the
    queue: the environment of this shell is not that of the application.
    """
    from vwo_fast.folder import read_settings
    from vwo_fast.locks import AGGREGATOR_LOCK, USERS_LOCK, lock_file

    settings = _settings(options)
    folder = queue_folder(settings)
    if lock_file(folder / USERS_LOCK).any_held_by_others() or lock_file(folder / AGGREGATOR_LOCK).is_held(0):
        running = read_settings(folder)
        if running is not None:
            given = {name: getattr(options, name) for name in ("base_url", "spool_dir") if getattr(options, name)}
            return Settings.from_json_dict({**running.to_json_dict(), **given}, source="the command line")
    return settings


def _existing_folder(settings: Settings) -> Path:
    """The queue's folder. Raises QueueError, with what to do, when there is none."""
    if not os.path.lexists(settings.queue_dir):
        hint = "is the name right, and does this run as the user of the application?"
        if os.path.lexists(settings.queue_spool_dir):
            hint = f"its spool is in {settings.queue_spool_dir}: `vwo-fast run` sends what is left there"
        raise QueueError(f"no queue {settings.queue!r} in {settings.run_dir}: {hint}")
    return queue_folder(settings, create=False)


def _status(options: argparse.Namespace) -> int:
    from vwo_fast.stats import read_stats

    settings = _settings(options)
    folder = _existing_folder(settings)
    stats = _read(lambda: read_stats(folder), folder)
    answer = _ask_status(folder, settings) if stats.aggregator_pid is not None else None
    if options.json:
        shown = {"queue": settings.queue, "folder": str(folder), **stats.to_json_dict(), "aggregator": answer}
        print(json.dumps(shown, indent=2))
        return EXIT_OK
    print(f"queue {settings.queue} in {folder}")
    for name, value in stats.to_json_dict().items():
        if isinstance(value, dict):
            value = ", ".join(f"{reason} {amount}" for reason, amount in sorted(value.items())) or "none"
        elif value is None:
            value = "not running"
        elif name == "heartbeat_age":
            value = f"{value:.1f} s"
        print(f"  {name.replace('_', ' '):<18} {value}")
    if stats.is_hung:
        print(
            f"process {stats.aggregator_pid} holds the queue and has shown no sign of life"
            f" for {stats.heartbeat_age:.0f} s: nothing is sent; `vwo-fast doctor` says what to do"
        )
    if answer is not None and answer.get("last_error"):
        print(f"  {'last error':<18} {answer['last_error']}")
    return EXIT_OK


def _ask_status(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """What only the aggregator knows; None when it does not answer in time."""
    from vwo_fast.client import Link

    answer = Link(folder, settings.queue, auto=False).ask({"op": "status"}, ANSWER_TIMEOUT)
    return None if answer is None else {name: value for name, value in answer.items() if name != "id"}


def _flush(options: argparse.Namespace) -> int:
    from vwo_fast import client
    from vwo_fast.stats import read_stats

    settings = _settings(options)
    folder = _existing_folder(settings)
    _read(lambda: read_stats(folder), folder)
    link = client.Link(folder, settings.queue, auto=settings.aggregator == "auto", python=settings.python)
    answer = client.flush(link, options.timeout)
    delivered = answer is not None and bool(answer.get("ok"))
    left = _read(lambda: read_stats(folder), folder)
    waiting = left.queued + left.in_flight + left.spooled
    if options.json:
        print(
            json.dumps({"queue": settings.queue, "ok": delivered, "answered": answer is not None, "waiting": waiting})
        )
    elif delivered:
        print(f"queue {settings.queue}: all that was accepted has been delivered")
    elif answer is None:
        print(f"queue {settings.queue}: not delivered within {options.timeout:g} s; {waiting} events wait")
        if not link.is_alive():
            print(
                f"no aggregator stays up: `vwo-fast doctor` and {settings.queue_spool_dir / 'aggregator.log'} say why"
            )
    else:
        print(f"queue {settings.queue}: {answer.get('failed', 0)} events were not delivered; {waiting} events wait")
    return EXIT_OK if delivered else EXIT_NO


def _doctor(options: argparse.Namespace) -> int:
    from vwo_fast.doctor import examine

    checks = examine(_settings(options))
    failed = any(check.level == "FAIL" for check in checks)
    if options.json:
        print(json.dumps({"ok": not failed, "checks": [check.to_json_dict() for check in checks]}, indent=2))
        return EXIT_NO if failed else EXIT_OK
    for check in checks:
        print(f"{check.level:<4} {check.name}: {check.text}")
        if check.advice:
            print(f"     -> {check.advice}")
    return EXIT_NO if failed else EXIT_OK


def _read(reading: Any, folder: Path) -> Any:
    """The result of ``reading`` shared memory, or a QueueError in our words."""
    from vwo_fast._lane import SegmentError

    try:
        return reading()
    except FileNotFoundError as exc:
        raise QueueError(f"{folder}: no queue has been opened there yet") from exc
    except (OSError, SegmentError) as exc:
        raise QueueError(f"{folder}: cannot be read: {exc}; is it of another version of vwo_fast?") from exc
