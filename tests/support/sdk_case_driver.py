"""Plays many cases through one SDK; runs in that SDK's virtual environment.

``python -m tests.support.sdk_case_driver`` reads ``{"label", "through", "rooms": [[case, ...], ...]}`` from standard
input and writes one JSON line per case, as each ends.  The SDK is imported once; each case then
has a process of its own, because the SDKs keep their state in class attributes.  The cases of a room share
a collector, so they follow each other, and each ends with a request to ``/done``.  A case is
one of ``tests/cases``, see the README there, with ``collector`` and ``variables`` added.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import urlopen

from tests.support.sdk_driver import redirect_fme, wait_for

AT_ONCE = 6

MADE: dict[str, Callable[[str], Any]] = {
    "bytes": lambda text: text.encode(),
    "datetime": datetime.datetime.fromisoformat,
    "decimal": decimal.Decimal,
    "float": float,
    "int": int,
    "str": lambda text: text * 1000,
}
"""What ``{"__py__": name, "repr": text}`` stands for."""


class Storage:
    """A user storage of either SDK."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def get(self, one: str, other: str) -> dict[str, Any] | None:
        """The row of a campaign or feature and a user, whichever comes first."""
        for row in self.rows:
            names = {row.get("campaignKey"), row.get("featureKey"), row.get("userId")}
            if {one, other} <= names:
                return row
        return None

    def set(self, row: dict[str, Any]) -> bool:
        self.rows.append(json.loads(json.dumps(row)))
        return True


class Logger:
    """Takes what an SDK logs."""

    def __init__(self) -> None:
        self.lines = 0

    def log(self, *_: object) -> None:
        self.lines += 1


class Player:
    """One case: its clients, and what came of the calls to them."""

    def __init__(self, label: str, through: str, case: dict[str, Any]) -> None:
        self.label, self.case = label, case
        self.is_official = through == "official"
        self.is_fullstack = label == "fullstack"
        self.objects: dict[str, Any] = {name: self.made(value) for name, value in case.get("objects", {}).items()}
        self.seen: dict[str, Any] = {"told": [], "hooked": [], "stored": [], "returns": []}
        self.clients: list[Any] = []
        self.queues: list[Any] = []
        self._redirect()
        self.client = self.launch(case["settings"], case["options"])

    def _redirect(self) -> None:
        """The official SDK believes that its hosts are the collector; ours is told by the environment."""
        if not self.is_fullstack:
            redirect_fme(self.case["collector"])
        elif self.is_official or self.case.get("fetches_settings"):
            constants: Any = import_module("vwo.constants.constants")
            constants.HTTPS_PROTOCOL = "http://"
            constants.ENDPOINTS.BASE_URL = urlsplit(self.case["collector"]).netloc

    def made(self, value: Any) -> Any:
        """A value of the file as Python means it."""
        if isinstance(value, list):
            return [self.made(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "__py__" in value:
            kind = value["__py__"]
            if kind in ("tuple", "set"):
                return {"tuple": tuple, "set": set}[kind](self.made(value["items"]))
            if kind == "dict":
                return {self.made(key): self.made(each) for key, each in value["items"]}
            return MADE[kind](value["repr"])
        if "__object__" in value:
            return self.objects[value["__object__"]]
        return {name: self.made(each) for name, each in value.items()}

    def launch(self, settings: dict[str, Any], options: dict[str, Any]) -> Any:
        given = self._services(self.made(options))
        made = self._fullstack(settings, given) if self.is_fullstack else self._fme(settings, given)
        self.clients.append(made)
        if not self.is_official:
            self.queues.append(queue_of(made))
        self._calm()
        return made

    def _services(self, options: dict[str, Any]) -> dict[str, Any]:
        """Where a file can only say that there is one, a storage, logger, callback or address."""
        for name in ("storage", "user_storage"):
            if isinstance(options.get(name), list):
                self.seen["stored"] = options[name]
                options[name] = Storage(options[name])
        if options.get("integrations") is True:
            hook = type("Hook", (), {"callback": staticmethod(self._hooked)})
            options["integrations"] = hook() if self.is_fullstack else {"callback": self._hooked}
        if options.get("logger") is True:
            options["logger"] = Logger() if self.is_fullstack else {"transport": FmeLogger()}
        for name in ("batch_events", "batch_event_data"):
            if isinstance(options.get(name), dict) and options[name].get("flush_callback") is True:
                options[name]["flush_callback"] = self._told
        if options.get("proxy_url") is True:
            options["proxy_url"] = self.case["collector"]
        return options

    def _told(self, error: object, events: list[Any]) -> None:
        self.seen["told"].append([None if error is None else str(error), len(events)])

    def _hooked(self, properties: dict[str, Any]) -> None:
        self.seen["hooked"].append(json.loads(json.dumps(properties, default=repr)))

    def _fullstack(self, settings: Any, options: dict[str, Any]) -> Any:
        module = import_module("vwo" if self.is_official else "vwo_fast.fullstack")
        adapter = {} if self.is_official else {"flush_timeout": 60, **self.case.get("adapter", {})}
        return module.launch(settings if isinstance(settings, str) else json.dumps(settings), **options, **adapter)

    def _fme(self, settings: dict[str, Any], options: dict[str, Any]) -> Any:
        options = {"sdk_key": settings["sdkKey"], "account_id": settings["accountId"], **options}
        gateway = options.get("gateway_service")
        if isinstance(gateway, dict) and gateway.get("url") is True:
            parts = urlsplit(self.case["collector"])
            gateway["url"] = self.case["collector"] if "protocol" not in gateway else parts.hostname
            if "port" in gateway:
                gateway["port"] = parts.port
        for name in ("vwoBuilder", "wingifyBuilder"):
            if options.get(name) is True:
                options[name] = builder_class()(options)
        if not self.is_official:
            return import_module("vwo_fast.fme").init(options, flush_timeout=60, **self.case.get("adapter", {}))
        return import_module("wingify" if self.label.startswith("w") else "vwo").init(options)

    def play(self) -> dict[str, Any]:
        try:
            for method, args, kwargs in self.case["calls"]:
                if method.startswith("@"):
                    getattr(self, f"do_{method[1:]}")(*args)
                else:
                    self.call(method, self.made(args), self.made(kwargs))
        finally:
            self._settle()
        return self.seen

    def call(self, method: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        result = getattr(self.client, method)(*args, **kwargs)
        if hasattr(result, "is_enabled"):
            result = [result.is_enabled(), result.get_variables(), getattr(result, "get_uuid", lambda: None)()]
        self.seen["returns"].append(result)
        self._calm()

    def _calm(self) -> None:
        """The official SDK's threads would overtake each other; here each request is answered before the next call."""
        if self.is_official:
            wait_for(lambda: not [thread for thread in threading.enumerate() if is_sending(thread)])

    def do_sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def do_bulk(self, count: int, users: int, cycle: list[Any]) -> None:
        """``count`` calls, as the README of the captured cases describes them."""
        for number in range(count):
            values = {"u": f"user_{number % users:04d}", "i": str(number)}
            filled = filled_in(cycle[number % len(cycle)], values)
            self.call(filled[0], self.made(filled[1]), self.made(filled[2]))

    def do_set(self, name: str, path: list[Any], value: Any) -> None:
        """Change an object that was handed to a call before."""
        target = self.objects[name]
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = self.made(value)

    def do_launch(self, changes: dict[str, Any], options: dict[str, Any] | None) -> None:
        """A further client; without options of its own it has those of the first."""
        options = self.case["options"] if options is None else options
        self.client = self.launch({**self.case["settings"], **changes}, options)

    def do_client(self, number: int) -> None:
        self.client = self.clients[number]

    def _settle(self) -> None:
        """Until everything that was made is at the collector, or the SDK has given it up."""
        if not self.is_official:
            for queue in self.queues:
                if queue is not None:
                    queue.flush(60)
            return
        for client in self.clients:
            queue = getattr(client, "batch_event_queue", None)
            dispatcher = getattr(client, "event_dispatcher", None)
            if queue is not None:
                queue.flush_and_clear_timer()
                wait_for(functools.partial(is_idle, queue))
            elif dispatcher is not None and dispatcher.event_batching:
                dispatcher.flush_queue(manual=True, mode="sync")
        self._calm()


class FmeLogger:
    """A transport of the FME SDK's logger."""

    level = "DEBUG"
    config: ClassVar[dict[str, Any]] = {}

    def log(self, *_: object) -> None:
        """Nothing is shown."""

    trace = debug = info = warn = error = log


def is_idle(queue: Any) -> bool:
    return not queue.is_batch_processing


def builder_class() -> Any:
    """A builder of one's own, which is one that only has another name."""
    try:
        base = import_module("wingify.wingify_builder").WingifyBuilder
    except ImportError:
        base = import_module("vwo.vwo_builder").VWOBuilder
    return type("OwnBuilder", (base,), {})


def is_sending(thread: threading.Thread) -> bool:
    return "ThreadPoolExecutor" in thread.name or "sync_with_vwo" in thread.name


def queue_of(client: Any) -> Any:
    """The vwo_fast queue under a client."""
    dispatcher = getattr(client, "event_dispatcher", None)
    if dispatcher is not None:
        return dispatcher.producer.queue if hasattr(dispatcher, "producer") else None
    module = import_module("vwo_fast.fme")
    return module._made[1] if module._made else None


def filled_in(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, list):
        return [filled_in(each, values) for each in value]
    if isinstance(value, dict):
        return {filled_in(name, values): filled_in(each, values) for name, each in value.items()}
    return value


def played(label: str, through: str, case: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(case["variables"])
    try:
        return Player(label, through, case).play()
    except BaseException as exc:
        return {"error": f"{type(exc).__name__}: {exc}", "trace": traceback.format_exc()}
    finally:
        urlopen(f"{case['collector']}/done").close()


def start(label: str, through: str, case: dict[str, Any], out: str) -> int:
    """Play a case in a child, which writes what came of it to a file; the child's pid."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        # The SDKs print, and what is written there is for whoever reads the results.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        result = played(label, through, case)
        with open(out, "w") as file:
            json.dump({"case": case["case"], **result}, file, default=repr)
        # The FME SDK's polling timer would keep the process for ever.
        os._exit(0)
    return pid


def main() -> None:
    """A few rooms at a time, the cases of each one after the other."""
    job = json.load(sys.stdin)
    label, through = job["label"], job["through"]
    imported = ["wingify" if label.startswith("w") else "vwo", "requests"]
    if through == "vwo_fast":
        imported += ["zmq", "vwo_fast.fullstack", "vwo_fast.fme"]
    for name in imported:
        import_module(name)
    waiting: list[list[dict[str, Any]]] = job["rooms"]
    running: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                room = waiting.pop(0)
                running[start(label, through, room[0], os.path.join(folder, room[0]["case"]))] = room
            pid, _ = os.wait()
            case, *rest = running.pop(pid)
            with open(os.path.join(folder, case["case"])) as file:
                sys.stdout.write("\n" + file.read() + "\n")
            if rest:
                waiting.insert(0, rest)


if __name__ == "__main__":
    main()
