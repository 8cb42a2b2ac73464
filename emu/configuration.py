"""`[tool.crosswalk]` of the nearest pyproject.toml: options that are always the same."""

import os
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, one_line

__all__ = ["TABLES", "judge_from", "path_from", "read_table", "walker_from"]

TABLES = ("fuzz", "pytest")
"""The tables that `[tool.crosswalk]` may hold: options of `fuzz`, settings of the plugin."""

_NAME = "pyproject.toml"
_LARGEST = 1 << 22


def read_table(name: str, folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the file and the table `[tool.crosswalk.NAME]` in it; nothing where there is none.

    The file is the pyproject.toml of `folder`, or of the first folder above it that has one.
    Raises `BadInput` for a file that can't be read, and for what `[tool.crosswalk]` can't hold.
    """
    start = folder.absolute()
    path = next((each / _NAME for each in (start, *start.parents) if (each / _NAME).exists()), None)
    if path is None:
        return None, {}
    with errors_named(str(path)):
        try:
            table: Any = tomllib.loads(read_file(path, _LARGEST).decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(one_line(str(error))) from None
        for above, key in (("", "tool"), ("tool.", "crosswalk"), ("tool.crosswalk.", name)):
            unknown = sorted(table.keys() - set(TABLES)) if key == name else []
            if unknown:
                raise BadInput(
                    f"[tool.crosswalk] has no table {one_line(unknown[0])!r} ({', '.join(TABLES)})"
                )
            table = table.get(key, {})
            if not isinstance(table, dict):
                raise BadInput(f"{above}{key} is not a table")
    return path, table


def path_from(folder: Path, text: str) -> str:
    """Return a path that is meant from `folder`, absolute, as it is from the current folder."""
    if not text or folder == Path.cwd():
        return text
    return text if Path(text).is_absolute() else os.path.relpath(folder / text)


def walker_from(folder: Path, walker: str) -> str:
    """Return what `--walker` takes for a walker whose files are named from `folder`, absolute.

    Those are the file of `python:FILE.py:FUNCTION`, the library of `c:`, and the words of `exec:`
    that are files there; a command without a slash is one of PATH.
    """
    kind, colon, rest = walker.partition(":")
    if kind == "python":
        where, _, name = rest.rpartition(":")
        rest = f"{path_from(folder, where)}:{name}" if where.endswith(".py") else rest
    elif kind == "c":
        rest = path_from(folder, rest)
    elif kind == "exec":
        rest = _command_from(folder, rest)
    return f"{kind}{colon}{rest}"


def judge_from(folder: Path, judge: str) -> str:
    """Return what `--judge` takes for a machine whose files are named from `folder`, absolute.

    Those are the words of `exec:` that are files there, and the program behind the colon of another
    kind; one without a slash is one of PATH.
    """
    kind, colon, rest = judge.partition(":")
    return f"{kind}{colon}{_command_from(folder, rest) if kind == 'exec' else _file(folder, rest)}"


def _file(folder: Path, name: str) -> str:
    return path_from(folder, name) if "/" in name and (folder / name).is_file() else name


def _command_from(folder: Path, command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        return command  # Opening the walker says what is wrong with it.
    found = [
        path_from(folder, word) if (at or "/" in word) and (folder / word).is_file() else word
        for at, word in enumerate(words)
    ]
    return command if found == words else shlex.join(found)
