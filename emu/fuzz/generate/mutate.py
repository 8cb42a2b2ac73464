"""Layouts from the tables of a real address space, with a few entries changed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.fuzz.generate.intended import sign_extended
from crosswalk.emu.fuzz.generate.layouts import distinct
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.memory import U64, WORDS, PhysicalMemory

__all__ = ["MAX_TABLES", "Base", "base_of", "mutate"]

MAX_TABLES = 1 << 14
"""The most tables, of 4 KiB each, that an address space to start from may have."""

_PRESENT, _PAGE_SIZE = np.uint64(1), np.uint64(0x80)
_FIELD = np.uint64(0x000F_FFFF_FFFF_F000)
# P, R/W, U/S, PCD, A, D, PS, G, PAT of large pages, XD, two bits of the key, address and reserved.
_FLAGS = np.array([0, 1, 2, 4, 5, 6, 7, 8, 12, 13, 20, 29, 30, 39, 40, 51, 52, 59, 60, 62, 63])
_KINDS = 12  # Types × privileges × AC.
_OFFSETS = np.array([0, 8, 0x7F0, 0xFF0], np.uint64)
_CONTROL = (
    ("cr0", CR0.WP),
    ("cr4", CR4.SMEP),
    ("cr4", CR4.SMAP),
    ("cr4", CR4.PKE),
    ("efer", EFER.NXE),
)
_MOST_CHANGED = 64
_UNCHANGED = 0.3


@dataclass(frozen=True, slots=True)
class Base:
    """The tables of an address space, and the addresses that each translates.

    `ram` are the backed ranges; `frames` uint64[t] the tables, ascending, `words` uint64[t, 512].
    `level` int64[t] is the level at which a table is used, `va` uint64[t] the first address that
    it translates; of one use, where there are several.
    """

    context: PagingContext
    ram: tuple[tuple[int, int], ...]
    frames: U64
    words: U64
    level: NDArray[np.int64]
    va: U64


def base_of(memory: PhysicalMemory, context: PagingContext) -> Base:
    """Return the tables of an address space; `LimitExceeded` beyond `MAX_TABLES`."""
    frames = np.sort(table_frames(memory, context))
    if len(frames) > MAX_TABLES:
        raise LimitExceeded(f"{len(frames):,} tables; a layout starts from {MAX_TABLES:,}")
    words = memory.tables(frames).copy()
    level = np.zeros(len(frames), np.int64)
    va = np.zeros(len(frames), np.uint64)
    row = int(np.searchsorted(frames, np.uint64(context.root)))
    level[row] = context.levels
    here = np.array([row])
    for depth in range(context.levels, 1, -1):
        shift = np.uint64(3 + 9 * depth)
        table, index = np.nonzero(words[here] & _PRESENT)
        entry = words[here[table], index]
        down = np.ones(len(entry), np.bool_) if depth > 3 else (entry & _PAGE_SIZE) == 0
        # Bits of an encryption mask are no part of an address.
        target = entry & np.uint64(context.address_mask)
        below = np.minimum(np.searchsorted(frames, target), len(frames) - 1)
        down &= frames[below] == target
        start = va[here[table]] | index.astype(np.uint64) << shift
        below, first = np.unique(below[down], return_index=True)
        start = start[down][first]
        new = level[below] == 0
        here = below[new]
        level[here], va[here] = depth - 1, start[new]
    used = level > 0
    return Base(context, tuple(memory.ranges), frames[used], words[used], level[used], va[used])


def mutate(base: Base, seed: int, index: int, *, accesses: int = 4096) -> Layout:
    """Return the layout of this seed and index: `base` with some entries and registers changed.

    Equal arguments give equal layouts. The accesses, about so many, go through changed entries and
    through others. No outcome is intended.
    """
    chance = np.random.default_rng([seed, index, 2])
    words = base.words.copy()
    entries = max(1, accesses // _KINDS)
    used = np.flatnonzero(words.reshape(-1))
    count = int(chance.integers(1, min(_MOST_CHANGED, entries) + 1))
    changed = chance.choice(used, count)
    empty = chance.random(count) < 0.15
    changed[empty] = chance.integers(0, words.size, int(empty.sum()))
    for at in changed.tolist():
        change = _CHANGES[int(chance.integers(len(_CHANGES)))]
        words.reshape(-1)[at] = change(chance, base, words, at)
    others = chance.choice(used, max(1, int(entries * _UNCHANGED)))
    used = np.concatenate([changed, others])
    asked = _accesses(chance, base, used, accesses)
    nothing = IntendedOutcomes.nothing(len(asked))
    context = _context(chance, base.context)
    return Layout(context, base.ram, base.frames, words, asked, nothing)


def _flipped(chance: np.random.Generator, _base: Base, words: U64, at: int) -> np.uint64:
    bits = np.uint64(1) << chance.integers(0, 64, int(chance.integers(1, 4))).astype(np.uint64)
    return np.uint64(words.reshape(-1)[at] ^ np.bitwise_xor.reduce(bits))


def _changed_flag(chance: np.random.Generator, _base: Base, words: U64, at: int) -> np.uint64:
    return np.uint64(words.reshape(-1)[at] ^ (np.uint64(1) << np.uint64(chance.choice(_FLAGS))))


def _as_another(chance: np.random.Generator, base: Base, words: U64, at: int) -> np.uint64:
    """Return another entry of the same level: an alias of a page or of a whole subtree."""
    rows = np.flatnonzero(base.level == base.level[at // WORDS])
    taken = words[int(chance.choice(rows))]
    used = taken[taken != 0]
    return np.uint64(chance.choice(used)) if len(used) else np.uint64(0)


def _to_a_table(chance: np.random.Generator, base: Base, words: U64, at: int) -> np.uint64:
    """Return the entry with the address of any table: a cycle, or a table as a page."""
    return np.uint64(words.reshape(-1)[at] & ~_FIELD | np.uint64(chance.choice(base.frames)))


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
    register, bit = _CONTROL[int(chance.integers(len(_CONTROL)))]
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
    row, at = entry // WORDS, (entry % WORDS).astype(np.uint64)
    shift = (3 + 9 * base.level[row]).astype(np.uint64)
    pages = np.uint64(1) << (shift - np.uint64(12))
    page = chance.integers(0, 1 << 60, count).astype(np.uint64) % pages
    page[chance.random(count) < 0.5] = 0
    va = base.va[row] | at << shift | page << np.uint64(12) | chance.choice(_OFFSETS, count)
    va = sign_extended(va, base.context.va_bits, 64)
    type_, user, ac = (kind % 3).astype(np.uint8), kind // 3 % 2 == 1, kind // 6 == 1
    va[type_ == AccessType.EXECUTE] &= ~np.uint64(15)
    accesses = Accesses(va, type_, np.where(user, 3, 0).astype(np.uint8), ac)
    return accesses.take(distinct(accesses))
