"""The house holds: imports point downwards, guests stand alone, rooms stay small."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

REPO = Path(__file__).parent.parent

#: Rooms of tracelens from the ground up. A room may import from the floors listed before its own,
#: and from itself; never from a neighbour on its own floor.
FLOORS = (
    ("errors", "units", "sqlite"),
    ("remote",),
    ("thresholds", "trace", "peaks", "workers"),
    ("intervals", "welch"),
    ("ingest", "classify"),
    ("cluster",),
    ("reading",),
    ("links", "operands"),
    ("messages", "sizes"),
    ("ranges",),
    ("steps",),
    ("moments",),
    ("phases", "launches", "late_starts", "lengths", "copies", "syncs", "peculiar"),
    ("pauses", "host_work", "gradients", "transfer"),
    ("host", "reducing"),
    ("overlap",),
    ("collectives",),
    ("matching",),
    ("fits", "bounds", "infer"),
    ("findings", "efficiency"),
    ("detectors",),
    ("analysis",),
    ("coherence", "representatives"),
    ("frames", "pipeline"),
    ("replay", "comparison", "limits"),
    ("store",),
    ("report",),
    ("keeping",),
    ("api",),
    ("cli",),
    ("__main__",),
)

#: What `collectors` may import besides the standard library, and only inside functions.
GUESTS_TOOLS = {"torch", "deepspeed", "transformers", "accelerate"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50


class Import(NamedTuple):
    """One import of one module: by whom, of what, where, and whether when the file is loaded."""

    module: str
    target: str
    line: int
    on_load: bool


def files_of(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> frozenset[str]:
    packages = ("tracelens", "collectors", "dashboards")
    return frozenset(module_name(p) for package in packages for p in files_of(package))


@cache
def imports_of(package: str) -> tuple[Import, ...]:
    return tuple(i for path in files_of(package) for i in _imports(path))


def _imports(path: Path) -> Iterator[Import]:
    """All imports of a file; of names from a package, the submodule where there is one."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node, on_load in _walk(ast.parse(path.read_text(encoding="utf-8")), True):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, node.lineno, on_load)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for name in node.names:
                whole = f"{base}.{name.name}"
                target = whole if whole in modules() else base
                yield Import(module, target, node.lineno, on_load)


def _walk(node: ast.AST, on_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, and whether they run when the module is loaded."""
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        yield child, on_load
        yield from _walk(child, on_load and not inside and not typing_only)


def room_of(module: str) -> str:
    """Room of a module of tracelens: ``tracelens.ingest.kineto`` is in ``ingest``."""
    return module.split(".")[1] if "." in module else ""


def floor_of(room: str) -> int:
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), -1)


def test_every_module_has_its_floor() -> None:
    rooms = {room_of(m) for m in modules() if m.startswith("tracelens.")}
    assert rooms <= {room for floor in FLOORS for room in floor}


def test_imports_point_downwards() -> None:
    """Type-only and function-local imports count too: a name known is a name depended on."""
    wrong = []
    for i in imports_of("tracelens"):
        ours = i.target.split(".")[0] == "tracelens" and i.target != "tracelens"
        here, there = room_of(i.module), room_of(i.target)
        if not ours or i.module == "tracelens" or here == there:
            continue
        if floor_of(there) >= floor_of(here):
            wrong.append(f"{i.module}:{i.line} imports {i.target}")
    assert not wrong


def test_nobody_inside_imports_the_public_face() -> None:
    """``import tracelens`` inside tracelens would reach everything at once."""
    face = [
        f"{i.module}:{i.line}"
        for i in imports_of("tracelens")
        if i.target == "tracelens" and i.module != "tracelens"
    ]
    assert not face


def test_the_public_face_loads_nothing() -> None:
    loaded = {
        i.target.split(".")[0]
        for i in imports_of("tracelens")
        if i.module == "tracelens" and i.on_load
    }
    assert loaded <= sys.stdlib_module_names


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for i in imports_of("tracelens"):
        if i.on_load and i.target in modules():
            graph.setdefault(i.module, set()).add(i.target)
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", ["collectors", "dashboards"])
def test_within_the_other_packages_imports_are_relative(package: str) -> None:
    """Their top-level names are common words: absolute imports could meet someone else's."""
    tops = {"collectors", "dashboards"}
    wrong = []
    for path in files_of(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [n.name for n in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong += [f"{path.name}: {n}" for n in names if n.split(".")[0] in tops]
    assert not wrong


def test_collectors_load_the_standard_library_only() -> None:
    """They are guests in a training job: torch and deepspeed lazily, tracelens never."""
    wrong = []
    for i in imports_of("collectors"):
        top = i.target.split(".")[0]
        lazy_tool = top in GUESTS_TOOLS and not i.on_load
        if top not in {*sys.stdlib_module_names, "collectors"} and not lazy_tool:
            wrong.append(f"{i.module}:{i.line} imports {i.target}")
    assert not wrong


def test_tracelens_imports_neither_of_the_others() -> None:
    """Only the commands that start them do, and only when they run."""
    others = {"collectors", "dashboards", "torch", "deepspeed"}
    seen = [i for i in imports_of("tracelens") if i.target.split(".")[0] in others]
    wrong = [i for i in seen if room_of(i.module) != "cli" or i.on_load]
    assert not wrong


ALL_FILES = [p for d in ("tracelens", "collectors", "dashboards") for p in files_of(d)]


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda p: str(p.relative_to(REPO)))
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = {
        node.name: lines
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := _body_lines(node)) > MAX_FUNCTION_LINES
    }
    assert not long, "functions that do not fit on a screen"


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_the_rule_can_fail() -> None:
    """The walk sees what it must: a lazy import, a type-only one, a relative one."""
    seen = {(i.module, i.target, i.on_load) for i in imports_of("tracelens")}
    assert ("tracelens.api", "tracelens.frames", False) in seen  # in a function
    assert ("tracelens.frames", "tracelens.analysis", False) in seen  # TYPE_CHECKING
    assert ("tracelens.overlap", "tracelens.intervals", True) in seen
    assert floor_of("overlap") < floor_of("analysis") < floor_of("cli")
