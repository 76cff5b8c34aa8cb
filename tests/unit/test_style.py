"""The house style, as far as a program can see it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent
LINES_MAX = 600
FUNCTION_LINES_MAX = 70

# Rooms in order: each may import from its own line and from those above it.
LAYERS = (
    ("_log", "_value", "errors"),
    ("_options", "_zmtp", "counters", "launch", "locks", "paths", "route"),
    ("config",),
    ("_batch", "_lane"),
    ("_wire", "client", "doorbell", "folder", "stats"),
    ("aggregator", "reports"),
    ("owner",),
    ("queue",),
    ("",),
    ("_sdk", "doctor", "tuning"),
    ("_fme_seam",),
    ("cli", "cli_spool", "cli_tuning", "fme", "fullstack"),
    ("__main__", "integrations"),
)

# A worker's half and the aggregator's half share memory and values, never code.
WORKER = (
    "",
    "_fme_seam",
    "_sdk",
    "client",
    "doorbell",
    "fme",
    "folder",
    "fullstack",
    "launch",
    "owner",
    "queue",
    "reports",
)
WORKER_TOO = ("_log", "_value", "_zmtp", "stats")
WORKER_NEVER_IMPORTS = {"requests", "sqlite3", "urllib3", "vwo_fast.aggregator"}


def files(*patterns: str) -> list[Path]:
    """Files that git knows, tracked or new, so that nothing generated is looked at."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("optional: not in a git clone")
    return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file()]


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    """Imports, names and the chosen rules."""
    run(BINARIES / "ruff", "check", ".")


def test_python_is_formatted() -> None:
    """ruff format would change nothing."""
    run(BINARIES / "ruff", "format", "--check", ".")


def test_types_hold() -> None:
    """mypy --strict over the package, the examples and the tests."""
    run(BINARIES / "mypy")


def test_c_is_formatted() -> None:
    """clang-format would change nothing."""
    sources = files("csrc/*.c", "csrc/*.h", "tests/c/*.c", "tests/c/*.h")
    assert sources
    run(BINARIES / "clang-format", "--dry-run", "-Werror", *sources)


def test_files_are_small_rooms() -> None:
    """No source file has more than 600 lines."""
    sources = files("*.py", "*.pyx", "*.pxd", "*.pxi", "*.pyi", "*.c", "*.h")
    long = {str(path.relative_to(ROOT)): count for path in sources if (count := line_count(path)) > LINES_MAX}
    assert long == {}


def test_functions_are_short() -> None:
    """No Python function has more than 70 lines."""
    long = {}
    for path in files("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                count = node.end_lineno - node.lineno + 1
                if count > FUNCTION_LINES_MAX:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = count
    assert long == {}


def test_c_functions_are_short() -> None:
    """No C function has more than 70 lines: from its opening brace in column 1 to its closing one."""
    long = {}
    for path in files("csrc/*.c", "csrc/*.h", "tests/c/*.c"):
        begin = 0
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if re.match(r"[a-z].*\) ?\{$|\{$", line):
                begin = number
            elif line == "}" and begin and number - begin + 1 > FUNCTION_LINES_MAX:
                long[f"{path.relative_to(ROOT)}:{begin}"] = number - begin + 1
    assert long == {}


def test_exports_are_explicit() -> None:
    """Every module of the package says what it exports, and each name exists. Ruff sees to the order."""
    for path in files("vwo_fast/*.py"):
        tree = ast.parse(path.read_text())
        if path.name == "__main__.py" or is_docstring_alone(tree):
            continue
        exported = [names for node in tree.body if (names := exports(node)) is not None]
        assert len(exported) == 1, f"{path.name} has no __all__"
        assert set(exported[0]) <= defined_names(tree), path.name


def test_every_module_postpones_annotations() -> None:
    """from __future__ import annotations stands in every module that has code."""
    without = [str(path) for path in files("*.py") if not postpones(ast.parse(path.read_text()))]
    assert without == []


def test_every_extension_has_a_stub() -> None:
    """The stub is the documentation of a compiled module."""
    assert {path.stem for path in files("vwo_fast/*.pyx")} == {path.stem for path in files("vwo_fast/*.pyi")}


def test_imports_point_down() -> None:
    """Values, bindings, queue or aggregator, command line: a room imports only from its own floor and those below."""
    floor = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    wrong = []
    for path in files("vwo_fast/*.py"):
        own = room_of(path)
        assert own in floor, f"{path.name}: give it a floor in LAYERS"
        wrong += [f"{own} imports {used}" for used in rooms_used(path) if floor[used] > floor[own]]
    assert wrong == []


def test_workers_import_nothing_of_the_senders_half() -> None:
    """What an application imports reaches neither requests nor sqlite3 nor the aggregator."""
    wrong = []
    for path in files("vwo_fast/*.py"):
        if room_of(path) in (*WORKER, *WORKER_TOO):
            names = set(modules_used(path))
            wrong += [f"{path.name}: {name}" for name in names if name.startswith(tuple(WORKER_NEVER_IMPORTS))]
    assert wrong == []


def test_every_test_states_a_fact() -> None:
    """Each test function has a docstring that says what it proves."""
    silent = []
    for path in files("tests/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert silent == []


def test_nothing_names_a_machine_or_is_unfinished() -> None:
    """No absolute path of a workplace, no address of an index, no mark for later."""
    forbidden = re.compile(r"/(work|root|Users)/\w|\b(TO" + "DO|FIX" + "ME|X" + "XX)\\b|--(extra-)?index-url")
    found = []
    for path in files():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def exports(node: ast.stmt) -> list[str] | None:
    """The names of an assignment to __all__, annotated or not; None for any other statement."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(getattr(target, "id", None) == "__all__" for target in targets):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def defined_names(tree: ast.Module) -> set[str]:
    """Names that a module binds at its top level, conditional imports included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def postpones(tree: ast.Module) -> bool:
    return is_docstring_alone(tree) or any(is_future(node) for node in tree.body)


def is_docstring_alone(tree: ast.Module) -> bool:
    return all(isinstance(node, ast.Expr) or is_future(node) for node in tree.body)


def is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def room_of(path: Path) -> str:
    """The first part of a module's name below vwo_fast; the package itself is the empty name."""
    first = path.relative_to(ROOT / "vwo_fast").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def modules_used(path: Path) -> list[str]:
    """Full names of what a module imports while it is loaded or later; imports for types alone do not count."""
    names = []
    for node in runtime_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = [tree]
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        nodes += runtime_nodes(child)
    return nodes


def rooms_used(path: Path) -> set[str]:
    """Rooms of the package that a module imports from."""
    rooms = set()
    for name in modules_used(path):
        parts = name.split(".")
        if parts[0] != "vwo_fast" or parts[-1] == "__version__":
            continue
        second = parts[1] if len(parts) > 1 else ""
        is_room = (ROOT / "vwo_fast" / second).is_dir() or any(ROOT.glob(f"vwo_fast/{second}.py*"))
        rooms.add(second if second and is_room else "")
    return rooms
