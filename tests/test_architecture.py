"""House rules that neither mypy nor ruff knows: who imports what, how big, under what name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for root in ("supervisor", "workers")
    for path in (ROOT / root).rglob("*.py")
)
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))
SUPERVISOR = [path for path in SOURCES if path.parts[0] == "supervisor"]
WORKERS = [path for path in SOURCES if path.parts[0] == "workers"]
POLICY = [path for path in SUPERVISOR if "policy" in path.parts]
DEMO = Path("supervisor/asgi_supervise/demo.py")
TEMPLATE = Path("supervisor/asgi_supervise/host/template.py")
CHILDREN = Path("supervisor/asgi_supervise/host/children.py")

SEAM = {
    f"asgi_worker.{name}"
    for name in ("channel", "contract", "ending", "inbox", "processor", "scoreboard", "stacks")
}
PURE = {
    *(
        "__future__",
        "bisect",
        "collections",
        "collections.abc",
        "contextlib",
        "dataclasses",
        "enum",
    ),
    *("functools", "heapq", "itertools", "math", "operator", "re", "types", "typing", "msgspec"),
    "signal.Signals",  # the names of signals, to say what a process died of
}
NOT_IN_MASTER = {
    *("asyncio", "uvloop", "httptools", "websockets", "http", "urllib.request", "ssl"),
    *("threading", "multiprocessing", "concurrent"),
}
WORDS_THAT_SAY_NOTHING = {
    *("manager", "handler", "helper", "helpers", "util", "utils", "common", "base", "impl", "misc")
}
BASES = ("Protocol", "Exception", "Error", "Enum", "Flag", "Struct", "NamedTuple", "TypedDict")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every imported module, and for ``from a import b`` also ``a.b``, wherever the line stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_in(name: str, modules: set[str]) -> bool:
    """Whether ``name`` is one of ``modules`` or lies inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def classes(path: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))


def test_there_is_something_to_look_at() -> None:
    assert len(SUPERVISOR) > 10
    assert len(WORKERS) > 5
    assert POLICY


@pytest.mark.parametrize("root", ["supervisor", "workers"])
def test_source_roots_are_no_packages(root: str) -> None:
    assert not (ROOT / root / "__init__.py").exists()


@pytest.mark.parametrize("path", WORKERS, ids=str)
def test_the_data_plane_does_not_know_the_control_plane(path: Path) -> None:
    assert not [name for name in imports(path) if is_in(name, {"asgi_supervise"})]


@pytest.mark.parametrize("path", [p for p in SUPERVISOR if p not in (DEMO, TEMPLATE)], ids=str)
def test_the_control_plane_knows_only_the_seam_of_the_data_plane(path: Path) -> None:
    theirs = [name for name in imports(path) if is_in(name, {"asgi_worker"})]
    assert [name for name in theirs if not is_in(name, SEAM)] == []


@pytest.mark.parametrize("path", [p for p in SUPERVISOR if p != DEMO], ids=str)
def test_the_master_imports_no_loop_and_no_threads(path: Path) -> None:
    assert [name for name in imports(path) if is_in(name, NOT_IN_MASTER)] == []


@pytest.mark.parametrize("path", POLICY, ids=str)
def test_policy_is_pure(path: Path) -> None:
    allowed = PURE | {"asgi_supervise.policy", "asgi_worker.contract"}
    assert [name for name in imports(path) if not is_in(name, allowed)] == []


@pytest.mark.parametrize("path", SUPERVISOR, ids=str)
def test_floors(path: Path) -> None:
    """Faces know the master, the master knows the floor below, and nobody looks up."""
    ours = {name for name in imports(path) if is_in(name, {"asgi_supervise"})}
    floor = path.parts[2]
    up = {"asgi_supervise.cli", "asgi_supervise.ctl"}
    if path.name not in ("cli.py", "ctl.py"):
        up.add("asgi_supervise.master")
    if floor == "settings":
        up |= {f"asgi_supervise.{other}" for other in ("policy", "host", "control")}
    if floor == "host":
        up.add("asgi_supervise.control")
    if path.name == "__main__.py":
        up.discard("asgi_supervise.cli")
    assert [name for name in ours if is_in(name, up)] == []


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=str)
def test_files_are_small(path: Path) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines < (600 if path in TESTS else 400), "two ideas? (tables of tests may be longer)"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=str)
def test_names_say_something(path: Path) -> None:
    stems = set(path.stem.split("_"))
    assert not stems & WORDS_THAT_SAY_NOTHING
    for node in classes(path):
        words = {word.lower() for word in re.findall(r"[A-Z][a-z]+|[A-Z]+(?![a-z])", node.name)}
        assert not words & WORDS_THAT_SAY_NOTHING, f"{path}:{node.lineno}: class {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_sleeps_and_only_children_are_waited_for(path: Path) -> None:
    may_wait = path in (CHILDREN, TEMPLATE)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            assert name != "time.sleep", f"{path}:{node.lineno}"
            assert may_wait or not re.fullmatch(r"os\.wait\w*", name), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_is_inherited_but_vocabulary(path: Path) -> None:
    for node in classes(path):
        for parent in node.bases:
            target = parent.value if isinstance(parent, ast.Subscript) else parent
            name = target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)
            assert name == "Generic" or name.endswith(BASES), f"{path}: {node.name}({name})"
