"""The documents agree with the source and with each other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from vwo_fast._options import ALIASES, OPTIONS
from vwo_fast.counters import Reason

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configuration", DOCS / "make_configuration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page_is_current() -> None:
    """The tables of configuration.md are what the table of options gives; else run docs/make_configuration.py."""
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert generator().page(text) == text
    for name in [*OPTIONS, *ALIASES]:
        assert f"| `{name}` |" in text


def test_a_page_without_marks_is_not_rewritten() -> None:
    """A lost mark is an error, not a page without a table."""
    with pytest.raises(ValueError, match="marks"):
        generator().page("# Configuration\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page names a file of the repository."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = target.partition("#")[0]
        if path and "://" not in path and not path.startswith("mailto:"):
            assert (page.parent / path).exists(), f"{page.name} links to {target}"


def test_every_decision_is_listed() -> None:
    """The list of decisions names each file once, and numbers have no gap."""
    files = sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))
    listed = LINK.findall((DOCS / "decisions" / "README.md").read_text(encoding="utf-8"))
    assert listed == files
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))
    for name in files:
        assert len((DOCS / "decisions" / name).read_text(encoding="utf-8").splitlines()) <= 60


def test_every_reason_is_explained() -> None:
    """Each reason for a refusal or a drop is on the page of guarantees, under the name that statistics give it."""
    text = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    missing = [reason.name.lower() for reason in Reason if f"`{reason.name.lower()}`" not in text]
    assert missing == []
