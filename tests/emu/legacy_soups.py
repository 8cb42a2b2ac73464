"""Hostile 32-bit and PAE paging structures by the number, as `tests.emu.soups` has others."""

import numpy as np

from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.memory import SparseWords
from tests.emu.soups import OFFSETS, RAM, TABLES, Soup
from tests.emu.wide import askable

SHIFTS = {"32-bit": (22, 12), "PAE": (30, 21, 12)}
# How often each bit of an entry is set.
LOW = {
    0: 0.9, 1: 0.7, 2: 0.7, 3: 0.1, 4: 0.1, 5: 0.5, 6: 0.3, 7: 0.25, 8: 0.15, 9: 0.1, 11: 0.1,
}  # fmt: skip
IN_LARGE = {12: 0.1, 13: 0.05, 16: 0.03, 19: 0.03, 20: 0.03, 21: 0.05}
HIGH = {32: 0.02, 36: 0.02, 39: 0.02, 40: 0.02, 51: 0.02, 52: 0.02, 59: 0.02, 62: 0.02, 63: 0.15}
LOADED = {1: 0.02, 2: 0.02, 5: 0.02, 7: 0.02, 8: 0.02, 40: 0.02, 52: 0.02, 63: 0.02, 3: 0.3, 9: 0.3}
SWITCHES = (1 << 7, 1 << 12, 1 << 20, 1 << 21, 1 << 22)  # PGE, LA57, SMEP, SMAP, PKE
SLOTS = {10: (0, 1, 2, 511, 512, 1022, 1023), 9: (0, 1, 2, 255, 510, 511), 2: (0, 1, 2, 3)}


def legacy_soup(seed, mode, count, *, plain=False, loadable=True):
    """Make the soup of this number and mode; `plain` gives it the width of the emulated CPU.

    Without `loadable`, PDPTEs may set reserved bits. Of `count` accesses those are left that the
    emulated CPU can be asked.
    """
    chance = np.random.default_rng(seed)
    wide = mode == "PAE"
    root = 0x1000 + (32 * int(chance.integers(0, 128)) if wide else 0)
    words = {}
    for table in range(TABLES):
        for slot in SLOTS[9 if wide else 10]:
            pa = 0x1000 * (table + 1) + (8 if wide else 4) * slot
            words[pa & -8] = words.get(pa & -8, 0) | _entry(chance, wide) << pa % 8 * 8
    for slot in range(4 if wide else 0):
        words[root + 8 * slot] = _pdpte(chance, loadable=loadable)
    context = _context(chance, root, wide=wide, plain=plain)
    accesses = askable(words, context, _accesses(chance, mode, count), SHIFTS[mode])
    return Soup(SparseWords([(0, RAM)], words), context, accesses)


def _bits(chance, often):
    return sum(1 << bit for bit, odds in often.items() if chance.random() < odds)


def _entry(chance, wide):
    entry = _bits(chance, LOW) | (_bits(chance, HIGH) if wide else 0)
    kind = chance.random()
    if entry & 0x80 and kind < 0.5:
        return entry | _bits(chance, IN_LARGE) | int(chance.integers(0, 4)) << (21 if wide else 22)
    if kind < 0.9:
        return entry | 0x1000 * int(chance.integers(1, TABLES + 1))
    return entry | int(chance.choice([0x7F00_0000, 0xFFFF_F000, 0x40_0000]))


def _pdpte(chance, *, loadable):
    entry = 1 if chance.random() < 0.9 else 0
    if not loadable or not entry:
        entry |= _bits(chance, LOADED)
    return entry | 0x1000 * int(chance.integers(1, TABLES + 1))


def _context(chance, root, *, wide, plain):
    cr4 = 0x20 if wide else 0
    cr4 |= 0x10 if chance.random() < 0.7 else 0
    cr4 |= sum(bit for bit in SWITCHES if chance.random() < 0.5)
    features = {}
    if not plain:
        features = {
            "maxphyaddr": int(chance.choice([32, 36, 39, 40, 46, 52])),
            "vendor": Vendor.AMD if chance.random() < 0.4 else Vendor.INTEL,
        }
    return PagingContext(
        cr3=root | int(chance.integers(0, 4)) << 3,
        cr0=0x8000_0033 | (0x10000 if chance.random() < 0.6 else 0),
        cr4=cr4,
        efer=0x800 if chance.random() < 0.7 else 0,
        pkru=int(chance.integers(0, 1 << 32)),
        **features,
    )


def _accesses(chance, mode, count):
    va = chance.choice(OFFSETS, count)
    bits = {"32-bit": (10, 10), "PAE": (2, 9, 9)}[mode]
    for shift, width in zip(SHIFTS[mode], bits, strict=True):
        va |= chance.choice(np.array(SLOTS[width], np.uint64), count) << np.uint64(shift)
    return Accesses(
        va,
        chance.integers(0, 3, count).astype(np.uint8),
        chance.choice(np.array([0, 3], np.uint8), count),
        chance.random(count) < 0.5,
    )
