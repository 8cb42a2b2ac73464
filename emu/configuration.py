"""`[tool.crosswalk]` of the nearest pyproject.toml: options that are always the same."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import errors_named, one_line

__all__ = ["TABLES", "read_table"]

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
