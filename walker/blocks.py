"""Blocks of tables, and the entries that they hold, as columns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from walker.bulk import grants_of
from walker.columns import Rows
from walker.context import PagingContext
from walker.entry import ADDRESS_FIELD, LEVELS, Entry
from walker.memory import U64, WORDS, PhysicalMemory
from walker.rights import rights_table

__all__ = ["BLOCK", "Leaves", "Tables", "clip", "interleave", "lawful", "present_entries"]

BLOCK = 512
"""How many tables are read at once: 2 MiB of words."""

# Runs shorter than this on average are merged quicker by sorting than piece by piece.
_RUN = 128


@dataclass(frozen=True, slots=True)
class Leaves(Rows):
    """n entries that map pages, or (from `blocked_entries`) that map nothing.

    `va` uint64[n], canonical; `entry` uint64[n], the raw words; `grant` uint8[n], the `Grant`
    bits of all levels together; `level` uint8[n] (1 is a PTE). Everything else is derived.
    """

    va: U64
    entry: U64
    grant: NDArray[np.uint8]
    level: NDArray[np.uint8]

    @classmethod
    def none(cls) -> "Leaves":
        """Return no rows."""
        words, bits = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
        return cls(words, words, bits, bits)

    def __len__(self) -> int:
        return len(self.va)

    @property
    def size(self) -> U64:
        """The bytes that each maps, uint64[n]; read-only where all are of one level."""
        return np.broadcast_to(self._by_level(_SPANS), self.va.shape)

    @property
    def pa(self) -> U64:
        """The physical address of each page, uint64[n]."""
        return self.entry & self._by_level(_ADDRESSES)

    @property
    def flags(self) -> U64:
        """The bits of each leaf outside its address field, uint64[n]."""
        return self.entry & self._by_level(~_ADDRESSES)

    def rights(self, context: PagingContext) -> NDArray[np.uint8]:
        """Return the effective `Rights` of each under a context, uint8[n]."""
        return rights_table(context).take(self.grant)

    def _by_level(self, values: U64) -> U64:
        """Return the value for each row's level, or just one if there is only one level."""
        level = self.level
        if len(level) and level.min() == level.max():
            return values[level[:1]]
        return values.take(level)


_SPANS = np.array([1, *(LEVELS[number].span for number in sorted(LEVELS))], np.uint64)
_ADDRESSES = np.uint64(ADDRESS_FIELD) & ~(_SPANS - np.uint64(1))


@dataclass(frozen=True, slots=True)
class Tables(Rows):
    """n tables of one level: va of the first byte, frame, inherited grants."""

    va: U64
    frame: U64
    grant: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frame)


def present_entries(memory: PhysicalMemory, level: int, tables: Tables) -> Leaves:
    """Return the present entries of tables of one level, in order: pages, tables and unlawful.

    The tables are in address order and do not overlap. `grant` counts the inherited ones.
    """
    words = memory.tables(tables.frame)
    shift = np.uint64(LEVELS[level].shift)
    if _all_present(words):
        entry = words.flatten()  # A copy: the memory may change, and the columns are to stay.
        va = (tables.va[:, None] + (np.arange(WORDS, dtype=np.uint64) << shift)).reshape(-1)
        grant = grants_of(entry)
        grant.reshape(words.shape)[:] &= tables.grant[:, None]
        return Leaves(va, entry, grant, np.full(len(va), level, np.uint8))

    flat = words.reshape(-1)
    # Only the low byte of each word is looked at, and becomes 0 or 1.
    low = flat.view(np.uint8)[::8].copy()
    low &= np.uint8(Entry.P)
    at = np.flatnonzero(low.view(np.bool_))
    entry = flat.take(at)
    grant = grants_of(entry)
    # Where the walk is at word 512 * t, it is at the first byte of table t.
    inherited = tables.grant[:1]
    if _consecutive(tables, shift) and (tables.grant == inherited).all():
        offset = tables.va[:1]
    else:
        starts = np.arange(len(tables) + 1, dtype=np.intp) * WORDS
        each = np.diff(np.searchsorted(at, starts))
        offset = np.repeat(tables.va - (starts[:-1].view(np.uint64) << shift), each)
        inherited = np.repeat(tables.grant, each)
    grant &= inherited
    va = at.view(np.uint64)
    va <<= shift
    va += offset
    return Leaves(va, entry, grant, np.full(len(va), level, np.uint8))


def _consecutive(tables: Tables, shift: np.uint64) -> bool:
    # Tables that do not overlap and end where they would without a gap have none.
    whole = len(tables) - 1 << int(shift) + 9
    return int(tables.va[-1]) - int(tables.va[0]) == whole


def _all_present(words: U64) -> bool:
    # The first table answers for most blocks, at next to no cost.
    present = np.uint64(Entry.P)
    return bool(
        np.bitwise_and.reduce(words[0]) & present
        and np.bitwise_and.reduce(words.reshape(-1)) & present
    )


def lawful(rows: Leaves, reserved: np.uint64) -> Leaves:
    """Return those of these present entries that set none of the reserved bits."""
    if not np.bitwise_or.reduce(rows.entry) & reserved:
        return rows
    return rows.take(np.flatnonzero((rows.entry & reserved) == 0))


def clip(rows: Leaves, level: int, start: int, end: int) -> Leaves:
    """Return those of these entries of one level, in address order, that touch [start, end)."""
    before = max(start - LEVELS[level].span, -1)
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
    grant, level = np.empty(count, np.uint8), np.empty(count, np.uint8)
    # The rows between two places move as one piece, by as many as were put in before.
    cuts = [0, *runs.tolist(), len(many)]
    shifts = [0, *np.searchsorted(places, runs, "right").tolist()]
    for first, last, shift in zip(cuts, cuts[1:], shifts, strict=False):
        piece, there = slice(first, last), slice(first + shift, last + shift)
        va[there], entry[there] = many.va[piece], many.entry[piece]
        grant[there], level[there] = many.grant[piece], many.level[piece]
    places += np.arange(len(few))
    va[places], entry[places], grant[places], level[places] = (
        few.va,
        few.entry,
        few.grant,
        few.level,
    )
    return Leaves(va, entry, grant, level)
