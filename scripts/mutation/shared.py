"""The modules that the prediction and the observation both import: by the import graph."""

import ast
from collections.abc import Iterable
from pathlib import Path

from scripts.mutation.mutants import ROOT

__all__ = ["DATA", "OBSERVES", "PREDICTS", "SHARED", "closure", "import_graph", "shared_modules"]

_PACKAGES = ("emu", "guest", "walker")

PREDICTS = (
    "crosswalk.walker.bulk",
    "crosswalk.walker.leaves",
    "crosswalk.walker.nested.translate",
    "crosswalk.walker.tlb.model",
    "crosswalk.walker.translate",
)
"""The modules that predict, by which everything else of the walker's prediction is imported."""

OBSERVES = ("crosswalk.emu.cpu", "crosswalk.emu.probe")
"""The packages that observe, all of their modules."""

SHARED = (
    "access",
    "architecture",
    "columns",
    "context",
    "control",
    "entry",
    "errors",
    "memory",
    "nested.context",
    "nested.outcome",
    "outcome",
    "rights",
    "second_level",
    "tlb.steps",
)
"""The modules of the walker that both import, held to the graph by a test."""

DATA = ("access", "columns", "memory")
"""The modules whose types the probe uses: their numbers are both sides', wherever they are run.

`architecture` is none of them: the oracles keep copies of those of its numbers that a translation
depends on, held together by a test; of the others few decide about an access."""


def shared_modules(root: Path = ROOT) -> list[str]:
    """Return the modules that both sides import, directly or by way of others, by name."""
    graph = import_graph(root)
    observes = [
        name for name in graph if any(f"{name}.".startswith(f"{room}.") for room in OBSERVES)
    ]
    return sorted(closure(graph, PREDICTS) & closure(graph, observes))


def import_graph(root: Path) -> dict[str, set[str]]:
    """Return what each module of the project imports of the project.

    That a submodule's import runs its packages' `__init__` is left out: those only gather names.
    """
    paths = {
        _name(path.relative_to(root)): path
        for package in _PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    return {name: _imports(path, paths.keys()) for name, path in paths.items()}


def closure(graph: dict[str, set[str]], names: Iterable[str]) -> set[str]:
    """Return these modules and all that they import, directly or by way of others."""
    found: set[str] = set()
    rest = list(names)
    while rest:
        name = rest.pop()
        if name not in found:
            found.add(name)
            rest.extend(graph[name])
    return found


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(("crosswalk", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def _imports(path: Path, known: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return found & set(known)
