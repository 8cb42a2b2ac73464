"""Where the source of a walker under test is, as far as its name says; nothing is run for it."""

import ast
import shlex
from pathlib import Path

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file

__all__ = ["walker_place"]

_LARGEST = 1 << 22
_SOURCES = {".py", ".c", ".cc", ".cpp", ".go", ".java", ".js", ".pl", ".rb", ".rs", ".sh", ".ts"}


def walker_place(walker: str) -> tuple[str, int] | None:
    """Return the file of the walker that `--walker` names, and the line where it begins.

    None for one that is no source: a library, a compiled program, a module that isn't below the
    current folder. Paths are relative to that folder where they lead into it.
    """
    kind, _, rest = walker.partition(":")
    if kind == "python":
        where, _, name = rest.rpartition(":")
        path = Path(where) if where.endswith(".py") else _module(where)
        return None if path is None or not path.is_file() else (_shown(path), _line(path, name))
    if kind == "exec":
        try:
            words = shlex.split(rest)
        except ValueError:
            return None
        files = (Path(word) for word in words if Path(word).suffix in _SOURCES)
        return next(((_shown(path), 1) for path in files if path.is_file()), None)
    return None


def _module(name: str) -> Path | None:
    parts = name.split(".")
    if not all(parts):
        return None
    base = Path(*parts)
    found = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in found if path.is_file()), None)


def _line(path: Path, name: str) -> int:
    """Return the line in which a name is defined, 1 where that isn't seen."""
    try:
        tree = ast.parse(read_file(path, _LARGEST))
    except (BadInput, SyntaxError, ValueError, RecursionError):
        return 1  # A file that can't be read as Python still is the walker's.
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return next(
        (node.lineno for node in tree.body if isinstance(node, kinds) and node.name == name), 1
    )


def _shown(path: Path) -> str:
    here = Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here)
    return (path.relative_to(here) if inside else path).as_posix()
