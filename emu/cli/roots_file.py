"""--roots: `all`, a list of CR3s, or a file of them, as text and as `crosswalk roots` writes it."""

import re
from pathlib import Path

import msgspec

from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.documents import Count, Document, Hex64
from crosswalk.walker.formats.files import read_file
from crosswalk.walker.formats.located_errors import one_line

__all__ = ["ALL", "MOST_ROOTS", "WantedRoot", "require_roots", "wanted_roots"]

ALL = "all"
MOST_ROOTS = 65_536
"""How many roots are taken at once."""

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19}")
_LARGEST = 1 << 26


class WantedRoot(Document, frozen=True, kw_only=True):
    """A line of `crosswalk roots --json`; all but its CR3 may be left out."""

    cr3: Hex64
    mode: PagingMode | None = None
    group: Count | None = None
    mappings: Count | None = None
    user_mappings: Count | None = None
    source: str | None = None
    role: str | None = None
    pair: Hex64 | None = None

    @property
    def value(self) -> int:
        """CR3."""
        return int(self.cr3, 16)


def wanted_roots(text: str) -> list[WantedRoot]:
    """Return the roots that a list or a file names, in order; `BadInput` in one line for others."""
    parts = [part.strip() for part in text.split(",")]
    if all(map(_is_number, parts)):
        return require_roots([_root(part, "--roots") for part in parts], "--roots")
    try:
        data = read_file(Path(text), _LARGEST)
    except BadInput as error:
        raise BadInput(
            f"--roots: neither all, nor CR3s with commas, nor a file: {error}"
        ) from error
    name = one_line(text)
    lines = data.decode("utf-8", "replace").splitlines()
    found = [
        _line(text, f"{name}: line {number}")
        for number, text in enumerate(map(_without_comment, lines), 1)
        if text
    ]
    return require_roots(found, name)


def require_roots(found: list[WantedRoot], name: str) -> list[WantedRoot]:
    """Return the roots; `BadInput` for none, `LimitExceeded` for more than `MOST_ROOTS`."""
    if not found:
        raise BadInput(f"{name}: no roots")
    if len(found) > MOST_ROOTS:
        raise LimitExceeded(f"{name}: {len(found):,} roots; at most {MOST_ROOTS:,} at a time")
    return found


def _without_comment(line: str) -> str:
    """Return what of a line names a root: nothing of an empty one, or of a comment."""
    text = line.strip()
    # A record for machines may hold a # in a text.
    return text if text.startswith("{") else text.partition("#")[0].strip()


def _line(text: str, where: str) -> WantedRoot:
    if not text.startswith("{"):
        return _root(text, where)
    try:
        return msgspec.json.decode(text, type=WantedRoot)
    except msgspec.MsgspecError as error:
        raise BadInput(f"{where}: {one_line(str(error))}") from error


def _root(text: str, where: str) -> WantedRoot:
    if not _is_number(text):
        raise BadInput(f"{where}: {one_line(text)!r} is no CR3 (hex with 0x, or decimal)")
    return WantedRoot(cr3=hex(int(text, 0)))


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and int(text, 0) < 1 << 64
