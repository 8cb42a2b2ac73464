"""Small address spaces, built path by path; entries are plain except where a path differs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.fuzz.generate import RAM
from crosswalk.emu.fuzz.generate.build_tables import LEGACY_RAM, clear_of_probe
from crosswalk.emu.fuzz.generate.formats import TableFormat, format_of, packed
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry
from crosswalk.walker.memory import FRAME

__all__ = ["NO_TABLE", "ROOT", "TOP_PAGE", "Path", "address_of", "layout_of"]

ROOT = FRAME
"""Where the root table lies; the others follow it, frame by frame."""

_PLAIN = int(Entry.P | Entry.RW | Entry.US)
_WORD = (1 << 64) - 1
_PAGES = 1 << 20
_OUTSIDE, _LEGACY_OUTSIDE = 5 << 30, 2 << 30
_ORDINARY, _TABLES = 4, 6
TOP_PAGE = 7
"""Pages by number: four ordinary ones, two tables, one outside RAM, the last of RAM."""
NO_TABLE = 5
"""The number of a lead to where there is no RAM; those below are tables, from the root on."""


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the tables, of any paging mode.

    `index` are the five indices, the PTE's first, of which a mode uses as many as it has levels,
    modulo the size of a table; `level` is that of the leaf, `page` its page, 0 to `TOP_PAGE`.
    `flips` are what its new entries have other than plain ones, which are present, writable, the
    user's: (levels above the leaf, bit), and from the root on to the leaf again. `lead` is (level,
    table): the entry of that level leads to that table, counted from the root, and of whatever
    level, in place of a new one; `NO_TABLE` to none.
    """

    index: tuple[int, int, int, int, int]
    level: int
    page: int = 0
    flips: tuple[tuple[int, int], ...] = ()
    lead: tuple[int, int] | None = None


def address_of(context: PagingContext, path: Path) -> int:
    """Return the first address of the page of `path`, bits below its size 0."""
    form, va = format_of(context), 0
    for level in range(path.level, form.levels + 1):
        va |= _index(form, path, level) << form.shifts[level]
    high = form.long and va >> form.va_bits - 1
    return va | (((1 << 64) - (1 << form.va_bits)) if high else 0)


def layout_of(
    context: PagingContext,
    paths: Sequence[Path],
    accesses: Accesses,
    *,
    malformed_pdptes: bool = False,
) -> Layout:
    """Return the tables of these paths, under `context` with its CR3 at `ROOT`, and accesses.

    Where two paths share an entry, the first one's counts. No outcome is intended. PDPTEs of PAE
    paging, one of which with a reserved bit refuses all accesses, have any only with
    `malformed_pdptes`.
    """
    form = format_of(context)
    tables: list[dict[int, int]] = [{}]
    child: dict[tuple[int, int], int] = {}
    for path in paths:
        _place(form, path, tables, child, malformed_pdptes=malformed_pdptes)
    entries = np.zeros((len(tables), form.width), np.uint64)
    for row, table in enumerate(tables):
        entries[row, list(table)] = np.array(list(table.values()), np.uint64)
    words, ram = packed(form, entries), RAM if form.long else LEGACY_RAM
    frames = np.uint64(ROOT) + np.arange(len(tables), dtype=np.uint64) * np.uint64(FRAME)
    count = len(accesses)
    nothing = IntendedOutcomes.nothing(count)
    return Layout(context, ram, frames, clear_of_probe(words), accesses, nothing)


def _index(form: TableFormat, path: Path, level: int) -> int:
    return path.index[level - 1] % form.counts[level]


def _place(
    form: TableFormat,
    path: Path,
    tables: list[dict[int, int]],
    child: dict[tuple[int, int], int],
    *,
    malformed_pdptes: bool,
) -> None:
    """Add the entries of a path; `child` is where those that lead on do, by row and index."""
    row = 0
    for level in range(form.levels, 0, -1):
        index = _index(form, path, level)
        if index not in tables[row]:
            word = _PLAIN ^ sum(
                {
                    1 << bit
                    for above, bit in path.flips
                    if level == path.level + above % (form.levels + 1 - path.level)
                }
            )
            if level in form.plain:
                word ^= _PLAIN ^ Entry.P
                word &= _WORD if malformed_pdptes else form.flags[level] | Entry.P
            if level == path.level:
                word ^= Entry.PS if level > 1 else 0
                tables[row][index] = word | _page(form, path, len(tables))
                return
            if path.lead == (level, NO_TABLE):
                tables[row][index] = word | (_OUTSIDE if form.long else _LEGACY_OUTSIDE)
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


def _page(form: TableFormat, path: Path, tables: int) -> int:
    """Return the address bits of a leaf; the tables are those there are when it is made."""
    size = 1 << form.shifts[path.level]
    if path.page < _ORDINARY:
        page = (0 if size > _PAGES else _PAGES) + path.page * size
    elif path.page < _TABLES:
        page = (ROOT + FRAME * ((path.page - _ORDINARY) % tables)) & -size
    elif path.page < TOP_PAGE:
        page = (_OUTSIDE if form.long else _LEGACY_OUTSIDE) & -size
    elif form.entry_bytes == 4 and path.level == 1:
        page = sum(LEGACY_RAM[0]) - size
    else:
        page = sum(RAM[-1]) - size
    return int(form.entry_of(np.array([page], np.uint64), np.array([path.level]))[0])
