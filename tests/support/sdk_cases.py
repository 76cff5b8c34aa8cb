"""Captured cases of the official SDKs: what they handed over and what they sent.

The folder is given by VWO_FAST_CONFORMANCE, or lies in ``shared/conformance`` beside the
repository; its README describes the files.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.collector import Rule
from vwo_fast.route import Route

__all__ = ["Case", "Request", "Response", "batch_event", "cases", "find", "is_json"]

REPOSITORY = Path(__file__).resolve().parents[2]
BATCH_PATH = {"fullstack": "/server-side/batch-events", "fme": "/server-side/batch-events-v2"}
EVENT_TYPES = {"track-user": 1, "track-goal": 2, "push": 3}


def find() -> Path | None:
    """The folder of the cases, None when there is none."""
    given = os.environ.get("VWO_FAST_CONFORMANCE")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "conformance"
    return folder if folder.is_dir() else None


def cases() -> Iterator[Case]:
    """All cases, in order of their names."""
    folder = find()
    for path in sorted(folder.glob("*/*.json")) if folder else ():
        yield Case(path=path, data=json.loads(path.read_text()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One captured case."""

    path: Path
    data: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.label}/{self.path.stem}"

    @property
    def label(self) -> str:
        return self.path.parent.name

    @property
    def is_fullstack(self) -> bool:
        return self.label == "fullstack"

    @property
    def quirk(self) -> str | None:
        """Why the SDK's behaviour here need not be copied."""
        found: str | None = self.data["quirk"]
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Options of launch or init."""
        return self.data["config"].get("launch" if self.is_fullstack else "options") or {}

    @property
    def has_gateway(self) -> bool:
        return bool(self.options.get("gateway_service"))

    @property
    def sealing(self) -> dict[str, Any]:
        """Count and interval; empty for real time."""
        batching = self.options.get("batch_events" if self.is_fullstack else "batch_event_data")
        return {} if self.has_gateway else {key: value for key, value in (batching or {}).items() if value is not None}

    @property
    def rules(self) -> list[Rule]:
        """How the server answered."""
        return [
            Rule(
                status=rule["status"],
                times=rule.get("times"),
                path=rule.get("path", ""),
                query={"en": rule["en"]} if "en" in rule else {},
                min_bytes=rule.get("min_bytes", 0),
                headers=rule.get("headers", {}),
            )
            for rule in self.data["server_rules"]
        ]

    @property
    def refuses_for_ever(self) -> bool:
        """Whether the server never takes some of the requests."""
        return any(rule.times is None and not rule.min_bytes for rule in self.rules)

    def route(self) -> Route:
        config = self.data["config"]
        common = {"account_id": config["account_id"], "sdk_key": config["sdk_key"]}
        version, prefix = self.data["sdk_version"], config["collection_prefix"]
        if self.is_fullstack:
            return Route.fullstack(
                **common, sdk_version=version, collection_prefix=prefix, usage_stats=self._usage_stats()
            )
        return Route.fme(**common, sdk_name=self.data["sdk"], sdk_version=version, collection_prefix=prefix)

    def _usage_stats(self) -> dict[str, int]:
        names = {
            "eb": "batch_events",
            "ig": "integrations",
            "ss": "user_storage",
            "cl": "logger",
            "ll": "log_level",
            "gt": "goal_type_to_track",
        }
        found = {short: 1 for short, name in names.items() if self.options.get(name)}
        return {**found, "_l": 1} if found else {}

    def impressions(self) -> list[dict[str, Any]]:
        """What crossed the boundary, in order."""
        if self.data["impressions"] is not None:
            return [restored(each) for each in self.data["impressions"]]
        with gzip.open(self.path.parent / self.data["impressions_file"], "rt", encoding="utf-8") as lines:
            return [restored(json.loads(line)) for line in lines]

    def event_path(self) -> str:
        """Where the SDK posts a single event."""
        prefix = self.data["config"]["collection_prefix"]
        if prefix and self.has_gateway and self.label != "fme121":
            prefix = None
        return f"/{prefix}/events/t" if prefix else "/events/t"

    def batch_path(self) -> str:
        prefix = self.data["config"]["collection_prefix"]
        return (f"/{prefix}" if prefix else "") + BATCH_PATH["fullstack" if self.is_fullstack else "fme"]


class Request:
    """An event request as the FME SDK gives it to its network client."""

    def __init__(self, path: str, query: dict[str, Any], headers: dict[str, Any], body: dict[str, Any]) -> None:
        self.get_path = lambda: path
        self.get_query = lambda: query
        self.get_headers = lambda: headers
        self.get_body = lambda: body


class Response:
    """What the FME SDK's network client gives back."""

    status_code: int | None = None

    def set_status_code(self, status_code: int) -> None:
        self.status_code = status_code

    def set_error(self, error: str) -> None:
        self.error = error


def restored(value: Any) -> Any:
    """Values that JSON cannot carry, made again as far as it matters: NaN, infinity, or some object."""
    if isinstance(value, list):
        return [restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "__py__" not in value:
        return {name: restored(each) for name, each in value.items()}
    return float(value["repr"]) if value["__py__"] == "float" else object()


def is_json(value: Any) -> bool:
    """Whether the SDK could have encoded it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def batch_event(impression: dict[str, Any]) -> dict[str, Any]:
    """The batch event that the FullStack SDK makes of an impression, by the words of the wire description."""
    kind = EVENT_TYPES[impression["url"].rsplit("/", 1)[-1]]
    event = {name: impression.get(name) for name in ("u", "sId", "visitor_ua", "visitor_ip")}
    if kind == 3:
        return {**event, "t": impression.get("tags"), "eT": 3}
    event.update(c=impression.get("combination"), e=impression.get("experiment_id"))
    if kind == 1:
        return {**event, "eT": 1}
    event.update(g=impression.get("goal_id"), eT=2)
    if impression.get("r") is not None:
        event["r"] = impression["r"]
    return event
