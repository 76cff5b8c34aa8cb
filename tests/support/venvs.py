"""Virtual environments of this repository, one per label: for work on it, and for each official SDK.

The SDKs cannot live together (three of them own the package ``vwo``), and none of them
is a dependency of vwo_fast, so each gets an environment of its own under ``.venvs/``.
An environment is keyed by the Python version and a hash of what is in it; it is made once
and found again, and its name appears only when it is complete.

``python -m tests.support.venvs fullstack fme165`` makes environments and prints their interpreters;
for a single label it prints the path alone, as the Makefile reads it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["LABELS", "ensure", "main"]

REPOSITORY = Path(__file__).resolve().parents[2]

ENGINE = ("msgpack>=1.0.5", "pyzmq>=25", "requests>=2.31", "tomli>=2; python_version < '3.11'")
"""Run-time dependencies of vwo_fast, which itself comes from the repository by a path file."""

SERVERS = ("flask", "gunicorn", "gevent")

BUILD = ("setuptools>=77", "cython>=3.1")

LABELS: dict[str, tuple[str, ...]] = {
    "build": BUILD,
    "dev": (
        *BUILD,
        "clang-format",
        "hypothesis",
        "msgspec",
        "mypy",
        "orjson",
        "pytest",
        "ruff",
        "types-requests",
    ),
    # gunicorn's gevent worker imports packaging without requiring it.
    "servers": (*SERVERS, "celery", "packaging"),
    # Built from source by pip, so that a machine where this fails still has the other servers.
    "uwsgi": ("uwsgi",),
    # 1.68.2 imports pkg_resources, which later setuptools no longer have.
    "fullstack": ("vwo-python-sdk==1.68.2", "setuptools<81", *SERVERS, "django"),
    "fme121": ("vwo-fme-python-sdk==1.21.1",),
    "fme165": ("vwo-fme-python-sdk==1.65.0", "fastapi", "uvicorn"),
    "wfme165": ("wingify-fme-python-sdk==1.65.0",),
}


def ensure(label: str, python: str = sys.executable, packages: tuple[str, ...] | None = None) -> Path:
    """Path of the interpreter of the environment ``label``; makes it when it is not there yet.

    ``packages``: what it holds, for a label that is not in LABELS.  It imports vwo_fast from this
    repository, so the extensions must have been built in place for the same Python version.
    """
    requirements = (*(LABELS[label] if packages is None else packages), *ENGINE)
    root = REPOSITORY / ".venvs"
    root.mkdir(exist_ok=True)
    target = root / f"{label}-{_version(python)}-{_digest(requirements)}"
    interpreter = target / "bin" / "python"
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = target / ".complete"
        if not complete.exists():
            shutil.rmtree(target, ignore_errors=True)
            _make(target, requirements, python)
            complete.touch()
        _link_repository(target)
    return interpreter


def _make(target: Path, requirements: tuple[str, ...], python: str) -> None:
    # The environment must belong to the real interpreter: one made from another virtual
    # environment would find its packages through that one's configuration.
    base = subprocess.run(
        [python, "-c", "import sys; print(getattr(sys, '_base_executable', None) or sys.executable)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run([base, "-m", "venv", str(target)], check=True)
    pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    subprocess.run([*pip, *requirements], check=True, stdout=sys.stderr)


def _link_repository(target: Path) -> None:
    """Put the repository on the environment's path, so that the sources under test are the ones that run."""
    packages = next((target / "lib").glob("python3*/site-packages"))
    link = packages / "vwo_fast_repository.pth"
    wanted = f"{REPOSITORY}\n"
    if not link.exists() or link.read_text() != wanted:
        scratch = link.with_suffix(".tmp")
        scratch.write_text(wanted)
        os.replace(scratch, link)


def _version(python: str) -> str:
    if python == sys.executable:
        return str(sysconfig.get_config_var("py_version_nodot"))
    code = "import sysconfig; print(sysconfig.get_config_var('py_version_nodot'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _digest(requirements: tuple[str, ...]) -> str:
    return hashlib.blake2b("\n".join(requirements).encode(), digest_size=4).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label", nargs="*", choices=[*LABELS, []], help="environments to make (default: all)")
    parser.add_argument("--python", default=sys.executable, help="interpreter to base them on")
    parser.add_argument("--optional", action="store_true", help="go on when one cannot be made; its tests skip then")
    options = parser.parse_args()
    if len(options.label) == 1:
        print(ensure(options.label[0], options.python))
        return
    for label in options.label or LABELS:
        try:
            print(f"{label} {ensure(label, options.python)}", flush=True)
        except subprocess.CalledProcessError as exc:
            if not options.optional:
                raise
            print(f"{label}: could not be made: {exc}", flush=True)


if __name__ == "__main__":
    main()
