"""Counts the statements of each room, here and in another tree: `ast.stmt` nodes, and lines."""

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["long_modules", "statements_by_room"]

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("emu", "guest", "walker", "scripts")
_SPLIT = ("emu", "walker")  # Their packages are rooms of their own.


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of rooms, or the long modules; always status 0: a size is no failure."""
    parser = argparse.ArgumentParser(prog="scripts/statements", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="TREE", help="the folder of another tree")
    parser.add_argument("--long", type=int, metavar="N", help="list modules of more than N lines")
    options = parser.parse_args(arguments)
    if options.long is not None:
        for path, lines in long_modules(_ROOT, options.long):
            print(f"{path} has {lines} lines")
        return 0
    here = statements_by_room(_ROOT)
    if options.against is None:
        for room, count in sorted(here.items()):
            print(f"{room:<24}{count:>8,}")
        print(f"{'all':<24}{here.total():>8,}")
        return 0
    if not any((options.against / folder).is_dir() for folder in _FOLDERS):
        parser.error(f"{options.against} is no tree of this project")
    there = statements_by_room(options.against)
    print(f"{'room':<24}{'there':>8}{'here':>8}{'change':>9}")
    for room in sorted(here | there):
        print(_row(room, there[room], here[room]))
    print(_row("all", there.total(), here.total()))
    return 0


def statements_by_room(root: Path) -> Counter[str]:
    """Return the number of statements of each room of the tree at `root`.

    A statement is an `ast.stmt`: a docstring is one, comments and line breaks are none.
    """
    counts: Counter[str] = Counter()
    for path, source in _sources(root):
        parts = path.parts
        room = "/".join(parts[:2]) if parts[0] in _SPLIT and len(parts) > 2 else parts[0]
        counts[room] += sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(source)))
    return counts


def long_modules(root: Path, lines: int) -> list[tuple[str, int]]:
    """Return the modules of more than so many lines, and how many each has, longest first."""
    sizes = [(path.as_posix(), source.count("\n")) for path, source in _sources(root)]
    return sorted((each for each in sizes if each[1] > lines), key=lambda each: (-each[1], each[0]))


def _sources(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the Python sources of the rooms: path below `root`, text."""
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root), path.read_text(encoding="utf-8")


def _row(room: str, before: int, after: int) -> str:
    change = f"{after / before - 1:+.1%}" if before else "new"
    return f"{room:<24}{before:>8,}{after:>8,}{change:>9}"


if __name__ == "__main__":
    sys.exit(main())
