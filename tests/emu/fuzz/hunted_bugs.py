"""Two dozen walkers with one bug each, from the obvious to the rare, for the fuzzer to find."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.entry import ADDRESS_FIELD, Entry
from crosswalk.walker.memory import U64
from crosswalk.walker.outcome import ErrorCode
from tests.emu.check.planted_bugs import ELSEWHERE, FIVE_LEVELS, GUEST
from tests.tables import MODES

P, RW, US, A, D, PS, G = (int(bit) for bit in (1, 2, 4, 0x20, 0x40, 0x80, 0x100))
PWT, PCD, XD = 8, 16, int(Entry.XD)
PAT_LARGE = 1 << 12
KEY = 15 << 59
LARGE = {"32-bit": (2,), "PAE": (2,), 4: (2, 3), 5: (2, 3)}
"""The levels whose entries may map a page, by mode."""


@dataclass(frozen=True, slots=True)
class Path:
    """The entries of n walks: `entry` uint64[n, 6] by level, 0 for none; `end` the last level."""

    entry: U64
    end: np.ndarray

    def has(self, level, bit):
        """Whether the entry of this level has any of these bits set."""
        return (self.entry[:, level] & np.uint64(bit)) != 0

    def leaf(self, bit):
        """The same for the entry at which the walk ends."""
        last = self.entry[np.arange(len(self.end)), self.end]
        return (last & np.uint64(bit)) != 0


def path_of(memory, context, va):
    """Walk as far as entries are present, whatever is reserved; in any paging mode."""
    count = len(va)
    entry = np.zeros((count, 6), np.uint64)
    end = np.full(count, context.levels)
    table = np.full(count, context.root, np.uint64)
    going = np.ones(count, np.bool_)
    mode = context.levels if context.mode.long else str(context.mode)
    form = MODES[mode]
    for level in range(context.levels, 0, -1):
        rows = np.flatnonzero(going)
        shift, entries = form.shifts[level], form.count(level)
        index = va[rows] >> np.uint64(shift) & np.uint64(entries - 1)
        at = table[rows] + index * np.uint64(form.entry_size)
        word = memory.tables(at & ~np.uint64(4095))[
            np.arange(len(rows)), (at & np.uint64(4095)) >> np.uint64(3)
        ]
        if form.entry_size == 4:
            word = word >> ((at & np.uint64(4)) << np.uint64(3)) & np.uint64(0xFFFF_FFFF)
        entry[rows, level] = found = word
        end[rows] = level
        large = level in LARGE[mode] and (mode != "32-bit" or context.pse)
        leaf = ((found & np.uint64(PS)) != 0) & large
        going[rows] = ((found & np.uint64(P)) != 0) & ~leaf
        table = entry[:, level] & np.uint64(ADDRESS_FIELD)
    return Path(entry, end)


@dataclass(frozen=True)
class Rare:
    """A bug that shows where `shows(path, context, accesses, outcomes)`; `wrong` columns there."""

    name: str
    shows: Callable
    wrong: Callable

    def predict(self, memory, context, accesses):
        outcomes = translate_many(memory, context, accesses)
        path = path_of(memory, context, accesses.va)
        rows = self.shows(path, context, accesses, outcomes)
        changed = self.wrong(outcomes, accesses)
        return replace(
            outcomes,
            **{
                name: np.where(
                    rows if column.ndim == 1 else rows[:, None], column, getattr(outcomes, name)
                )
                for name, column in changed.items()
            },
        )


def refused(code):
    """The access is refused, with these bits beside the cause."""

    def wrong(outcomes, accesses):
        cause = np.where(accesses.type == AccessType.WRITE, 2, 0) | np.where(
            accesses.cpl == 3, 4, 0
        )
        return {
            "kind": np.full_like(outcomes.kind, Kind.PAGE_FAULT),
            "pa": np.zeros_like(outcomes.pa),
            "error_code": (cause | code).astype(np.uint16),
            "cr2": accesses.va,
            "entry_pa": np.zeros_like(outcomes.entry_pa),
            "entry_value": np.zeros_like(outcomes.entry_value),
        }

    return wrong


def elsewhere(bit):
    """The access is let through to an address with this bit changed."""
    return lambda outcomes, accesses: {"pa": outcomes.pa ^ np.uint64(bit)}


def coded(bit):
    """The error code has this bit the other way round."""
    return lambda outcomes, accesses: {"error_code": outcomes.error_code ^ np.uint16(bit)}


def unmarked(outcomes, accesses):
    """No A or D is set."""
    return {
        "entry_pa": np.zeros_like(outcomes.entry_pa),
        "entry_value": np.zeros_like(outcomes.entry_value),
    }


def ok(outcomes):
    return outcomes.kind == Kind.OK


def denied(outcomes):
    code = outcomes.error_code
    return (outcomes.kind == Kind.PAGE_FAULT) & ((code & 9) == 1)


def _named(name):
    every = [
        *GUEST,
        *FIVE_LEVELS,
        *(bug for _, bug in ELSEWHERE),
    ]
    (found,) = [bug for bug in every if bug.name == name]
    return found


OBVIOUS = [
    _named(name)
    for name in (
        "R/W of a PTE ignored",
        "U/S not inherited",
        "XD not inherited",
        "WP ignored",
        "SMAP ignored",
        "PS at 1 GiB ignored",
        "A not set",
        "canonical not checked",
        "offset in a 2-MiB page lost",
        "low address bits of a large page not reserved",
        "write-disable ignored",
        "XD not reserved with NXE clear",
    )
]
"""Bugs of one bit, one level or one switch."""

RARE = [
    Rare(
        "a read is refused below a PML4E with XD and a PDPTE with PCD",
        lambda path, context, rows, out: (
            ok(out) & path.has(4, XD) & path.has(3, PCD) & (rows.type == AccessType.READ)
        ),
        refused(1),
    ),
    Rare(
        "SMEP forgotten for 2-MiB pages with G below a PML4E with PWT",
        lambda path, context, rows, out: (
            denied(out)
            & context.smep
            & (rows.type == AccessType.EXECUTE)
            & (path.end == 2)
            & path.leaf(G)
            & path.has(4, PWT)
        ),
        coded(ErrorCode.ID),
    ),
    Rare(
        "PAT of a 1-GiB page moves it where the key isn't 0",
        lambda path, context, rows, out: (
            ok(out) & (path.end == 3) & path.leaf(PAT_LARGE) & path.leaf(KEY)
        ),
        elsewhere(1 << 12),
    ),
    Rare(
        "a clean page is refused to a store of the supervisor with WP clear below a PDE with PCD",
        lambda path, context, rows, out: (
            ok(out)
            & (not context.wp)
            & (rows.type == AccessType.WRITE)
            & (rows.cpl == 0)
            & (path.end == 1)
            & ~path.leaf(D)
            & path.has(2, PCD)
            & ~path.leaf(RW)
        ),
        refused(1),
    ),
    Rare(
        "A stays clear in all where that of the PML4E is set and the leaf is dirty",
        lambda path, context, rows, out: (
            ok(out) & path.has(4, A) & path.leaf(D) & ~path.leaf(A) & (rows.cpl == 3)
        ),
        unmarked,
    ),
    Rare(
        "PK is said of a page that two levels deny as well",
        lambda path, context, rows, out: (
            denied(out)
            & context.pke
            & (rows.type == AccessType.WRITE)
            & ~path.has(4, RW)
            & ~path.has(3, RW)
            & path.leaf(KEY)
        ),
        coded(ErrorCode.PK),
    ),
    Rare(
        "SMAP looks at AC only where the PDPTE is writable",
        lambda path, context, rows, out: (
            ok(out)
            & context.smap
            & rows.ac
            & (rows.cpl == 0)
            & (rows.type == AccessType.READ)
            & path.leaf(US)
            & path.has(3, US)
            & ~path.has(3, RW)
            & path.has(4, US)
        ),
        refused(1),
    ),
    Rare(
        "with five levels a PML5E with G and PCD leads to a page read-only for all",
        lambda path, context, rows, out: (
            ok(out)
            & (context.levels == 5)
            & path.has(5, G)
            & path.has(5, PCD)
            & (rows.type == AccessType.WRITE)
        ),
        refused(1),
    ),
    Rare(
        "the last page of the upper half is off by a page",
        lambda path, context, rows, out: ok(out) & (rows.va >= np.uint64((1 << 64) - 4096)),
        elsewhere(1 << 12),
    ),
    Rare(
        "key 15 isn't looked at for stores below a PDE with bit 9",
        lambda path, context, rows, out: (
            denied(out)
            & context.pke
            & ((out.error_code & ErrorCode.PK) != 0)
            & (rows.type == AccessType.WRITE)
            & (path.end == 1)
            & path.has(2, 1 << 9)
            & (path.entry[:, 1] & np.uint64(KEY) == np.uint64(KEY))
        ),
        coded(ErrorCode.PK),
    ),
    Rare(
        "bit 51 of a PDE isn't reserved below a PML4E with PWT and a PDPTE with bit 11",
        lambda path, context, rows, out: (
            (out.kind == Kind.PAGE_FAULT)
            & ((out.error_code & ErrorCode.RSVD) != 0)
            & path.has(2, 1 << 51)
            & path.has(4, PWT)
            & path.has(3, 1 << 11)
        ),
        coded(ErrorCode.RSVD),
    ),
    Rare(
        "with WP, SMEP and SMAP clear, XD of a PDPTE and U/S of a PDE take P from a fetch's fault",
        lambda path, context, rows, out: (
            denied(out)
            & (not context.wp)
            & (not context.smep)
            & (not context.smap)
            & (rows.type == AccessType.EXECUTE)
            & path.has(3, XD)
            & ~path.has(2, US)
        ),
        coded(ErrorCode.P),
    ),
]
"""Bugs that need particular bits on two levels, and mostly a control bit too."""

HUNTED = [*OBVIOUS, *RARE]
