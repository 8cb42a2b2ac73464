"""Candidates for roots: sorted by how likely they are, and told from the tables below others."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import CR4, PagingContext, PagingMode
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.roots.counting import tables_below
from crosswalk.walker.roots.groups import upper_halves
from crosswalk.walker.roots.passes import Progress
from crosswalk.walker.tables import entries_with, invalid_roots
from crosswalk.walker.unfollowed import Unfollowed, unfollowed

__all__ = ["TABLES", "Likely", "likely_roots", "sense_of"]

_MOST = 1 << 16
"""The most frames that are taken for roots."""
_UNITS = 256
"""The most groups that are looked at, and singles, which are in common with no other."""
TABLES, _FEW = 256, 8
"""Tables of a level that are looked at to tell whether a group makes sense, and a late single."""
_EARLY = 16
_BELOW = 1 << 14
"""Tables of a level below a group that are no roots."""
_ODD = Entry.XD | Entry.G | Entry.PWT | Entry.PCD
_BUDGET = 1 << 17
"""Tables below groups that are looked at in all."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Frames that may be roots and have their upper halves in common, or one alone.

    `context` is the first one's, `found` what of it can't be followed, `odd` the number of its
    entries that refer to tables and have bits that mean something in those of pages alone, both of
    `tables` of a level.
    """

    context: PagingContext
    roots: U64
    found: Unfollowed
    odd: int
    tables: int

    @property
    def order(self) -> tuple[float, ...]:
        """What sorts the likeliest unit to the front: many alike, few senseless entries."""
        senseless = len(self.found) + self.found.leaves_beyond_46 + self.odd
        share = senseless / max(self.found.entries, 1)
        return (-len(self.roots), share, -self.found.leaves, int(self.roots[0]))


@dataclass(frozen=True, slots=True)
class Likely:
    """Candidates that are roots, the tables below them, both uint64 and ascending.

    `most` is the size of the biggest group, `barred` the number of candidates in groups that map
    nothing, since they can't be entered, and `left` of those that may be roots or tables below
    others.
    """

    found: U64
    below: U64
    most: int
    barred: int
    left: int


def likely_roots(
    memory: PhysicalMemory,
    template: PagingContext,
    named: Sequence[PagingContext],
    candidates: U64,
    *,
    alone: bool,
    progress: Progress | None = None,
) -> Likely:
    """Return those of the candidates that are roots, with those `named`.

    All are read in the context `template` but for CR3. A candidate that has its upper half in
    common with no other is none if a likelier one, or one of those `named`, has it as a table.
    `alone` says that the mode is known, `progress` is told of the candidates.
    """
    if len(candidates) > _MOST:
        raise LimitExceeded(
            f"more than {_MOST:,} frames could be roots: too many to tell them apart"
        )
    alike: dict[bytes | int, list[int]] = defaultdict(list)
    for root, half in zip(
        candidates.tolist(), upper_halves(memory, template, candidates), strict=True
    ):
        alike[root if half is None else half].append(root)
    picked = _Picked(memory, template)
    picked.take(np.array([context.root for context in named], np.uint64))
    groups = [np.array(some, np.uint64) for some in alike.values() if len(some) > 1]
    groups.sort(key=lambda some: (-len(some), int(some[0])))
    singles = [np.array(some, np.uint64) for some in alike.values() if len(some) == 1]
    left = 0
    for kind in (groups, singles):
        # Most singles are tables below a group.
        some = [roots for roots in kind if len(roots) > 1 or not picked.has_below(roots)]
        left += len(some[_UNITS:])
        for unit in _sensible(memory, template, some[:_UNITS], alone=alone, progress=progress):
            if len(unit.roots) > 1 or not picked.has_below(unit.roots):
                left += picked.take(unit.roots)
    barred = 0
    if template.mode is PagingMode.PAE and not picked.roots:
        # One alone may be any four numbers.
        barred = sum(int(invalid_roots(memory, template, some).sum()) for some in groups)
    return Likely(picked.found, picked.only_below, picked.most, barred, left)


class _Picked:
    """Roots that were picked, and the tables below them."""

    def __init__(self, memory: PhysicalMemory, template: PagingContext) -> None:
        self._memory, self._template = memory, template
        self._below = np.zeros(0, np.uint64)
        self._looked_at = 0
        self.roots: list[U64] = []

    @property
    def found(self) -> U64:
        """The roots, uint64, ascending."""
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *self.roots]))

    @property
    def only_below(self) -> U64:
        """The tables below that are no roots, uint64, ascending."""
        return np.setdiff1d(self._below, self.found)

    @property
    def most(self) -> int:
        """The size of the biggest group."""
        return max((len(some) for some in self.roots), default=0)

    def has_below(self, root: U64) -> bool:
        """Return whether the frame of a single root is a table below those picked."""
        return bool(np.isin(root & ~np.uint64(FRAME - 1), self._below)[0])

    def take(self, roots: U64) -> int:
        """Pick these roots, and return 0; 1 where there are too many tables to tell a single."""
        if self._looked_at < _BUDGET:
            tables = tables_below(self._memory, self._template, roots, _BELOW)
            self._looked_at += sum(map(len, tables.values()))
            self._below = np.unique(np.concatenate([self._below, *tables.values()]))
        elif len(roots) == 1:
            return 1
        if len(roots):
            self.roots.append(roots)
        return 0


def _sensible(
    memory: PhysicalMemory,
    template: PagingContext,
    groups: Sequence[U64],
    *,
    alone: bool,
    progress: Progress | None,
) -> list[_Unit]:
    """Return the groups whose tables make sense in the template's mode, the likeliest first."""
    units = []
    five = template.mode is PagingMode.LEVEL5 and not alone
    alike = "groups of candidates" if groups and len(groups[0]) > 1 else "single candidates"
    what = f"{alike} for roots, {template.mode}"
    for place, roots in enumerate(groups):
        if progress is not None:
            progress(what, place, len(groups))
        few = _FEW if len(roots) == 1 and place >= _EARLY else TABLES
        context = replace(template, cr3=int(roots[0]))
        made = sense_of(memory, context, few)
        if made is None:
            continue
        unit = _Unit(context, roots, *made, few)
        if not five or _has_five(memory, unit):
            units.append(unit)
    if template.mode is PagingMode.BIT32 and not alone:
        units = _certain(units)
    return sorted(units, key=lambda unit: unit.order)


def sense_of(
    memory: PhysicalMemory, context: PagingContext, tables: int = TABLES
) -> tuple[Unfollowed, int] | None:
    """Return what of an address space can't be followed, and its odd entries; None for nonsense.

    Tables make sense if they map something, most of their entries can be followed, and most of
    those that refer to tables aren't odd. Up to so many `tables` of a level are looked at.
    """
    found = unfollowed(memory, context, tables=tables)
    if not found.leaves or found.implausible:
        return None
    odd = [bits for bits in _oddities(memory, context, tables).values() if len(bits)]
    count = sum(int(bits.sum()) for bits in odd)
    return (found, count) if 2 * count <= sum(map(len, odd)) else None


def _certain(units: Sequence[_Unit]) -> list[_Unit]:
    """Return the units that are no accident in 32-bit paging, whose entries say little.

    Several alike, or the only one, of which all can be followed.
    """
    if len(units) == 1 and not len(units[0].found):
        return list(units)
    return [unit for unit in units if len(unit.roots) > 1]


def _oddities(
    memory: PhysicalMemory, context: PagingContext, most: int
) -> dict[int, NDArray[np.bool_]]:
    """Return for the entries of each level that refer to tables whether they set odd bits.

    Systems leave XD to the entries of pages but for a few, and caching, and G means nothing
    elsewhere. What is taken for tables and has many of those bits holds entries of pages, or
    anything else. Of `most` tables of a level.
    """
    root = np.array([context.root], np.uint64)
    tables = {context.levels: root} | tables_below(memory, context, root, most)
    found = {}
    for level in range(context.levels, 1, -1):
        form = level_of(context, level)
        _, index, entry = entries_with(memory, form, tables[level], Entry.P)
        upper = index >= form.entries // 2
        if level == context.levels and upper.any():
            # Under page-table isolation the kernel's root sets XD in the user's half.
            entry = entry[upper]
        # Systems repeat an entry hundreds of times, as Linux' for espfix.
        down = np.unique(entry[(entry & np.uint64(Entry.PS)) == 0])
        found[level] = (down & np.uint64(_ODD)) != 0
    return found


def _has_five(memory: PhysicalMemory, unit: _Unit) -> bool:
    """Return whether tables that make sense with 5 levels are more likely those than with 4.

    Tables of 5 levels make sense with 4, too: what they map then is other tables. Tables of 4
    hardly do with 5: the contents of pages, taken for entries, seldom refer to memory. Where they
    do, what is taken for tables are pages' entries, at some level.
    """
    levels = unit.context.cr4 & ~CR4.LA57
    four = unfollowed(memory, replace(unit.context, cr4=int(levels)), tables=unit.tables)
    five = unit.found
    if five.leaves < max(four.leaves, 1) or 2 * five.leaves_outside >= five.leaves:
        return False
    return all(
        2 * odd.sum() <= len(odd) for odd in _oddities(memory, unit.context, unit.tables).values()
    )
