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


def known_tests() -> set[str]:
    """Names of all test functions, and of the C tests."""
    tests = ROOT / "tests"
    found = {path.name for path in (tests / "c").glob("test_*.c")}
    for path in tests.rglob("test_*.py"):
        found |= set(re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def test_every_guarantee_names_the_tests_that_prove_it() -> None:
    """Each failure on the page of guarantees has a test that exists, and no test is named that does not."""
    text = (DOCS / "guarantees.md").read_text(encoding="utf-8")
    table = text.partition("## Failure by failure")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(test_\w+(?:\.c)?)`", row.rsplit("|", 2)[1])
        assert named, f"no test proves: {row[:80]}"
        missing = set(named) - known_tests()
        assert not missing, f"{missing} of: {row[:80]}"
