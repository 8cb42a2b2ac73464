"""A search of all memory for the roots of 4- and 5-level paging, which knows no system."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import CR4, EFER, PagingContext, PagingMode
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.formats.registers import Registers
from crosswalk.walker.memory import U64, WORDS, PhysicalMemory
from crosswalk.walker.roots.counting import tables_below
from crosswalk.walker.roots.groups import upper_halves
from crosswalk.walker.roots.levels import tables_by_level
from crosswalk.walker.roots.sieve import Form, sieve
from crosswalk.walker.tables import entries_with
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = ["scan_long"]

_MOST = 1 << 16
"""The most frames that are taken for roots."""
_UNITS = 1024
"""The most groups that are looked at, the biggest ones."""
_TABLES = 256
"""Tables of a level that are looked at to tell whether a group makes sense."""
_BELOW = 1 << 14
"""Tables of a level below a group that are no roots."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Frames that may be roots and have their upper halves in common, or one alone.

    `context` is the first one's, `found` what of it can't be followed, `odd` the number of its
    entries that refer to tables and have bits that mean something in those of pages alone.
    """

    context: PagingContext
    frames: U64
    found: Unfollowed
    odd: int

    @property
    def order(self) -> tuple[float, ...]:
        """What sorts the likeliest unit to the front: many alike, few senseless entries."""
        senseless = len(self.found) + self.found.leaves_beyond_46 + self.odd
        share = senseless / max(self.found.entries, 1)
        return (-len(self.frames), share, -self.found.leaves, int(self.frames[0]))


def scan_long(
    memory: PhysicalMemory,
    known: Registers,
    named: Sequence[PagingContext],
    width: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[PagingContext]:
    """Return the contexts of the roots of 4- and 5-level paging that all memory holds.

    `named` are the contexts of roots that are known: others are of the first one's mode, and the
    tables below them are no roots. Else CR4 among the `known` registers decides on the mode, and
    without it what makes sense. `width` is the MAXPHYADDR to take where none is known, in bits.
    Raises `LimitExceeded` where more frames could be tables, or roots, than are looked at.
    """
    form = _form(known)
    levels = tables_by_level(memory, form, sieve(memory, form, progress))
    templates = list(_templates(known, named, width))
    # Frames that are roots already, or tables below one: of another mode, they are no roots.
    gone = np.zeros(0, np.uint64)
    found: list[PagingContext] = []
    for template in templates:
        frames = np.setdiff1d(levels[template.levels], gone)
        units = sorted(_units(memory, template, frames), key=lambda unit: unit.order)
        if len(templates) > 1 and template.mode is PagingMode.LEVEL5:
            units = [unit for unit in units if _has_five(memory, unit)]
        some = [context for context in named if context.mode is template.mode]
        roots, below = _kept(memory, template, some, units)
        found += [replace(template, cr3=root) for root in roots.tolist()]
        gone = np.union1d(gone, np.union1d(roots, below))
    return found


def _form(known: Registers) -> Form:
    no_xd = known.efer is not None and not known.efer & EFER.NXE
    return Form(known.encryption_mask or 0, known.maxphyaddr, xd=not no_xd)


def _templates(
    known: Registers, named: Sequence[PagingContext], width: int
) -> Iterator[PagingContext]:
    """Yield the contexts, but for CR3, in which roots are looked for: 5 levels before 4."""
    long = [context for context in named if context.mode.long]
    if named:
        if long:
            yield replace(long[0], cr3=0)
        return
    modes = (CR4.PAE | CR4.LA57, CR4.PAE) if known.cr4 is None else (known.cr4,)
    for cr4 in modes:
        context = replace(known, cr3=0, cr4=int(cr4)).context(width=width)
        if context.mode.long:
            yield context


def _units(memory: PhysicalMemory, template: PagingContext, frames: U64) -> Iterator[_Unit]:
    """Yield frames by equal upper halves, the biggest groups, where they make sense."""
    if len(frames) > _MOST:
        raise LimitExceeded(
            f"more than {_MOST:,} frames could be roots: too many to tell them apart"
        )
    alike: dict[bytes | int, list[int]] = defaultdict(list)
    halves = upper_halves(memory, template, frames)
    for frame, half in zip(frames.tolist(), halves, strict=True):
        alike[frame if half is None else half].append(frame)
    for some in sorted(alike.values(), key=lambda each: (-len(each), each))[:_UNITS]:
        context = replace(template, cr3=some[0])
        found = unfollowed(memory, context, tables=_TABLES)
        if found.leaves and not found.implausible:
            odd = sum(int(bits.sum()) for bits in _oddities(memory, context).values())
            yield _Unit(context, np.array(some, np.uint64), found, odd)


def _oddities(memory: PhysicalMemory, context: PagingContext) -> dict[int, NDArray[np.bool_]]:
    """Return for the entries of each level that refer to tables whether they set XD or G.

    Systems leave XD to the entries of pages but for a few, and G means nothing elsewhere. What is
    taken for tables and has many of those bits holds the entries of pages. Of the first tables of a
    level.
    """
    root = np.array([context.root], np.uint64)
    tables = {context.levels: root} | tables_below(memory, context, root, _TABLES)
    found = {}
    for level in range(context.levels, 1, -1):
        _, index, entry = entries_with(memory, LEVELS[level], tables[level], Entry.P)
        upper = index >= WORDS // 2
        if level == context.levels and upper.any():
            # Under page-table isolation the kernel's root sets XD in the user's half.
            entry = entry[upper]
        down = entry[(entry & np.uint64(Entry.PS)) == 0]
        found[level] = (down & np.uint64(Entry.XD | Entry.G)) != 0
    return found


def _has_five(memory: PhysicalMemory, unit: _Unit) -> bool:
    """Return whether tables that make sense with 5 levels are more likely those than with 4.

    Tables of 5 levels make sense with 4, too: what they map then is other tables. Tables of 4
    hardly do with 5: the contents of pages, taken for entries, seldom refer to memory. Where they
    do, what is taken for tables are pages' entries, at some level.
    """
    levels = unit.context.cr4 & ~CR4.LA57
    four = unfollowed(memory, replace(unit.context, cr4=int(levels)), tables=_TABLES)
    five = unit.found
    if five.leaves < max(four.leaves, 1) or 2 * five.leaves_outside >= five.leaves:
        return False
    return all(2 * odd.sum() <= len(odd) for odd in _oddities(memory, unit.context).values())


def _kept(
    memory: PhysicalMemory,
    template: PagingContext,
    named: Sequence[PagingContext],
    units: Sequence[_Unit],
) -> tuple[U64, U64]:
    """Return the roots among units, the likeliest first, and the tables below them.

    One that is alone is no root if a likelier one, or one of those `named`, has it as a table.
    """
    roots = [np.zeros(0, np.uint64)]
    below = np.zeros(0, np.uint64)
    known = np.array([context.root for context in named], np.uint64)
    for frames in (known, *(unit.frames for unit in units)):
        if len(frames) == 1 and np.isin(frames, below)[0]:
            continue
        tables = tables_below(memory, template, frames, _BELOW)
        below = np.unique(np.concatenate([below, *tables.values()]))
        roots.append(frames)
    found = np.unique(np.concatenate(roots))
    return found, np.setdiff1d(below, found)
