"""What is published: an sdist that builds, and a wheel that has everything and works away from the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.engine import engine
from tests.support.servers import ROOT, queue_environment


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist that is built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("package")
    sources = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "out")
    for name in ("csrc", "vwo_fast"):
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, sources)
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", folder, cwd=sources)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
    )
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_everything(wheel: Path) -> None:
    """Every module, stub and extension of the package is in it, and no C source."""
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "vwo_fast"
    wanted = [path for pattern in ("*.py", "*.pyi", "py.typed") for path in package.rglob(pattern)]
    assert {str(path.relative_to(ROOT)) for path in wanted} <= names
    assert len([name for name in names if name.endswith(".so")]) == len(list(package.glob("*.pyx")))
    assert not [name for name in names if name.endswith((".c", ".h", ".pyx"))]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """Unpacked far from the repository it delivers an event, aggregator included, and its command line answers."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = """
import vwo_fast
queue = vwo_fast.Queue("alone")
producer = queue.producer(vwo_fast.Route.fme(account_id=1, sdk_key="k", sdk_name="n", sdk_version="1"))
assert producer.enqueue({"n": 1}) and queue.flush(timeout=60)
queue.close()
print(vwo_fast.__file__)
"""
    with engine() as made:
        environment = {**queue_environment(made), "PYTHONPATH": str(site)}
        assert str(site) in run(sys.executable, "-c", program, cwd=tmp_path, environment=environment)
        assert made.collector.events == [{"n": 1}]
        help_text = run(sys.executable, "-m", "vwo_fast", "--help", cwd=tmp_path, environment=environment)
        assert all(command in help_text for command in ("run", "status", "flush", "doctor"))
