"""Page tables of all modes made from a seed: they refer to each other and to nothing."""

from typing import NamedTuple

import numpy as np

from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import SparseWords
from tests.tables import ADDRESS, LONG, MODES, PS, P, words_of

TABLES = 12
RAM = 1 << 24
OFFSETS = np.array([0, 1, 8, 0x7F8, 0xFF0, 0xFFF], np.uint64)
SLOTS = {1024: (0, 1, 2, 511, 512, 1022, 1023), 512: (0, 1, 2, 255, 256, 511), 4: (0, 1, 2, 3)}
"""The indices in use, by the number of entries in a table."""
LOW = {
    0: 0.9, 1: 0.7, 2: 0.7, 3: 0.1, 4: 0.1, 5: 0.5, 6: 0.3, 7: 0.25, 8: 0.15, 9: 0.1, 11: 0.1,
}  # fmt: skip
HIGH = {32: 0.02, 36: 0.02, 39: 0.02, 40: 0.02, 51: 0.02, 52: 0.02, 59: 0.02, 62: 0.02, 63: 0.15}
KEYED = HIGH | {40: 0.03, 51: 0.03, 52: 0.1, 59: 0.3, 60: 0.3}
BITS = {"32-bit": LOW, "PAE": LOW | HIGH, 4: LOW | KEYED, 5: LOW | KEYED}
"""How often each bit of an entry is set, by mode."""
LARGE = {12: 0.1, 13: 0.05, 16: 0.03, 19: 0.03, 20: 0.03, 21: 0.05}
PDPTE = {1: 0.02, 2: 0.02, 5: 0.02, 7: 0.02, 8: 0.02, 40: 0.02, 52: 0.02, 63: 0.02, 3: 0.3, 9: 0.3}
LARGE_SHIFTS = {"32-bit": (22,), "PAE": (21,), 4: (21, 30), 5: (21, 30)}
SWITCHES = (1 << 7, 1 << 20, 1 << 21, 1 << 22)  # PGE, SMEP, SMAP, PKE


class SeededTables(NamedTuple):
    """Page tables, how they are read, and accesses that mostly follow entries in use."""

    memory: SparseWords
    context: PagingContext
    accesses: Accesses


def seeded_tables(seed, count, *modes, plain=False, loadable=True):
    """Make the tables of this seed in one of these modes, 4- or 5-level paging unless given.

    `plain` gives the context the features of the emulated CPU. Without `loadable`, PDPTEs of PAE
    paging may set reserved bits. Of `count` accesses those are left that the CPU can be asked.
    """
    chance = np.random.default_rng(seed)
    modes = modes or LONG
    mode = modes[int(chance.integers(len(modes)))]
    pae, size = mode == "PAE", MODES[mode].entry_size
    root = 0x1000 + (32 * int(chance.integers(0, 128)) if pae else 0)
    entries = {
        0x1000 * (table + 1) + size * slot: _entry(chance, mode)
        for table in range(TABLES)
        for slot in SLOTS[MODES[mode].count(1)]
    }
    for slot in range(4 if pae else 0):
        entries[root + 8 * slot] = _pdpte(chance, loadable=loadable)
    context = _context(chance, mode, root, plain=plain)
    accesses = _askable(entries, context, mode, _accesses(chance, mode, count))
    return SeededTables(SparseWords([(0, RAM)], words_of(entries, size)), context, accesses)


def _bits(chance, often):
    return sum(1 << bit for bit, odds in often.items() if chance.random() < odds)


def _entry(chance, mode):
    entry = _bits(chance, BITS[mode])
    kind = chance.random()
    if entry & PS and kind < 0.5:
        shift = int(chance.choice(LARGE_SHIFTS[mode]))
        return entry | _bits(chance, LARGE) | int(chance.integers(0, 4)) << shift
    if kind < 0.9:
        return entry | 0x1000 * int(chance.integers(1, TABLES + 1))
    return entry | int(chance.choice([0x7F00_0000, 0xFFFF_F000, 0x40_0000]))


def _pdpte(chance, *, loadable):
    entry = P if chance.random() < 0.9 else 0
    if not loadable or not entry:
        entry |= _bits(chance, PDPTE)
    return entry | 0x1000 * int(chance.integers(1, TABLES + 1))


def _context(chance, mode, root, *, plain):
    long = mode in LONG
    cr4 = (mode != "32-bit") << 5 | (mode == 5) << 12
    cr4 |= 0x10 if not long and chance.random() < 0.7 else 0
    cr4 |= sum(bit for bit in SWITCHES if chance.random() < 0.5)
    features = {}
    if not plain:
        features = {
            "maxphyaddr": int(chance.choice([32, 36, 39, 40, 46, 52])),
            "page1gb": bool(chance.random() < 0.7),
            "vendor": Vendor.AMD if chance.random() < 0.4 else Vendor.INTEL,
        }
    return PagingContext(
        cr3=root | int(chance.integers(0, 4)) << 3,
        cr0=0x8000_0033 | (0x10000 if chance.random() < 0.6 else 0),
        cr4=cr4,
        efer=(0x500 if long else 0) | (0x800 if chance.random() < 0.7 else 0),
        pkru=int(chance.integers(0, 1 << 32)),
        **features,
    )


def _accesses(chance, mode, count):
    va = chance.choice(OFFSETS, count)
    for level, shift in MODES[mode].shifts.items():
        slots = np.array(SLOTS[MODES[mode].count(level)], np.uint64)
        va |= chance.choice(slots, count) << np.uint64(shift)
    if mode in LONG:
        unused = np.int64(64 - MODES[mode].va_bits)
        va = (va.astype(np.int64) << unused >> unused).astype(np.uint64)
        va[chance.random(count) < 0.03] ^= np.uint64(1 << 60)
    return Accesses(
        va,
        chance.integers(0, 3, count).astype(np.uint8),
        chance.choice(np.array([0, 3], np.uint8), count),
        chance.random(count) < 0.5,
    )


def _askable(entries, context, mode, accesses):
    """Leave out accesses whose walk uses an address of 2^40 and up: the CPU can't be asked."""
    high = (1 << context.maxphyaddr) - (1 << 40) if context.maxphyaddr > 40 else 0
    if not high or mode == "32-bit":
        return accesses
    rows = [
        row
        for row, va in enumerate(accesses.va.tolist())
        if not any(entry & high for entry in _used(entries, context, mode, va))
    ]
    return accesses.take(np.array(rows, np.intp))


def _used(entries, context, mode, va):
    """Yield the present entries that the walk of `va` may use, one after the other."""
    form = MODES[mode]
    if mode in LONG and va >> form.va_bits - 1 not in (0, (1 << 65 - form.va_bits) - 1):
        return  # Not canonical: nothing is walked.
    table = context.cr3 & (0xFFFF_FFE0 if mode == "PAE" else ADDRESS)
    for level, shift in form.shifts.items():
        entry = entries.get(table + 8 * form.index(va, level), 0)
        if not entry & P:
            return
        yield entry
        if entry & PS and shift in LARGE_SHIFTS[mode]:
            return
        table = entry & ADDRESS
