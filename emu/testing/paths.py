"""Small address spaces, built path by path; entries are plain except where a path differs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.fuzz.generate import RAM
from crosswalk.emu.fuzz.generate.build_tables import clear_of_probe
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.memory import FRAME, WORDS

__all__ = ["NO_TABLE", "ROOT", "TOP_PAGE", "Path", "address_of", "layout_of"]

ROOT = FRAME
"""Where the root table lies; the others follow it, frame by frame."""

_PLAIN = int(Entry.P | Entry.RW | Entry.US)
_PAGES = 1 << 20
_OUTSIDE = 5 << 30
_ORDINARY, _TABLES = 4, 6
TOP_PAGE = 7
"""Pages by number: four ordinary ones, two tables, one outside RAM, the last of RAM."""
NO_TABLE = 5
"""The number of a lead to where there is no RAM; those below are tables, from the root on."""


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the tables.

    `index` are the five indices, the PTE's first; `level` is that of the leaf, `page` its page,
    0 to `TOP_PAGE`. `flips` are what its new entries have other than plain ones, which are
    present, writable, the user's: (levels above the leaf, bit), and from the root on to the leaf
    again. `lead` is (level, table): the entry of that level leads to that table, counted from
    the root, and of whatever level, in place of a new one; `NO_TABLE` to none.
    """

    index: tuple[int, int, int, int, int]
    level: int
    page: int = 0
    flips: tuple[tuple[int, int], ...] = ()
    lead: tuple[int, int] | None = None


def address_of(context: PagingContext, path: Path) -> int:
    """Return the first address of the page of `path`, bits below its size 0."""
    va = 0
    for level in range(path.level, context.levels + 1):
        va |= path.index[level - 1] << LEVELS[level].shift
    high = va >> context.va_bits - 1
    return va | (((1 << 64) - (1 << context.va_bits)) if high else 0)


def layout_of(context: PagingContext, paths: Sequence[Path], accesses: Accesses) -> Layout:
    """Return the tables of these paths, under `context` with its CR3 at `ROOT`, and accesses.

    Where two paths share an entry, the first one's counts. No outcome is intended.
    """
    tables: list[dict[int, int]] = [{}]
    child: dict[tuple[int, int], int] = {}
    for path in paths:
        _place(context, path, tables, child)
    words = np.zeros((len(tables), WORDS), np.uint64)
    for row, table in enumerate(tables):
        words[row, list(table)] = np.array(list(table.values()), np.uint64)
    frames = np.uint64(ROOT) + np.arange(len(tables), dtype=np.uint64) * np.uint64(FRAME)
    count = len(accesses)
    nothing = IntendedOutcomes.nothing(count)
    return Layout(context, RAM, frames, clear_of_probe(words), accesses, nothing)


def _place(
    context: PagingContext,
    path: Path,
    tables: list[dict[int, int]],
    child: dict[tuple[int, int], int],
) -> None:
    """Add the entries of a path; `child` is where those that lead on do, by row and index."""
    row = 0
    for level in range(context.levels, 0, -1):
        index = path.index[level - 1]
        if index not in tables[row]:
            word = _PLAIN ^ sum(
                {
                    1 << bit
                    for above, bit in path.flips
                    if level == path.level + above % (context.levels + 1 - path.level)
                }
            )
            if level == path.level:
                word ^= Entry.PS if level > 1 else 0
                tables[row][index] = word | _page(path, len(tables))
                return
            if path.lead == (level, NO_TABLE):
                tables[row][index] = word | _OUTSIDE
                return
            if path.lead is not None and path.lead[0] == level:
                below = path.lead[1] % len(tables)
            else:
                below = len(tables)
                tables.append({})
            tables[row][index] = word | (ROOT + FRAME * below)
            child[row, index] = below
        if (row, index) not in child:
            return
        row = child[row, index]


def _page(path: Path, tables: int) -> int:
    """Return where a leaf leads; the tables are those there are when it is made."""
    size = LEVELS[path.level].span
    if path.page < _ORDINARY:
        return (0 if size > _PAGES else _PAGES) + path.page * size
    if path.page < _TABLES:
        return (ROOT + FRAME * ((path.page - _ORDINARY) % tables)) & -size
    if path.page < TOP_PAGE:
        return _OUTSIDE & -size
    return sum(RAM[-1]) - size
