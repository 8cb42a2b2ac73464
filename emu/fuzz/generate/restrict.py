"""A layout without what a campaign assumes not to be there, and with the chosen accesses alone.

Entries are changed, and accesses left out; what was intended of an access whose walk reads a
changed entry is withdrawn. The walker's rules decide here what is reserved and what a walk reads.
That is no answer to any access: it says which accesses are worth asking.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import IntendedKind, IntendedOutcomes, Layout
from crosswalk.emu.fuzz.generate.choice import EntryCondition, LayoutChoice
from crosswalk.emu.fuzz.generate.formats import TableFormat, format_of, packed, unpacked
from crosswalk.walker.bulk import are_canonical, classify, linear_addresses
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of, reserved_bits
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.tables import invalid_pdpte, read_words

__all__ = ["WalkedEntries", "restricted", "walked_entries"]

_PRESENT = np.uint64(1)
_LEVELS = 6


def restricted(layout: Layout, choice: LayoutChoice) -> Layout:
    """Return the layout with what is assumed, and of its accesses those that are chosen."""
    if not choice.restricts or choice == LayoutChoice(portable=True):
        return layout
    tables = _Tables.of(layout)
    if "wellformed" in choice.assume:
        tables.clear_reserved_bits()
    if "tree" in choice.assume:
        tables.cut_second_parents()
    words = packed(tables.form, tables.entries)
    if not np.array_equal(words, layout.words):
        changed = tables.changed(layout)
        layout = replace(layout, words=words)
        layout = replace(layout, intended=_withdrawn(layout, changed))
    kept = choice.select.asks(layout.accesses) & choice.allows(layout.context.mode)
    if "canonical" in choice.assume:
        kept &= are_canonical(layout.context, layout.accesses.va)
    if choice.select.entries:
        walked = walked_entries(layout.memory(), layout.context, layout.accesses)
        for condition in choice.select.entries:
            kept &= _meets(walked, condition)
    rows = np.flatnonzero(kept)
    return replace(layout, accesses=layout.accesses.take(rows), intended=layout.intended.take(rows))


@dataclass(frozen=True, slots=True)
class WalkedEntries:
    """The entries that the walks of n accesses read: `pa` and `entry` uint64[n, 6], by level.

    `read` bool[n, 6] says at which levels one is; the others are 0.
    """

    pa: U64
    entry: U64
    read: NDArray[np.bool_]


def walked_entries(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses
) -> WalkedEntries:
    """Return the entries that walks of these accesses read; none where there is no walk."""
    shape = (len(accesses), _LEVELS)
    found = WalkedEntries(
        np.zeros(shape, np.uint64), np.zeros(shape, np.uint64), np.zeros(shape, np.bool_)
    )
    va = linear_addresses(context, accesses)
    rows = np.flatnonzero(are_canonical(context, va))
    if invalid_pdpte(memory, context) is not None:
        rows = rows[:0]
    table = np.full(len(rows), context.root, np.uint64)
    for number in range(context.levels, 0, -1):
        level = level_of(context, number)
        index = va[rows] >> np.uint64(level.shift) & np.uint64(level.entries - 1)
        at = table + index * np.uint64(level.entry_size)
        within = at & np.uint64(FRAME - 1)
        entry = read_words(memory, at - within, within >> np.uint64(3))
        if level.entry_size == 4:
            entry = entry >> ((at & np.uint64(4)) << np.uint64(3)) & np.uint64(0xFFFF_FFFF)
        found.pa[rows, number], found.entry[rows, number] = at, entry
        found.read[rows, number] = True
        leaf, reserved = classify(context, number, entry)
        on = ((entry & _PRESENT) != 0) & ~leaf & ~reserved
        rows, table = rows[on], (entry & np.uint64(context.address_mask))[on]
    return found


def _meets(walked: WalkedEntries, condition: EntryCondition) -> NDArray[np.bool_]:
    """Return bool[n]: which walks read an entry of the level that meets a condition."""
    if condition.level >= _LEVELS:
        return np.zeros(len(walked.entry), np.bool_)
    bits = walked.entry[:, condition.level] & np.uint64(condition.mask)
    pattern = condition.pattern
    has = bits != 0 if pattern is None else bits == np.uint64(pattern)
    found: NDArray[np.bool_] = walked.read[:, condition.level] & (has == condition.holds)
    return found


def _withdrawn(layout: Layout, changed: U64) -> IntendedOutcomes:
    """Return what stays intended where the entries at these addresses are others than planned."""
    context = layout.context
    walked = walked_entries(layout.memory(), context, layout.accesses)
    lost = (np.isin(walked.pa, changed) & walked.read).any(axis=1)
    if context.loads_pdptes:
        # A PDPTE decides about all accesses.
        lost |= bool((changed & np.uint64(-32 & (1 << 64) - 1) == np.uint64(context.root)).any())
    kind = np.where(lost, IntendedKind.UNKNOWN, layout.intended.kind).astype(np.uint8)
    return IntendedOutcomes(kind, np.where(lost, np.uint64(0), layout.intended.pa))


@dataclass(slots=True)
class _Tables:
    """The tables of a layout, to be changed: `entries` uint64[t, w], in the order of `frames`."""

    context: PagingContext
    form: TableFormat
    frames: U64
    entries: U64

    @classmethod
    def of(cls, layout: Layout) -> "_Tables":
        form = format_of(layout.context)
        return cls(layout.context, form, layout.frames, unpacked(form, layout.words))

    def changed(self, before: Layout) -> U64:
        """Return the addresses of the entries that aren't as they were."""
        row, at = np.nonzero(self.entries != unpacked(self.form, before.words))
        offset = at.astype(np.uint64) * np.uint64(self.form.entry_bytes)
        found: U64 = self.frames[row] + offset
        return found

    def clear_reserved_bits(self) -> None:
        """Clear the reserved bits of all present entries that a walk may read.

        An entry may be used at several levels, and lead elsewhere without these bits. Bits are
        only ever cleared, so that this comes to an end.
        """
        before = None
        while before is None or not np.array_equal(before, self.entries):
            before = self.entries.copy()
            tables = np.array([self.context.root], np.uint64)
            for level in range(self.context.levels, 0, -1):
                at, leaf = self._present(level, tables)
                for it in (False, True):
                    reserved = reserved_bits(self.context, level, leaf=it)
                    self.entries.reshape(-1)[at[leaf == it]] &= np.uint64(~reserved & (1 << 64) - 1)
                at, leaf = self._present(level, tables)
                tables = np.unique(self._addresses(at[~leaf]))

    def cut_second_parents(self) -> None:
        """Remove every entry that leads to a table to which another one leads, or to the root.

        The entry that stays is the first on the way from the root, level by level; one that a
        walk can follow goes before one with a reserved bit.
        """
        root = self.context.root
        seen = np.array([root & -FRAME], np.uint64)
        tables = np.array([root], np.uint64)
        for level in range(self.context.levels, 1, -1):
            at, leaf = self._present(level, tables)
            at = at[~leaf]
            _, reserved = classify(self.context, level, self.entries.reshape(-1)[at])
            at = np.concatenate([at[~reserved], at[reserved]])
            below = self._addresses(at)
            first = np.zeros(len(at), np.bool_)
            first[np.unique(below, return_index=True)[1]] = True
            first &= ~np.isin(below, seen)
            self.entries.reshape(-1)[at[~first]] = 0
            seen = np.union1d(seen, below)
            good = int((~reserved).sum())
            tables = below[:good][first[:good]]

    def _present(self, level: int, tables: U64) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the present entries of tables of one level, by number, and which are leaves."""
        frames = tables & np.uint64(-FRAME & (1 << 64) - 1)
        row = np.minimum(np.searchsorted(self.frames, frames), len(self.frames) - 1)
        there = self.frames[row] == frames
        # The PDPT of PAE paging is a part of its frame.
        first = (tables & np.uint64(FRAME - 1)) // np.uint64(self.form.entry_bytes)
        start = row[there] * self.form.width + first[there].astype(np.intp)
        count = level_of(self.context, level).entries
        at = (start[:, None] + np.arange(count)).ravel()
        at = at[(self.entries.reshape(-1)[at] & _PRESENT) != 0]
        leaf, _ = classify(self.context, level, self.entries.reshape(-1)[at])
        return at, leaf

    def _addresses(self, at: NDArray[np.intp]) -> U64:
        found: U64 = self.entries.reshape(-1)[at] & np.uint64(self.context.address_mask)
        return found
