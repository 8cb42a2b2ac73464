"""Layouts from the tables of a real address space, with a few entries changed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.fuzz.generate.choice import LayoutChoice, Selection
from crosswalk.emu.fuzz.generate.formats import TableFormat, format_of, packed, unpacked
from crosswalk.emu.fuzz.generate.intended import sign_extended
from crosswalk.emu.fuzz.generate.layouts import distinct
from crosswalk.emu.fuzz.generate.restrict import restricted
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory

__all__ = ["MAX_TABLES", "Base", "base_of", "mutate", "selected"]

MAX_TABLES = 1 << 14
"""The most tables, of 4 KiB each, that an address space to start from may have."""

_PRESENT, _PAGE_SIZE = np.uint64(1), np.uint64(0x80)
_FIELD = 0x000F_FFFF_FFFF_F000
# P, R/W, U/S, PCD, A, D, PS, G, PAT of large pages, XD, two bits of the key, address and reserved.
_FLAGS = np.array([0, 1, 2, 4, 5, 6, 7, 8, 12, 13, 20, 29, 30, 39, 40, 51, 52, 59, 60, 62, 63])
# Bits 20:13 of a 4-MiB page are address bits 39:32, bit 21 is reserved.
_FLAGS_32_BIT = np.array([0, 1, 2, 4, 5, 6, 7, 8, 12, 13, 20, 21, 29])
_KINDS = 12  # Types × privileges × AC.
_OFFSETS = np.array([0, 8, 0x7F0, 0xFF0], np.uint64)
_CONTROL = (
    ("cr0", CR0.WP),
    ("cr4", CR4.SMEP),
    ("cr4", CR4.SMAP),
    ("cr4", CR4.PKE),
    ("efer", EFER.NXE),
)
_LEGACY_CONTROL = (*_CONTROL[:3], ("cr4", CR4.PSE), ("efer", EFER.NXE))
_MOST_CHANGED = 64
_MALFORMED_PDPTE = 0.1
_EVERYTHING = LayoutChoice()
_UNCHANGED = 0.3


@dataclass(frozen=True, slots=True)
class Base:
    """The tables of an address space, and the addresses that each translates.

    `ram` are the backed ranges; `frames` uint64[t] the tables, ascending, `entries` uint64[t, w]
    what they hold, 512 or 1024 entries. `level` int64[t] is the level at which a table is used,
    `va` uint64[t] the first address that it translates; of one use, where there are several.
    `first` is the number of the root's first entry in its frame, 0 but in PAE paging.
    """

    context: PagingContext
    form: TableFormat
    ram: tuple[tuple[int, int], ...]
    frames: U64
    entries: U64
    level: NDArray[np.int64]
    va: U64
    first: int

    @property
    def slots(self) -> NDArray[np.intp]:
        """The entries of all tables, by number: row * w + index."""
        root = int(np.flatnonzero(self.level == self.form.levels)[0])
        every = np.arange(self.entries.size).reshape(self.entries.shape)
        count = self.form.counts[self.form.levels]
        return np.concatenate(
            [
                every[:root].ravel(),
                every[root, self.first : self.first + count],
                every[root + 1 :].ravel(),
            ]
        )

    @property
    def used(self) -> NDArray[np.intp]:
        """Those that aren't 0."""
        slots = self.slots
        used: NDArray[np.intp] = slots[self.entries.reshape(-1)[slots] != 0]
        return used

    @property
    def words(self) -> U64:
        """The tables as words, uint64[t, 512]."""
        return packed(self.form, self.entries)


def base_of(memory: PhysicalMemory, context: PagingContext) -> Base:
    """Return the tables of an address space; `LimitExceeded` beyond `MAX_TABLES`."""
    form = format_of(context)
    frames = np.sort(table_frames(memory, context))
    if len(frames) > MAX_TABLES:
        raise LimitExceeded(f"{len(frames):,} tables; a layout starts from {MAX_TABLES:,}")
    entries = unpacked(form, memory.tables(frames))
    level = np.zeros(len(frames), np.int64)
    va = np.zeros(len(frames), np.uint64)
    row = int(np.searchsorted(frames, np.uint64(context.root & -FRAME)))
    # The PDPT of PAE paging is a part of its frame.
    first = context.root % FRAME // form.entry_bytes
    level[row] = context.levels
    here = np.array([row])
    for depth in range(context.levels, 1, -1):
        start = first if depth == context.levels else 0
        part = entries[here, start : start + form.counts[depth]]
        table, index = np.nonzero(part & _PRESENT)
        entry = part[table, index]
        down = np.ones(len(entry), np.bool_)
        if depth in form.large:
            down = (entry & _PAGE_SIZE) == 0
        # Bits of an encryption mask are no part of an address.
        target = entry & np.uint64(context.address_mask)
        below = np.minimum(np.searchsorted(frames, target), len(frames) - 1)
        down &= frames[below] == target
        begins = va[here[table]] | index.astype(np.uint64) << np.uint64(form.shifts[depth])
        below, which = np.unique(below[down], return_index=True)
        begins = begins[down][which]
        new = level[below] == 0
        here = below[new]
        level[here], va[here] = depth - 1, begins[new]
    used = level > 0
    ram = tuple(memory.ranges)
    return Base(context, form, ram, frames[used], entries[used], level[used], va[used], first)


def mutate(
    base: Base, seed: int, index: int, *, accesses: int = 4096, choice: LayoutChoice = _EVERYTHING
) -> Layout:
    """Return the layout of this seed and index: `base` with some entries and registers changed.

    Equal arguments give equal layouts. The accesses, about so many, go through changed entries and
    through others. No outcome is intended.
    """
    chance = np.random.default_rng([seed, index, 2])
    words = base.entries.copy()
    entries = max(1, accesses // _KINDS)
    used = base.used
    count = int(chance.integers(1, min(_MOST_CHANGED, entries, max(1, len(used) // 2)) + 1))
    changed = chance.choice(used, count)
    empty = chance.random(count) < 0.15
    changed[empty] = chance.choice(base.slots, int(empty.sum()))
    for at in changed.tolist():
        change = _CHANGES[int(chance.integers(len(_CHANGES)))]
        words.reshape(-1)[at] = _kept(chance, base, at, change(chance, base, words, at))
    others = chance.choice(used, max(1, int(entries * _UNCHANGED)))
    used = np.concatenate([changed, others])
    asked = _accesses(chance, base, used, accesses)
    nothing = IntendedOutcomes.nothing(len(asked))
    contexts = selected(_context(chance, base.context), choice.select)
    context = contexts[int(chance.integers(len(contexts)))]
    tables = packed(base.form, words)
    layout = Layout(context, base.ram, base.frames, tables, asked, nothing)
    return restricted(layout, choice)


def _kept(chance: np.random.Generator, base: Base, at: int, entry: np.uint64) -> np.uint64:
    """Return a changed entry with what it can have.

    Mostly no reserved bit, where it is a PDPTE of PAE paging: with one nothing can be accessed.
    """
    form, level = base.form, int(base.level[at // base.form.width])
    entry &= np.uint64((1 << 8 * form.entry_bytes) - 1)
    if level in form.plain and chance.random() > _MALFORMED_PDPTE:
        allowed = form.flags[level] | 1 | base.context.address_mask
        entry &= np.uint64(allowed)
    return np.uint64(entry)


def selected(context: PagingContext, select: Selection) -> list[PagingContext]:
    """Return the control state with the bits and with each of the features that are selected.

    `BadInput` where there is no such state.
    """
    names = ("cr0", "cr3", "cr4", "efer", "pkru", "pkrs")
    values = {name: getattr(context, name) for name in names}
    for name, mask, value in select.controls:
        values[name] = values[name] | mask if value else values[name] & ~mask
    chosen = [name for name, _ in select.features]
    return [
        replace(context, **values, **dict(zip(chosen, features, strict=True)))
        for features in product(*(each for _, each in select.features))
    ]


def _flipped(chance: np.random.Generator, base: Base, words: U64, at: int) -> np.uint64:
    width = 8 * base.form.entry_bytes
    bits = np.uint64(1) << chance.integers(0, width, int(chance.integers(1, 4))).astype(np.uint64)
    return np.uint64(words.reshape(-1)[at] ^ np.bitwise_xor.reduce(bits))


def _changed_flag(chance: np.random.Generator, base: Base, words: U64, at: int) -> np.uint64:
    flags = _FLAGS if base.form.entry_bytes == 8 else _FLAGS_32_BIT
    return np.uint64(words.reshape(-1)[at] ^ (np.uint64(1) << np.uint64(chance.choice(flags))))


def _as_another(chance: np.random.Generator, base: Base, words: U64, at: int) -> np.uint64:
    """Return another entry of the same level: an alias of a page or of a whole subtree."""
    rows = np.flatnonzero(base.level == base.level[at // base.form.width])
    taken = words[int(chance.choice(rows))]
    used = taken[taken != 0]
    return np.uint64(chance.choice(used)) if len(used) else np.uint64(0)


def _to_a_table(chance: np.random.Generator, base: Base, words: U64, at: int) -> np.uint64:
    """Return the entry with the address of any table: a cycle, or a table as a page."""
    field = np.uint64(_FIELD & (1 << 8 * base.form.entry_bytes) - 1)
    return np.uint64(words.reshape(-1)[at] & ~field | np.uint64(chance.choice(base.frames)))


def _removed(_chance: np.random.Generator, _base: Base, _words: U64, _at: int) -> np.uint64:
    return np.uint64(0)


_Change = Callable[[np.random.Generator, Base, U64, int], np.uint64]
_CHANGES: tuple[_Change, ...] = (
    *(_flipped, _changed_flag, _changed_flag, _changed_flag),
    *(_as_another, _to_a_table, _removed),
)


def _context(chance: np.random.Generator, context: PagingContext) -> PagingContext:
    """Return the control state, as it was or with one bit changed."""
    if chance.random() < 0.5:
        return context
    controls = _CONTROL if context.mode.long else _LEGACY_CONTROL
    register, bit = controls[int(chance.integers(len(controls)))]
    if register == "cr0":
        return replace(context, cr0=context.cr0 ^ bit)
    if register == "efer":
        return replace(context, efer=context.efer ^ bit)
    return replace(context, cr4=context.cr4 ^ bit, pkru=int(chance.integers(0, 1 << 32)))


def _accesses(
    chance: np.random.Generator, base: Base, used: NDArray[np.intp], count: int
) -> Accesses:
    """Return every kind of access through each entry, about `count` in all."""
    number = np.arange(count)
    entry = used[number // _KINDS % len(used)]
    kind = number % _KINDS
    form, row = base.form, entry // base.form.width
    level, at = base.level[row], (entry % form.width).astype(np.uint64)
    at -= np.where(level == form.levels, np.uint64(base.first), np.uint64(0))
    span = form.sizes(level)
    pages = span // np.uint64(FRAME)
    page = chance.integers(0, 1 << 60, count).astype(np.uint64) % pages
    page[chance.random(count) < 0.5] = 0
    va = base.va[row] | at * span | page << np.uint64(12) | chance.choice(_OFFSETS, count)
    if form.long:
        va = sign_extended(va, form.va_bits, 64)
    type_, user, ac = (kind % 3).astype(np.uint8), kind // 3 % 2 == 1, kind // 6 == 1
    va[type_ == AccessType.EXECUTE] &= ~np.uint64(15)
    accesses = Accesses(va, type_, np.where(user, 3, 0).astype(np.uint8), ac)
    return accesses.take(distinct(accesses))
