"""Test cases of EPT: a guest's paging structures as under AMD's nested paging, and an EPT beneath.

The EPT is drawn entry by entry as nested tables are, in its own format.
"""

from dataclasses import dataclass

import numpy as np

from crosswalk.emu.fuzz.nested.pair import (
    GIB1,
    GUEST_FRAMES,
    GUEST_TABLES,
    HOST_TABLES,
    MIB2,
    OUTSIDE,
    RAM,
    Pair,
    Probabilities,
    draw_access,
    draw_cr4,
    fill_guest,
    frames_of_tables,
    link_tables,
    memory_of,
)
from crosswalk.walker.context import CR0, EFER, PagingContext
from crosswalk.walker.memory import FRAME, U64, WORDS
from crosswalk.walker.nested.context import EptContext, NestedContext

__all__ = ["make_ept_pair"]

_R, _W, _X, _PS, _A, _D, _XU = (1 << bit for bit in (0, 1, 2, 7, 8, 9, 10))
_TYPES, _NO_TYPES = (0, 1, 4, 5, 6), (2, 3, 7)
_TYPE = 3
_USUAL = 6
_LOW_RESERVED = (*[12] * 8, *range(13, 21))
_TABLE_RESERVED = (3, 4, 5, 6)
_IGNORED = {11: 0.1, 52: 0.1, 57: 0.1, 58: 0.1, 60: 0.1, 61: 0.1, 62: 0.1, 63: 0.3}
"""Probabilities of bits that no control here gives a meaning: SVE, SSS, SPP and others."""


@dataclass(frozen=True, slots=True)
class _Chances:
    """Probabilities of an entry of EPT.

    That it isn't present; lacks R, W, X or XU; keeps W where it lacks R; has PS, has it in a
    PML4E, has a reserved bit, or a reserved memory type.
    """

    absent: float
    read: float
    write: float
    execute: float
    user: float
    write_only: float
    large: float
    large_root: float
    reserved: float
    type: float


@dataclass(frozen=True, slots=True)
class _Distribution:
    """As `crosswalk.emu.fuzz.nested.pair.Distribution` has it."""

    guest: Probabilities
    upper: _Chances
    table: _Chances
    page: _Chances
    used: bool
    aliased: bool


def make_ept_pair(
    seed: int, number: int, accesses: int, *, mbec: bool, maxphyaddr: int = 40
) -> Pair:
    """Return the pair of this seed and number, with so many accesses; equal for equal arguments.

    `mbec` says whether mode-based execute control is on, `maxphyaddr` how wide the addresses of the
    CPU are.
    """
    chance = np.random.default_rng([seed, number, 1 + mbec])
    distribution = _draw_distribution(chance)
    words = chance.integers(0, 1 << 64, (sum(frames for _, frames in RAM), WORDS), np.uint64)
    low = chance.permutation(RAM[0][1])
    host, backing = low[:HOST_TABLES], low[HOST_TABLES:][:GUEST_FRAMES].copy()
    tables = chance.permutation(GUEST_FRAMES)[: sum(GUEST_TABLES.values())]
    if distribution.aliased:
        # A and D of a guest's entry are other bits of an EPT entry: no guest's table is one.
        pages = np.setdiff1d(np.arange(GUEST_FRAMES), tables)
        backing[chance.choice(pages, 3, replace=False)] = chance.choice(
            np.concatenate([host, backing]), 3
        )
    _fill_ept(chance, distribution, words, (host, backing, set(tables.tolist())), maxphyaddr)
    words[backing[tables]] = 0  # Where no entry is, a judge may put what tells places apart.
    fill_guest(chance, distribution.guest, words, tables, backing)
    root, eptp = int(tables[0]) * FRAME, int(host[0]) * FRAME
    context = _context(chance, root, eptp, mbec=mbec, maxphyaddr=maxphyaddr)
    asked = tuple(draw_access(chance) for _ in range(accesses))
    # Machines may have something there that isn't zero.
    outside = OUTSIDE, bytes(FRAME)
    return Pair(
        seed,
        number,
        memory_of(words, outside),
        context,
        asked,
        frames_of_tables(host, backing, tables),
    )


def _fill_ept(
    chance: np.random.Generator,
    distribution: _Distribution,
    words: U64,
    frames: tuple[np.ndarray, np.ndarray, set[int]],
    maxphyaddr: int,
) -> None:
    """Write the EPT: one chain that maps the guest's frames, and random others."""
    host = frames[0]
    words[host] = 0

    def put(table: int, index: int, address: int, level: int, chances: _Chances) -> None:
        leaf = chances is not distribution.upper
        large = level > 1 and (leaf or (level < 4 and chance.random() < chances.large))
        large |= level == 4 and chance.random() < chances.large_root
        if large and address % MIB2 and chance.random() < 0.7:
            address = int(chance.choice([0, MIB2, GIB1]))
        page = leaf or (large and level < 4) or level == 1
        flags = _draw_flags(chance, chances, maxphyaddr, page=page, large=large)
        used = distribution.used and leaf
        flags |= _A if used or chance.random() < 0.4 else 0
        flags |= _D if used or chance.random() < 0.3 else 0
        # In an entry of the last level bit 7 is ignored.
        flags |= _PS if large or (level == 1 and chance.random() < 0.1) else 0
        words[host[table], index] = np.uint64(address | flags)

    kinds = distribution.upper, distribution.table, distribution.page
    link_tables(chance, put, kinds, words, frames)


def _draw_flags(
    chance: np.random.Generator, chances: _Chances, maxphyaddr: int, *, page: bool, large: bool
) -> int:
    """Return an entry's flags: all but its address, A, D and PS."""
    draws = chance.random(8 + len(_IGNORED))
    flags = _R | _W | _X
    if draws[0] < chances.read:
        flags &= ~_R if draws[1] < chances.write_only else ~(_R | _W)
    flags &= ~_W if draws[2] < chances.write else -1
    flags &= ~_X if draws[3] < chances.execute else -1
    flags |= 0 if draws[4] < chances.user else _XU
    # Where XU is ignored, an entry that has it alone isn't present.
    if draws[5] < chances.absent:
        flags = _XU if chance.random() < 0.4 else 0
    types = _NO_TYPES if draws[6] < chances.type else _TYPES
    other = draws[6] < chances.type or chance.random() < 0.4
    kind = int(chance.choice(types)) if other else _USUAL
    ignore_pat = 1 << 6 if chance.random() < 0.2 else 0
    flags |= kind << _TYPE | ignore_pat if page else 0
    if draws[7] < chances.reserved + (0.1 if large else 0.0):
        high = tuple(range(maxphyaddr, 52))
        low = _LOW_RESERVED if large else () if page else _TABLE_RESERVED
        flags |= 1 << int(chance.choice(low if low and chance.random() < 0.7 else high))
    for draw, (bit, often) in zip(draws[8:], _IGNORED.items(), strict=True):
        flags |= 1 << bit if draw < often else 0
    return flags


def _context(
    chance: np.random.Generator, root: int, eptp: int, *, mbec: bool, maxphyaddr: int
) -> NestedContext:
    cr4 = draw_cr4(chance)
    wp, nxe, marks = chance.random(3) < (0.5, 0.7, 0.5)
    guest = PagingContext(
        cr3=root | int(chance.choice([0, 8, 0x10])),
        cr0=0x8000_0033 | (int(CR0.WP) if wp else 0),
        cr4=cr4,
        efer=int(EFER.LME | EFER.LMA) | (int(EFER.NXE) if nxe else 0),
        maxphyaddr=maxphyaddr,
    )
    kind = int(chance.choice([0, _USUAL]))
    host = EptContext(
        eptp=eptp | kind | 3 << 3 | (1 << 6 if marks else 0),
        mbec=mbec,
        maxphyaddr=maxphyaddr,
    )
    return NestedContext(guest, host)


def _draw_distribution(chance: np.random.Generator) -> _Distribution:
    """Return the distribution of one test case."""
    guest, host = (float(chance.choice([0.0, 0.02, 0.05, 0.12])) for _ in range(2))
    closed, execute, user = (float(chance.choice([0.1, 0.3, 0.6])) for _ in range(3))
    sealed = float(chance.choice([0.0, 0.0, 0.1, 0.3]))
    above = float(chance.choice([0.0, 0.0, 0.25]))
    rare, often, root = host / 12, host + closed / 4, host / 4 + 0.01
    return _Distribution(
        guest=Probabilities(guest / 2, 0.1, 0.1, 0.08, 0.08, guest / 6),
        upper=_Chances(rare, rare, rare + above / 8, above, above, 0.3, rare, root, rare / 2, 0.0),
        table=_Chances(host / 4, host / 3, sealed, 0.5, 0.5, 0.2, 0.1, 0.0, host / 8, host / 8),
        page=_Chances(often, closed / 2, closed, execute, user, 0.3, 0.1, 0.0, often / 2, often),
        used=bool(chance.random() < 0.6),
        aliased=bool(chance.random() < 0.3),
    )
