"""Every public method and option of the official SDKs is spoken of in docs/compatibility.md, and has a case."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support import sdk_runs
from tests.support.sdk_play import cases

FAMILIES = {"fullstack": "fullstack", "fme121": "fme", "fme165": "fme", "wfme165": "fme"}
SECTION = "## Every method and option"

METHODS = """
from importlib import import_module
client = getattr(import_module(given["module"]), given["name"])
result = sorted(name for name in dir(client) if not name.startswith("_") and callable(getattr(client, name)))
"""

# Options are read by name, so the sources say which there are.
OPTIONS = """
import re
from importlib import import_module
from pathlib import Path
root = Path(import_module(given["package"]).__file__).parent
found = set()
for path in given["files"]:
    text = (root / path).read_text()
    found |= set(re.findall(given["pattern"], text))
result = sorted(found)
"""

FME_FILES = {
    "vwo": ["vwo.py", "vwo_builder.py", "vwo_client.py", "services/settings_manager.py", "utils/usage_stats_util.py"],
    "wingify": [
        "wingify.py",
        "wingify_builder.py",
        "wingify_client.py",
        "services/settings_manager.py",
        "services/hooks_manager.py",
        "utils/usage_stats_util.py",
    ],
}
# Not options, but what settings_manager puts into a query that it also calls options, or reads inside one of them.
NOT_OPTIONS = {"platform", "sn", "sv", "s", "url", "protocol", "port"}


def documented() -> set[str]:
    """The names in backticks of the section."""
    text = (sdk_runs.REPOSITORY / "docs" / "compatibility.md").read_text()
    section = text[text.index(SECTION) :].split("\n## ")[0]
    return set(re.findall(r"`([A-Za-z_]+)`", section))


def used(family: str) -> tuple[set[str], set[str]]:
    """Methods and options of the cases."""
    methods: set[str] = set()
    options: set[str] = {"account_id", "sdk_key", "settings_file"}
    for case in cases(family):
        config: dict[str, Any] = case["config"]
        for name, args, _ in case["calls"]:
            methods |= {call[0] for call in args[2]} if name == "@bulk" else {name}
        options |= set(config.get("launch", config.get("options", {})))
    return methods, options


def package(label: str) -> str:
    return "vwo" if label in ("fullstack", "fme121") else "wingify"


@pytest.mark.parametrize("label", FAMILIES)
def test_every_method_is_documented_and_has_a_case(label: str) -> None:
    """Of the client object."""
    name = {"fullstack": "VWO", "fme121": "VWOClient"}.get(label, "WingifyClient")
    module = {"fullstack": "vwo.vwo", "fme121": "vwo.vwo_client"}.get(label, "wingify.wingify_client")
    found = set(sdk_runs.script(label, METHODS, {"module": module, "name": name}))
    assert found >= {"flush_events"}
    assert found - documented() == set()
    never_called = {"get_instance", "get_batch_event_queue", "set_batch_event_queue", "VWOClient"}
    assert found - used(FAMILIES[label])[0] - never_called == set()


@pytest.mark.parametrize("label", FAMILIES)
def test_every_option_is_documented_and_has_a_case(label: str) -> None:
    """Of launch or init, as the sources read them."""
    if label == "fullstack":
        given = {"package": "vwo", "files": ["api/launch.py"], "pattern": r'kwargs\.get\("([a-z_]+)"'}
    else:
        pattern = r"""options(?:\.get\(|\[)\s*["']([A-Za-z_]+)["']"""
        given = {"package": package(label), "files": FME_FILES[package(label)], "pattern": pattern}
    found = set(sdk_runs.script(label, OPTIONS, given)) - NOT_OPTIONS
    assert len(found) > 4
    assert found - documented() == set()
    assert found - used(FAMILIES[label])[1] == set()
