"""What a walker under test is made of: a digest of its files, so that a changed one is noticed."""

import hashlib
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import map_file

__all__ = ["origin_digest"]


def origin_digest(text: str) -> str:
    """Return 16 hex digits that differ where a file differs of which the walker `text` is made.

    Those are: the file of `python:FILE.py:FUNCTION`; the module of `python:MODULE:FUNCTION` with
    all .py files of its package; the library of `c:`; each word of the command of `exec:` that is
    a file. Of what those load in turn nothing is known here. Nothing is imported or run.
    """
    kind, _, rest = text.partition(":")
    paths: Iterable[Path] = ()
    if kind == "python":
        where = rest.rpartition(":")[0]
        paths = [Path(where)] if where.endswith(".py") else _module_files(where)
    elif kind == "c":
        paths = [Path(rest)]
    elif kind == "exec":
        paths = _words(rest)
    digest = hashlib.sha256(text.encode(errors="surrogateescape"))
    for path in paths:
        digest.update(b"\0" + _content(path))
    return digest.hexdigest()[:16]


def _content(path: Path) -> bytes:
    """Return a digest of a file; of one that can't be read the reason, which may change as well."""
    try:
        return hashlib.sha256(map_file(path).data).digest()
    except BadInput as error:
        return str(error).encode(errors="surrogateescape")


def _words(command: str) -> Iterator[Path]:
    try:
        words = shlex.split(command)
    except ValueError:
        return  # Opening the walker says what is wrong with it.
    for at, word in enumerate(words):
        found = shutil.which(word) if at == 0 else word
        if found is not None and Path(found).is_file():
            yield Path(found)


def _module_files(name: str) -> list[Path]:
    """Return the file of a module, or all .py files of the package that it is in, sorted."""
    top, *below = name.split(".")
    spec = PathFinder.find_spec(top, ["", *sys.path])
    if spec is None:
        return []
    folders = list(spec.submodule_search_locations or ())
    if folders:
        return sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    return [] if spec.origin is None or below else [Path(spec.origin)]
