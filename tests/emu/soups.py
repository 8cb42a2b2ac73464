"""Hostile paging structures by the number: tables that point at each other and at nothing."""

from typing import NamedTuple

import numpy as np

from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import SparseWords
from tests.emu.wide import askable

TABLES = 12
RAM = 1 << 24
SLOTS = np.array([0, 1, 2, 255, 256, 511], np.uint64)
OFFSETS = np.array([0, 1, 8, 0x7F8, 0xFF0, 0xFFF], np.uint64)
# How often each bit of an entry is set.
BITS = {
    0: 0.9, 1: 0.7, 2: 0.7, 5: 0.5, 6: 0.3, 7: 0.25, 8: 0.15, 12: 0.1, 13: 0.04, 20: 0.04,
    39: 0.02, 40: 0.03, 51: 0.03, 52: 0.1, 59: 0.3, 60: 0.3, 63: 0.15,
}  # fmt: skip
SWITCHES = (1 << 7, 1 << 20, 1 << 21, 1 << 22)  # PGE, SMEP, SMAP, PKE


class Soup(NamedTuple):
    """Paging structures, how they are read, and accesses that mostly follow entries in use."""

    memory: SparseWords
    context: PagingContext
    accesses: Accesses


def soup(seed, count, *, plain=False):
    """Make the soup of this number; `plain` gives it the features of the emulated CPU.

    Of `count` accesses those are left that it can be asked.
    """
    chance = np.random.default_rng(seed)
    words = {
        0x1000 * (table + 1) + 8 * int(slot): _entry(chance)
        for table in range(TABLES)
        for slot in SLOTS
    }
    context = _context(chance, plain=plain)
    shifts = [3 + 9 * level for level in range(context.levels, 0, -1)]
    accesses = askable(words, context, _accesses(chance, context, count), shifts)
    return Soup(SparseWords([(0, RAM)], words), context, accesses)


def _entry(chance):
    entry = sum(1 << bit for bit, often in BITS.items() if chance.random() < often)
    kind = chance.random()
    if kind < 0.85:
        return entry | 0x1000 * int(chance.integers(1, TABLES + 1))
    if kind < 0.92:
        return entry | int(chance.integers(0, 4)) << 21
    if kind < 0.96:
        return entry | int(chance.integers(0, 3)) << 30
    return entry | 0x7F00_0000


def _context(chance, *, plain):
    cr4 = 0x20 | (1 << 12 if chance.random() < 0.4 else 0)
    cr4 |= sum(bit for bit in SWITCHES if chance.random() < 0.5)
    features = {}
    if not plain:
        features = {
            "maxphyaddr": int(chance.choice([36, 39, 40, 46, 52])),
            "page1gb": bool(chance.random() < 0.7),
            "vendor": Vendor.AMD if chance.random() < 0.4 else Vendor.INTEL,
        }
    return PagingContext(
        cr3=0x1000,
        cr0=0x8000_0033 | (0x10000 if chance.random() < 0.6 else 0),
        cr4=cr4,
        efer=0x500 | (0x800 if chance.random() < 0.7 else 0),
        pkru=int(chance.integers(0, 1 << 32)),
        **features,
    )


def _accesses(chance, context, count):
    va = chance.choice(OFFSETS, count)
    for level in range(1, context.levels + 1):
        va |= chance.choice(SLOTS, count) << np.uint64(3 + 9 * level)
    unused = np.int64(64 - context.va_bits)
    va = (va.astype(np.int64) << unused >> unused).astype(np.uint64)
    va[chance.random(count) < 0.03] ^= np.uint64(1 << 60)
    return Accesses(
        va,
        chance.integers(0, 3, count).astype(np.uint8),
        chance.choice(np.array([0, 3], np.uint8), count),
        chance.random(count) < 0.5,
    )
