"""The structure of the package: which part may import which, how large folders and modules are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "psaq_mm"
# A part may import those of a lower rank, and itself; parts of one rank do not know each other.
RANKS = {
    "errors": 0,
    "compat": 0,
    "registry": 1,
    "utils": 1,
    "quantization": 2,
    "generation": 2,
    "distillation": 3,
    "analysis": 4,
    "models": 4,
    "datasets": 4,
    "deployment": 5,
    "visualization": 5,
    "report": 6,
    "engine": 7,
    "in_memory": 8,
    "api": 9,
    "cli": 9,
}
CORES = ("quantization", "generation", "distillation")
MODULES = sorted(PACKAGE.rglob("*.py"))
OUR_TREES = [PACKAGE, ROOT / "tools", ROOT / "benchmarks", ROOT / "dev", ROOT / "tests"]


def dotted(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path: Path) -> Iterator[str]:
    """The full names of the modules that a module imports anywhere in it, those for type checkers too."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(dotted(path)))
def test_arrows_run_one_way(path):
    own = dotted(path)
    for name in imported(path):
        if len(own) > 1 and name.startswith("psaq_mm.") and part(name) != own[1] and part(name) in RANKS:
            assert RANKS[own[1]] > RANKS[part(name)], f"{'.'.join(own)} imports {name}"
        assert name.partition(".")[0] not in ("tools", "benchmarks", "dev", "tests"), name


def test_every_part_has_a_rank():
    parts = {dotted(path)[1] for path in MODULES if len(dotted(path)) > 1}
    assert parts == set(RANKS)


def test_no_modules_import_each_other():
    """Not even for a type checker."""
    names = {".".join(dotted(path)) for path in MODULES}
    graph = {
        ".".join(dotted(path)): {name for name in imported(path) if name in names} - {".".join(dotted(path))}
        for path in MODULES
    }
    # A package's __init__ gathers what is below it; a module that imports its own package's __init__ is a cycle.
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in finished:
            return
        for other in sorted(graph[name]):
            visit(other, (*trail, name))
        finished.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("tree", OUR_TREES, ids=lambda tree: tree.name)
def test_modules_and_folders_are_small(tree):
    limit = 350 if tree.name != "tests" else 500
    folders: dict[Path, int] = {}
    for path in tree.rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= limit, f"{path.relative_to(ROOT)} has {lines} lines"
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    if tree == PACKAGE:
        assert {str(folder): count for folder, count in folders.items() if count > 12} == {}


# As if these were not installed.
BLOCKED = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Without if one is PathFinder else one for one in sys.meta_path]
"""
OPENMMLAB = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "timm", "torchvision", "rich")


@pytest.mark.parametrize("module", ["psaq_mm", *(f"psaq_mm.{core}" for core in CORES)])
def test_it_imports_with_torch_alone(module):
    code = BLOCKED.format(blocked=OPENMMLAB).replace(
        "raise ModuleNotFoundError(name)", "raise ModuleNotFoundError(name)"
    )
    code += f"import importlib.util\nimport {module}\nprint(sorted(set(sys.modules) & {set(OPENMMLAB)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]


def test_what_needs_openmmlab_says_so_when_it_is_used():
    code = BLOCKED.format(blocked=OPENMMLAB) + "import psaq_mm\npsaq_mm.quantize"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: psaq_mm needs mmengine, which is not installed: pip install" in done.stderr
