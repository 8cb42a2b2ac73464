"""A guest's paging structures, the nested ones beneath, and accesses: all from two numbers.

The guest's memory is a few frames, scattered over the host's by the nested tables. Either side's
tables are drawn entry by entry, so that they point at each other, at data, and at nothing.
"""

from dataclasses import dataclass

import numpy as np

from crosswalk.emu.fuzz.nested.distribution import Mood, Odds, draw_flags, draw_mood
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext, Vendor
from crosswalk.walker.entry import Entry
from crosswalk.walker.memory import FRAME, U64, WORDS, Segments
from crosswalk.walker.nested.context import NestedContext

__all__ = ["Pair", "make_pair"]

_MIB2, _GIB1 = 1 << 21, 1 << 30
_RAM = ((0, 48), (_MIB2, 8), (_GIB1, 4))
"""The host's memory: where a range begins, and its frames; large pages find some in each."""

_GUEST_FRAMES = 32
_SLOTS = (0, 1, 2, 255, 256, 511)
_GUEST_TABLES = {4: 1, 3: 2, 2: 2, 1: 3}
_HOST_TABLES = 8
_OUTSIDE = 0x7F00_0000
_OFFSETS = (0, 8, 0x7F8, 0xFF0, 0xFF8)
_SWITCHES = (CR4.PGE, CR4.SMEP, CR4.SMAP)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layouts of this seed and number, in system-physical `memory`, and accesses."""

    seed: int
    number: int
    memory: Segments
    context: NestedContext
    accesses: tuple[Access, ...]


def make_pair(seed: int, number: int, accesses: int) -> Pair:
    """Return the pair of this seed and number, with so many accesses: the same ones each time."""
    chance = np.random.default_rng([seed, number])
    mood = draw_mood(chance)
    total = sum(frames for _, frames in _RAM)
    words = chance.integers(0, 1 << 64, (total, WORDS), np.uint64)
    low = chance.permutation(_RAM[0][1])
    host, backing = low[:_HOST_TABLES], low[_HOST_TABLES:][:_GUEST_FRAMES].copy()
    tables = chance.permutation(_GUEST_FRAMES)[: sum(_GUEST_TABLES.values())]
    if mood.aliased:
        some = chance.choice(_GUEST_FRAMES, 3, replace=False)
        backing[some] = chance.choice(np.concatenate([host, backing]), 3)
    _fill_host(chance, mood, words, host, backing, set(tables.tolist()))
    _fill_guest(chance, mood, words, tables, backing)
    context = _context(chance, int(tables[0]) * FRAME, int(host[0]) * FRAME)
    parts, first = [], 0
    for start, frames in _RAM:
        parts.append((start, words[first : first + frames].tobytes()))
        first += frames
    asked = tuple(_access(chance) for _ in range(accesses))
    return Pair(seed, number, Segments(parts), context, asked)


def _fill_host(
    chance: np.random.Generator,
    mood: Mood,
    words: U64,
    host: np.ndarray,
    backing: np.ndarray,
    tables: set[int],
) -> None:
    """Write nested tables: one chain that maps the guest's frames, and others beside it."""
    words[host] = 0

    def put(table: int, index: int, address: int, level: int, odds: Odds) -> None:
        leaf = odds is not mood.upper
        flags = draw_flags(chance, odds, level, used=mood.used and leaf)
        if leaf and level > 1:
            flags |= int(Entry.PS)
        if flags & Entry.PS and level > 1 and address % _MIB2 and chance.random() < 0.7:
            address = int(chance.choice([0, _MIB2, _GIB1]))
        words[host[table], index] = np.uint64(address | flags)

    for level in (4, 3, 2):
        put(4 - level, 0, int(host[5 - level]) * FRAME, level, mood.upper)
    for frame, behind in enumerate(backing.tolist()):
        put(3, frame, behind * FRAME, 1, mood.table if frame in tables else mood.page)
    # What large pages and further tables map: gpa from 2 MiB, 1 GiB and 512 GiB on.
    put(2, 1, int(chance.choice([0, _MIB2, _MIB2, _OUTSIDE & -_MIB2])), 2, mood.page)
    put(1, 1, int(chance.choice([0, _GIB1])), 3, mood.page)
    for table in range(_HOST_TABLES):
        for index in (1, 2, 3):
            if not words[host[table], index]:
                beneath = int(chance.choice(host)) * FRAME
                put(table, index, beneath, int(chance.integers(1, 5)), mood.upper)


def _fill_guest(
    chance: np.random.Generator, mood: Mood, words: U64, tables: np.ndarray, backing: np.ndarray
) -> None:
    """Write the guest's tables, wherever the host's memory has their frames."""
    levels = [level for level, count in _GUEST_TABLES.items() for _ in range(count)]
    for frame, level in zip(tables.tolist(), levels, strict=True):
        for slot in _SLOTS:
            flags = draw_flags(chance, mood.guest, level, used=False)
            beneath = [
                table for table, at in zip(tables.tolist(), levels, strict=True) if at == level - 1
            ]
            large = level in (2, 3) and bool(flags & Entry.PS)
            address = _target(chance, beneath, tables, large=large)
            words[backing[frame], slot] = np.uint64(address | flags)


def _target(
    chance: np.random.Generator, beneath: list[int], tables: np.ndarray, *, large: bool
) -> int:
    """Return the guest-physical address that an entry holds."""
    kind = chance.random()
    if large and kind < 0.8:
        return int(chance.choice([0, _MIB2, _GIB1, _GIB1 + _MIB2]))
    if beneath and kind < 0.92:
        return int(chance.choice(beneath)) * FRAME
    if kind < (0.94 if beneath else 0.15):
        return int(chance.choice(tables)) * FRAME
    if kind < (0.96 if beneath else 0.2):
        # Mapped by a large page, by tables beside the chain, or not at all.
        return int(chance.choice([_MIB2, 2 * _MIB2, _GIB1, 2 * _GIB1, 1 << 39, _OUTSIDE]))
    return int(chance.integers(0, _GUEST_FRAMES + 4)) * FRAME


def _context(chance: np.random.Generator, root: int, nested: int) -> NestedContext:
    cr4 = int(CR4.PAE) | sum(int(bit) for bit in _SWITCHES if chance.random() < 0.5)
    long = int(EFER.LME | EFER.LMA)
    wp, guest_nxe, host_nxe = chance.random(3) < (0.5, 0.7, 0.75)
    guest = PagingContext(
        cr3=root | int(chance.choice([0, 8, 0x10])),
        cr0=0x8000_0033 | (int(CR0.WP) if wp else 0),
        cr4=cr4,
        efer=long | (int(EFER.NXE) if guest_nxe else 0),
        vendor=Vendor.AMD,
    )
    host = PagingContext(
        cr3=nested | int(chance.choice([0, 8, 0x10])),
        efer=long | (int(EFER.NXE) if host_nxe else 0),
        vendor=Vendor.AMD,
    )
    return NestedContext(guest, host)


def _access(chance: np.random.Generator) -> Access:
    va = sum(int(chance.choice(_SLOTS)) << 3 + 9 * level for level in range(1, 5))
    va |= -(va >> 47) << 48 & (1 << 64) - 1
    # An odd place in the page tells the page's address from that of an entry.
    odd = chance.random() < 0.9
    va |= int(chance.integers(0, FRAME)) | 1 if odd else int(chance.choice(_OFFSETS))
    if chance.random() < 0.02:
        va ^= 1 << int(chance.integers(47, 64))
    return Access(
        va,
        AccessType(int(chance.integers(0, 3))),
        int(chance.choice([0, 3])),
        bool(chance.random() < 0.5),
    )
