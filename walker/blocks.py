"""Blocks of tables, and the entries that they hold, as columns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.bulk import addresses_4mib, grants_of
from crosswalk.walker.columns import Index, Rows
from crosswalk.walker.entry import LEVELS, SHIFT_4MIB, Entry, Level, address_bits
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import ALL_GRANTS, rights_table
from crosswalk.walker.second_level import SecondLevelTable, TableContext, present_bits
from crosswalk.walker.tables import Entries, read_tables

__all__ = [
    "BLOCK",
    "LEVEL_OF_SHIFT",
    "Leaves",
    "Tables",
    "clip",
    "granted",
    "interleave",
    "present_entries",
    "without_reserved",
]

BLOCK = 512
"""How many tables are read at once: 2 MiB of words."""

# Runs shorter than this on average are merged quicker by sorting than piece by piece.
_RUN = 128


@dataclass(frozen=True, slots=True)
class Leaves(Rows):
    """n entries that map pages, or (from `malformed_entries`) that map nothing.

    `va` uint64[n], canonical; `entry` uint64[n], the raw entries; `grant` uint8[n], the `Grant`
    bits of all levels together; `shift` uint8[n]: each spans 1 << shift bytes. Everything else
    is derived: no two formats have a shift in common that they give another meaning. `mask` is
    the encryption mask, the same for all: bits of the address field that are flags instead.
    """

    va: U64
    entry: U64
    grant: NDArray[np.uint8]
    shift: NDArray[np.uint8]
    mask: int = 0

    @classmethod
    def none(cls) -> "Leaves":
        """Return no rows."""
        words, bits = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
        return cls(words, words, bits, bits)

    def take(self, rows: Index) -> Self:
        """Return the chosen rows."""
        columns = self.va[rows], self.entry[rows], self.grant[rows], self.shift[rows]
        return type(self)(*columns, self.mask)

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """Return the rows of all parts of one walk, one after the other; at least one part."""
        parts = list(parts)
        return cls(
            np.concatenate([part.va for part in parts]),
            np.concatenate([part.entry for part in parts]),
            np.concatenate([part.grant for part in parts]),
            np.concatenate([part.shift for part in parts]),
            max(part.mask for part in parts),
        )

    def __len__(self) -> int:
        return len(self.va)

    @property
    def level(self) -> NDArray[np.uint8]:
        """The level of each, uint8[n] (1 is a PTE)."""
        return LEVEL_OF_SHIFT.take(self.shift)

    @property
    def size(self) -> U64:
        """The bytes that each maps, uint64[n]; read-only where all are of one level."""
        return np.broadcast_to(self._by_shift(_SPANS), self.va.shape)

    @property
    def pa(self) -> U64:
        """The physical address of each page, uint64[n]."""
        field = self._by_shift(_ADDRESSES)
        found = self.entry & (field & ~np.uint64(self.mask))
        large = self.shift[: len(field)] == SHIFT_4MIB
        if large.any():  # All of them are, if one field does for all.
            return np.where(large, addresses_4mib(self.entry), found)
        return found

    @property
    def flags(self) -> U64:
        """The bits of each leaf outside its address field, uint64[n]."""
        return self.entry & (self._by_shift(~_ADDRESSES) | np.uint64(self.mask))

    def rights(self, context: TableContext) -> NDArray[np.uint8]:
        """Return the effective `Rights` of each under a context, uint8[n]."""
        return rights_table(context).take(self.grant)

    def _by_shift(self, values: U64) -> U64:
        """Return the value for each row's shift, or just one if there is only one shift."""
        shift = self.shift
        if len(shift) and shift.min() == shift.max():
            return values[shift[:1]]
        return values.take(shift)


_SHIFTS = {level.shift: level.number for level in LEVELS.values()} | {SHIFT_4MIB: 2}
LEVEL_OF_SHIFT = np.array([_SHIFTS.get(shift, 0) for shift in range(64)], np.uint8)
"""The level of a leaf that spans 1 << shift bytes, by shift; 0 where none does."""
_SPANS = np.uint64(1) << np.arange(64, dtype=np.uint64)
_ADDRESSES = np.array([address_bits(shift) for shift in range(64)], np.uint64)


@dataclass(frozen=True, slots=True)
class Tables(Rows):
    """n tables of one level: va of the first byte, frame, inherited grants."""

    va: U64
    frame: U64
    grant: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frame)


def present_entries(memory: PhysicalMemory, level: Level, tables: Tables, mask: int = 0) -> Leaves:
    """Return the present entries of tables of one level, in order: pages, tables and unlawful.

    The tables are in address order and do not overlap. `grant` counts the inherited ones; `mask`
    is the encryption mask.
    """
    words = read_tables(memory, level, tables.frame)
    shift = np.uint64(level.shift)
    if _all_present(words):
        entry = words.flatten()  # A copy: the memory may change, and the columns are to stay.
        entry = entry.astype(np.uint64, copy=False)
        va = tables.va[:, None] + (np.arange(level.entries, dtype=np.uint64) << shift)
        grant = granted(level, entry)
        grant.reshape(words.shape)[:] &= tables.grant[:, None]
        shifts = np.full(len(entry), level.shift, np.uint8)
        return Leaves(va.reshape(-1), entry, grant, shifts, mask)

    flat = words.reshape(-1)
    at = np.flatnonzero(_present(level, flat))
    entry = flat.take(at).astype(np.uint64, copy=False)
    grant = granted(level, entry)
    # Where the walk is at entry `entries` * t, it is at the first byte of table t.
    inherited = tables.grant[:1]
    if _consecutive(tables, level) and (tables.grant == inherited).all():
        offset = tables.va[:1]
    else:
        starts = np.arange(len(tables) + 1, dtype=np.intp) * level.entries
        each = np.diff(np.searchsorted(at, starts))
        offset = np.repeat(tables.va - (starts[:-1].view(np.uint64) << shift), each)
        inherited = np.repeat(tables.grant, each)
    grant &= inherited
    va = at.view(np.uint64)
    va <<= shift
    va += offset
    return Leaves(va, entry, grant, np.full(len(va), level.shift, np.uint8), mask)


def _present(level: Level, words: Entries) -> NDArray[np.bool_]:
    """Return which of these entries of one level are present, bool[n]."""
    present = present_bits(level)
    if present >> 8:
        found: NDArray[np.bool_] = (words & words.dtype.type(present)) != 0
        return found
    # Only the low byte of each entry is looked at; of one bit it becomes 0 or 1.
    low = words.view(np.uint8)[:: level.entry_size].copy()
    low &= np.uint8(present)
    return low.view(np.bool_) if present == 1 else low != 0


def granted(level: Level, entry: U64) -> NDArray[np.uint8]:
    """Return what each of these present entries of one level grants, uint8[n]."""
    if isinstance(level, SecondLevelTable):
        return level.grants(entry)
    if level.restricts:
        return grants_of(entry)
    return np.full(len(entry), ALL_GRANTS, np.uint8)


def _consecutive(tables: Tables, level: Level) -> bool:
    # Tables that do not overlap and end where they would without a gap have none.
    whole = len(tables) - 1 << level.shift + level.index_bits
    return int(tables.va[-1]) - int(tables.va[0]) == whole


def _all_present(words: Entries) -> bool:
    # The first table answers for most blocks, at next to no cost. An entry of any format that has
    # this bit is present.
    present = words.dtype.type(Entry.P)
    return bool(
        np.bitwise_and.reduce(words[0]) & present
        and np.bitwise_and.reduce(words.reshape(-1)) & present
    )


def without_reserved(rows: Leaves, reserved: np.uint64) -> Leaves:
    """Return those of these present entries that set none of the reserved bits."""
    if not np.bitwise_or.reduce(rows.entry) & reserved:
        return rows
    return rows.take(np.flatnonzero((rows.entry & reserved) == 0))


def clip(rows: Leaves, level: Level, start: int, end: int) -> Leaves:
    """Return those of these entries of one level, in address order, that touch [start, end)."""
    before = max(start - level.span, -1)
    first = np.searchsorted(rows.va, np.uint64(before), "right") if before >= 0 else 0
    last = np.searchsorted(rows.va, np.uint64(max(end, 0))) if end < 1 << 64 else len(rows)
    return rows.take(slice(int(first), int(last)))


def interleave(leaves: Leaves, below: Iterator[Leaves]) -> Iterator[Leaves]:
    """Yield the blocks of `below` with large leaves put in where their addresses belong."""
    done = 0
    for block in below:
        until, through = np.searchsorted(leaves.va, block.va[[0, -1]])
        if until > done:
            yield leaves.take(slice(done, until))
        if through > until:
            yield _merge(block, leaves.take(slice(until, through)))
        else:
            yield block
        done = max(done, int(through))
    if done < len(leaves):
        yield leaves.take(slice(done, len(leaves)))


def _merge(many: Leaves, few: Leaves) -> Leaves:
    """Return the rows of both, each in address order, in address order."""
    places = np.searchsorted(many.va, few.va)
    runs = places[np.flatnonzero(np.diff(places, prepend=-1))]
    if len(runs) * _RUN > len(many):
        both = Leaves.join([few, many])
        return both.take(np.argsort(both.va, kind="stable"))
    count = len(many) + len(few)
    va, entry = np.empty(count, np.uint64), np.empty(count, np.uint64)
    grant, shift = np.empty(count, np.uint8), np.empty(count, np.uint8)
    # The rows between two places move as one piece, by as many as were put in before.
    cuts = [0, *runs.tolist(), len(many)]
    steps = [0, *np.searchsorted(places, runs, "right").tolist()]
    for first, last, step in zip(cuts, cuts[1:], steps, strict=False):
        piece, there = slice(first, last), slice(first + step, last + step)
        va[there], entry[there] = many.va[piece], many.entry[piece]
        grant[there], shift[there] = many.grant[piece], many.shift[piece]
    places += np.arange(len(few))
    va[places], entry[places], grant[places], shift[places] = (
        few.va,
        few.entry,
        few.grant,
        few.shift,
    )
    return Leaves(va, entry, grant, shift, max(many.mask, few.mask))
