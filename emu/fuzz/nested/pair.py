"""Nested test cases: a guest's paging structures, nested tables and accesses, from two numbers.

The guest's memory is a few frames, which the nested tables scatter over the host's. The tables of
both are drawn entry by entry, so that entries lead to tables, to data and outside memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.context import CR0, CR4, EFER, PagingContext, Vendor
from crosswalk.walker.entry import Entry
from crosswalk.walker.memory import FRAME, U64, WORDS, Segments
from crosswalk.walker.nested.context import NestedContext

__all__ = [
    "ENTRY_SLOTS",
    "GIB1",
    "GUEST_FRAMES",
    "GUEST_TABLES",
    "HOST_TABLES",
    "MIB2",
    "OUTSIDE",
    "RAM",
    "Pair",
    "Probabilities",
    "draw_access",
    "draw_cr4",
    "fill_guest",
    "frames_of_tables",
    "link_tables",
    "make_pair",
    "memory_of",
]

MIB2, GIB1 = 1 << 21, 1 << 30
RAM = ((0, 48), (MIB2, 8), (GIB1, 4))
"""The host's memory: the address and frames of each range; large pages lead to all of them."""

GUEST_FRAMES = 32
_SLOTS = (0, 1, 2, 255, 256, 511)
ENTRY_SLOTS = frozenset({*_SLOTS, *range(GUEST_FRAMES)})
"""The numbers of words that are entries in tables: the guest's; the host's, one a guest frame."""

GUEST_TABLES = {4: 1, 3: 2, 2: 2, 1: 3}
HOST_TABLES = 8
OUTSIDE = 0x7F00_0000
_OFFSETS = (0, 8, 0x7F8, 0xFF0, 0xFF8)
_SWITCHES = (CR4.PGE, CR4.SMEP, CR4.SMAP)
_RESERVED = (*range(40, 52), *range(13, 21))
_IDLE = {3: 0.1, 4: 0.1, 8: 0.08, 9: 0.2, 11: 0.2, 12: 0.05, 52: 0.2, 58: 0.2, 62: 0.1}
"""Probabilities of bits that decide little: PWT, PCD, G, available ones, PAT of a large page."""

Chances = TypeVar("Chances")
"""What decides how an entry is drawn."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layouts of this seed and number, in system-physical `memory`, and accesses.

    `tables` are the addresses of the frames that hold tables of either dimension, as far as they
    are meant to: entries may lead to others, too.
    """

    seed: int
    number: int
    memory: Segments
    context: NestedContext
    accesses: tuple[Access, ...]
    tables: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Probabilities that an entry lacks P, W, U or execution, and has PS or a reserved bit."""

    absent: float
    write: float
    user: float
    execute: float
    large: float
    reserved: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """Probabilities of malformed entries in a nested test case.

    `guest` are those of the guest's entries; of the host's, `upper` those of entries above the
    leaves, `table` of leaves that map the guest's tables, `page` of other leaves. `used`: the
    host's leaves have A and D set. `aliased`: a guest frame may be another's, or one of the host's
    tables.
    """

    guest: Probabilities
    upper: Probabilities
    table: Probabilities
    page: Probabilities
    used: bool
    aliased: bool


def make_pair(seed: int, number: int, accesses: int) -> Pair:
    """Return the pair of this seed and number, with so many accesses; equal for equal arguments."""
    chance = np.random.default_rng([seed, number])
    distribution = _draw_distribution(chance)
    total = sum(frames for _, frames in RAM)
    words = chance.integers(0, 1 << 64, (total, WORDS), np.uint64)
    low = chance.permutation(RAM[0][1])
    host, backing = low[:HOST_TABLES], low[HOST_TABLES:][:GUEST_FRAMES].copy()
    tables = chance.permutation(GUEST_FRAMES)[: sum(GUEST_TABLES.values())]
    if distribution.aliased:
        some = chance.choice(GUEST_FRAMES, 3, replace=False)
        backing[some] = chance.choice(np.concatenate([host, backing]), 3)
    _fill_host(chance, distribution, words, host, backing, set(tables.tolist()))
    fill_guest(chance, distribution.guest, words, tables, backing)
    context = _context(chance, int(tables[0]) * FRAME, int(host[0]) * FRAME)
    asked = tuple(draw_access(chance) for _ in range(accesses))
    return Pair(
        seed, number, memory_of(words), context, asked, frames_of_tables(host, backing, tables)
    )


def frames_of_tables(host: np.ndarray, backing: np.ndarray, tables: np.ndarray) -> frozenset[int]:
    """Return the addresses of the host's tables, and of the frames behind the guest's."""
    return frozenset(frame * FRAME for frame in (*host.tolist(), *backing[tables].tolist()))


def memory_of(words: U64, *more: tuple[int, bytes]) -> Segments:
    """Return the host's memory, with the words uint64[frame, 512] of its frames in order.

    `more` are further parts of it: addresses, and what is there.
    """
    parts, first = [*more], 0
    for start, frames in RAM:
        parts.append((start, words[first : first + frames].tobytes()))
        first += frames
    return Segments(parts)


def _fill_host(
    chance: np.random.Generator,
    distribution: Distribution,
    words: U64,
    host: np.ndarray,
    backing: np.ndarray,
    tables: set[int],
) -> None:
    """Write the nested tables: one chain that maps the guest's frames, and random others."""
    words[host] = 0

    def put(table: int, index: int, address: int, level: int, probabilities: Probabilities) -> None:
        leaf = probabilities is not distribution.upper
        flags = _draw_flags(chance, probabilities, level, used=distribution.used and leaf)
        if leaf and level > 1:
            flags |= int(Entry.PS)
        if flags & Entry.PS and level > 1 and address % MIB2 and chance.random() < 0.7:
            address = int(chance.choice([0, MIB2, GIB1]))
        words[host[table], index] = np.uint64(address | flags)

    kinds = distribution.upper, distribution.table, distribution.page
    link_tables(chance, put, kinds, words, (host, backing, tables))


def link_tables(
    chance: np.random.Generator,
    put: Callable[[int, int, int, int, Chances], None],
    kinds: tuple[Chances, Chances, Chances],
    words: U64,
    frames: tuple[np.ndarray, np.ndarray, set[int]],
) -> None:
    """Write the host's entries: one chain that maps the guest's frames, and random others.

    `put` writes one, at a table and an index, with an address and a level. `kinds` are the chances
    of entries above the leaves, of leaves that map the guest's tables, and of others.
    `frames` are the host's tables, what is behind each of the guest's frames, and the numbers of
    those that hold the guest's tables.
    """
    upper, of_table, page = kinds
    host, backing, tables = frames
    for level in (4, 3, 2):
        put(4 - level, 0, int(host[5 - level]) * FRAME, level, upper)
    for frame, behind in enumerate(backing.tolist()):
        put(3, frame, behind * FRAME, 1, of_table if frame in tables else page)
    # Large pages and further tables map guest-physical 2 MiB, 1 GiB and 512 GiB on.
    put(2, 1, int(chance.choice([0, MIB2, MIB2, OUTSIDE & -MIB2])), 2, page)
    put(1, 1, int(chance.choice([0, GIB1])), 3, page)
    for table in range(HOST_TABLES):
        for index in (1, 2, 3):
            if not words[host[table], index]:
                lower = int(chance.choice(host)) * FRAME
                put(table, index, lower, int(chance.integers(1, 5)), upper)


def fill_guest(
    chance: np.random.Generator,
    guest: Probabilities,
    words: U64,
    tables: np.ndarray,
    backing: np.ndarray,
) -> None:
    """Write the guest's tables to their frames in the host's memory."""
    levels = [level for level, count in GUEST_TABLES.items() for _ in range(count)]
    for frame, level in zip(tables.tolist(), levels, strict=True):
        for slot in _SLOTS:
            flags = _draw_flags(chance, guest, level, used=False)
            lower = [
                table for table, at in zip(tables.tolist(), levels, strict=True) if at == level - 1
            ]
            large = level in (2, 3) and bool(flags & Entry.PS)
            address = _target(chance, lower, tables, large=large)
            words[backing[frame], slot] = np.uint64(address | flags)


def _target(
    chance: np.random.Generator, lower: list[int], tables: np.ndarray, *, large: bool
) -> int:
    """Return the guest-physical address that an entry holds."""
    kind = chance.random()
    if large and kind < 0.8:
        return int(chance.choice([0, MIB2, GIB1, GIB1 + MIB2]))
    if lower and kind < 0.92:
        return int(chance.choice(lower)) * FRAME
    if kind < (0.94 if lower else 0.15):
        return int(chance.choice(tables)) * FRAME
    if kind < (0.96 if lower else 0.2):
        # Mapped by a large page, by one of the random tables, or not at all.
        return int(chance.choice([MIB2, 2 * MIB2, GIB1, 2 * GIB1, 1 << 39, OUTSIDE]))
    return int(chance.integers(0, GUEST_FRAMES + 4)) * FRAME


def _context(chance: np.random.Generator, root: int, nested: int) -> NestedContext:
    cr4 = draw_cr4(chance)
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


def draw_cr4(chance: np.random.Generator) -> int:
    """Return the guest's CR4."""
    return int(CR4.PAE) | sum(int(bit) for bit in _SWITCHES if chance.random() < 0.5)


def draw_access(chance: np.random.Generator) -> Access:
    """Return an access to an address that the guest's tables have entries for."""
    va = sum(int(chance.choice(_SLOTS)) << 3 + 9 * level for level in range(1, 5))
    va |= -(va >> 47) << 48 & (1 << 64) - 1
    # An odd offset in the page distinguishes its address from that of an entry.
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


def _draw_distribution(chance: np.random.Generator) -> Distribution:
    """Return the distribution of one test case."""
    guest, host = (float(chance.choice([0.0, 0.02, 0.05, 0.12])) for _ in range(2))
    closed, execute = (float(chance.choice([0.1, 0.3, 0.6])) for _ in range(2))
    fatal = float(chance.choice([0.0, 0.0, 0.0, 0.1]))
    rare, often = host / 12, host + closed / 4
    return Distribution(
        guest=Probabilities(guest, 0.1, 0.1, 0.08, 0.08, guest / 3),
        upper=Probabilities(rare, rare, rare / 2, rare / 2, rare, rare / 2),
        table=Probabilities(host / 3, host / 2, host / 6, fatal, 0.1, host / 6),
        page=Probabilities(often, closed, often / 2, execute, 0.1, often),
        used=bool(chance.random() < 0.6),
        aliased=bool(chance.random() < 0.3),
    )


def _draw_flags(
    chance: np.random.Generator, probabilities: Probabilities, level: int, *, used: bool
) -> int:
    """Return an entry's flags at a level: all but its address."""
    draws = chance.random(8 + len(_IDLE))
    flags = 0 if draws[0] < probabilities.absent else int(Entry.P)
    flags |= 0 if draws[1] < probabilities.write else int(Entry.RW)
    flags |= 0 if draws[2] < probabilities.user else int(Entry.US)
    flags |= int(Entry.XD) if draws[3] < probabilities.execute else 0
    # In a PTE bit 7 is PAT; in a PML4E it is reserved, and ends all walks.
    often = {1: 0.1, 4: probabilities.reserved}.get(level, probabilities.large)
    flags |= int(Entry.PS) if draws[4] < often else 0
    flags |= 1 << int(chance.choice(_RESERVED)) if draws[5] < probabilities.reserved else 0
    flags |= int(Entry.A) if used or draws[6] < 0.5 else 0
    flags |= int(Entry.D) if used or draws[7] < 0.3 else 0
    for draw, (bit, often) in zip(draws[8:], _IDLE.items(), strict=True):
        # AMD reserves bit 8 of a PML4E, which ends all walks, too.
        rare = level == 4 and bit == 8
        flags |= 1 << bit if draw < (often / 8 if rare else often) else 0
    return flags
