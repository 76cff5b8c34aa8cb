"""The CPython interpreters of this machine that vwo_fast supports, one for each minor version.

``python -m tests.support.interpreters`` prints their paths, oldest first: from PATH, then from pyenv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MINORS", "find", "main"]

MINORS = range(10, 15)


def find() -> list[str]:
    """Path of the first interpreter that runs, for each version."""
    found = (next((path for path in _candidates(minor) if _is_version(path, minor)), None) for minor in MINORS)
    return [path for path in found if path is not None]


def _candidates(minor: int) -> Iterator[str]:
    on_path = shutil.which(f"python3.{minor}")
    if on_path is not None:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(map(str, pyenv.glob(f"versions/3.{minor}.*/bin/python3.{minor}")), reverse=True)


def _is_version(path: str, minor: int) -> bool:
    # pyenv's shims exist for versions that are not switched on, and then only fail.
    code = f"import sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
    return subprocess.run([path, "-c", code], capture_output=True, check=False).returncode == 0


def main() -> None:
    for path in find():
        print(path)


if __name__ == "__main__":
    main()
