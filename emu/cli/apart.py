"""What a command writes is kept apart from what it reads, and from what else it writes.

Nothing here imports more than the standard library, as in `crosswalk.emu.cli.options`.
"""

import argparse
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from crosswalk.emu.cli.options import OUTPUTS, Command, Option, options_of

__all__ = ["clash", "is_among", "named_inputs"]

_READ_IN_FOLDERS = "*.json"
"""What commands read of a folder that they are given."""


def clash(command: Command, options: argparse.Namespace) -> str | None:
    """Return, in one line, what a command would read and overwrite, or write twice, if anything.

    The same file under another name, as a link's, is the same.
    """
    written: list[tuple[Path, str]] = []
    for each, path in _outputs(command, options):
        name = each.names[0] if each.names[0].startswith("--") else each.names[-1]
        # A baseline may be brought up to date.
        kept = {"baseline"} if each.dest == "write_baseline" else set[str]()
        if is_among(path, _inputs(command, options, kept)):
            return f"{path}: is read, and {name} would overwrite it"
        twice = next((known for other, known in written if _same(path, other)), None)
        if twice is not None:
            return f"{path}: of {twice} and {name}"
        written.append((path, name))
    return None


def is_among(path: Path, inputs: Iterable[Path]) -> bool:
    """Return whether to write this file would overwrite one of these files, or one in a folder."""
    return any(_same(path, other) for other in _files(inputs, path))


def named_inputs(values: Iterable[str | Path]) -> list[Path]:
    """Return the files and folders that values name.

    Alone, after an @, before a comma, or as log:FILE or python:FILE:NAME.
    """
    given = [str(value).removeprefix("@") for value in values]
    behind = [text.partition(":")[2] for text in given]
    before = [text.partition(",")[0] for text in given]
    texts = [*given, *before, *behind, *(text.rpartition(":")[0] for text in behind)]
    # Unlike Path.exists, this takes any text.
    return [Path(text) for text in texts if text and os.path.exists(text)]  # noqa: PTH110


def _inputs(command: Command, options: argparse.Namespace, kept: Container[str]) -> list[Path]:
    """Return the files and folders that there are, of those that options but `kept` have read."""
    reading = (each.dest for each in options_of(command) if each.reads and each.dest not in kept)
    values = (getattr(options, dest) for dest in reading)
    return named_inputs(
        text
        for value in values
        if value is not None
        for text in (value if isinstance(value, list) else [value])
    )


def _outputs(command: Command, options: argparse.Namespace) -> Iterator[tuple[Option, Path]]:
    """Yield the files that a command is to write; what is no regular file isn't overwritten."""
    for each in options_of(command):
        value = getattr(options, each.dest)
        if each.settings.get("type") not in OUTPUTS:
            continue
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and (path.is_file() or not path.exists()):
                yield each, path


def _files(inputs: Iterable[Path], path: Path) -> Iterator[Path]:
    """Yield the files that are read, and could be the one at `path`."""
    for each in inputs:
        if not each.is_dir():
            yield each
        elif path.exists():
            yield from each.rglob(_READ_IN_FOLDERS)


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, or would, if there were one."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
