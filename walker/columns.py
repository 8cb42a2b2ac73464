"""Accesses and outcomes in bulk: one row each, as arrays."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.memory import U64
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.rights import Rights

__all__ = [
    "MAX_STEPS",
    "Accesses",
    "Index",
    "Kind",
    "Outcomes",
    "Rows",
    "among",
    "distinct",
    "merge_changes",
    "united_ranges",
]

MAX_STEPS = 5
"""The most entries that one translation uses."""

Index = NDArray[np.intp] | NDArray[np.bool_] | slice


class Kind(IntEnum):
    """The kind of an outcome, as a number for columns."""

    OK = 0
    PAGE_FAULT = 1
    GENERAL_PROTECTION = 2


class Rows:
    """Row operations for a dataclass whose fields are arrays of one length."""

    __slots__ = ()

    def take(self, rows: Index) -> Self:
        """Return the chosen rows."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))  # type: ignore[arg-type]  # only dataclasses derive from it

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """Return the rows of all parts, one after the other; at least one part is needed."""
        columns = zip(*([getattr(p, f.name) for f in fields(p)] for p in parts), strict=True)  # type: ignore[arg-type]  # only dataclasses derive from it
        return cls(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True, slots=True)
class Accesses(Rows):
    """n accesses: `va` uint64[n], `type` uint8[n], `cpl` uint8[n] (0 or 3), `ac` bool[n]."""

    va: U64
    type: NDArray[np.uint8]
    cpl: NDArray[np.uint8]
    ac: NDArray[np.bool_]

    @classmethod
    def of(cls, accesses: Iterable[Access], *, ac: bool = False) -> Self:
        """Return the columns of these accesses; `ac` stands in where one has None."""
        rows = list(accesses)
        return cls(
            np.array([row.va for row in rows], dtype=np.uint64),
            np.array([row.type for row in rows], dtype=np.uint8),
            np.array([row.cpl for row in rows], dtype=np.uint8),
            np.array([ac if row.ac is None else row.ac for row in rows], dtype=np.bool_),
        )

    @classmethod
    def product(cls, va: U64, *, ac: bool) -> Self:
        """Return all three types at both CPLs for each address: six rows an address."""
        types = np.tile(np.repeat(np.arange(3, dtype=np.uint8), 2), len(va))
        cpls = np.tile(np.array([0, 3], dtype=np.uint8), 3 * len(va))
        return cls(np.repeat(va, 6), types, cpls, np.full(6 * len(va), ac))

    def __len__(self) -> int:
        return len(self.va)

    def __getitem__(self, row: int) -> Access:
        """Return one row as an `Access`."""
        return Access(
            int(self.va[row]), AccessType(self.type[row]), int(self.cpl[row]), bool(self.ac[row])
        )


@dataclass(frozen=True, slots=True)
class Outcomes(Rows):
    """n outcomes.

    `kind` uint8[n] (`Kind`); `pa` uint64[n] (0 unless OK); `page_size` uint64[n] in bytes
    (0 where not known); `rights` uint8[n] (`Rights`; 0 where not known); `error_code`
    uint16[n] and `cr2` uint64[n] (0 unless a page fault); `entry_pa`, `entry_value`
    uint64[n, 5]: the changed words by address, distinct, in ascending order, zeros behind. Of a
    predicted fault, a word that holds two entries has a value for each choice.
    """

    kind: NDArray[np.uint8]
    pa: U64
    page_size: U64
    rights: NDArray[np.uint8]
    error_code: NDArray[np.uint16]
    cr2: U64
    entry_pa: U64
    entry_value: U64

    @classmethod
    def empty(cls, count: int) -> Self:
        """Return `count` rows of zeros."""
        return cls(
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint16),
            np.zeros(count, np.uint64),
            np.zeros((count, MAX_STEPS), np.uint64),
            np.zeros((count, MAX_STEPS), np.uint64),
        )

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, row: int) -> Outcome:
        """Return one row as an `Outcome`."""
        entries = tuple(
            (int(pa), int(value))
            for pa, value in zip(self.entry_pa[row], self.entry_value[row], strict=True)
            if value
        )
        kind = Kind(self.kind[row])
        if kind is Kind.OK:
            size = int(self.page_size[row]) or None
            rights = Rights(int(self.rights[row])) if size else None
            return Translation(int(self.pa[row]), size, rights, entries)
        if kind is Kind.PAGE_FAULT:
            return PageFault(int(self.error_code[row]), int(self.cr2[row]), entries)
        return GeneralProtection(entries)


def distinct(values: U64) -> U64:
    """Return the distinct values in ascending order, as `np.unique` does.

    By sorting: numpy's hash table takes ten times as long for a million addresses.
    """
    ordered = np.sort(values)
    fresh = np.ones(len(ordered), np.bool_)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]


def among(values: U64, some: U64) -> NDArray[np.bool_]:
    """Return which of these values are among some, which are in ascending order, bool[n]."""
    if not len(some):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(some, values), len(some) - 1)
    same: NDArray[np.bool_] = some[at] == values
    return same


def united_ranges(start: U64, end: U64) -> tuple[U64, U64]:
    """Return the union of ranges [start, end) in any order, ascending; what touches is one."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    fresh = np.ones(len(start), np.bool_)
    fresh[1:] = start[1:] > end[:-1]
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(start))[: len(first)] - 1
    return start[first], end[last]


def merge_changes(entry_pa: U64, before: U64, after: U64) -> tuple[U64, U64]:
    """Return (address, value) uint64[n, 5] of the words that changed, as `Outcomes` has them.

    The arguments are uint64[n, 5]: addresses of the words, their values before and after; an
    unused place has equal values. Where a row has an address twice (a recursive table, used by
    the same entry on two levels), the values add up.
    """
    changed_pa, changed_value = np.zeros_like(entry_pa), np.zeros_like(after)
    # Most accesses change nothing, and merging is expensive.
    rows = np.flatnonzero((before != after).any(axis=1))
    merged = _merge_rows(entry_pa[rows], before[rows], after[rows])
    changed_pa[rows], changed_value[rows] = merged
    return changed_pa, changed_value


def _merge_rows(entry_pa: U64, before: U64, after: U64) -> tuple[U64, U64]:
    value = after.copy()
    same = entry_pa[:, :, None] == entry_pa[:, None, :]
    used = before != after
    for at in range(MAX_STEPS):
        shared = np.where(same[:, at, :] & used, after, np.uint64(0))
        value[:, at] |= np.bitwise_or.reduce(shared, axis=1)
    earlier = np.tril(np.ones((MAX_STEPS, MAX_STEPS), np.bool_), -1)
    repeated = (same & earlier & used[:, None, :]).any(axis=2)
    keep = used & ~repeated
    pa = np.where(keep, entry_pa, np.uint64(np.iinfo(np.uint64).max))
    order = np.argsort(pa, axis=1, kind="stable")
    keep = np.take_along_axis(keep, order, 1)
    zero = np.uint64(0)
    return (
        np.where(keep, np.take_along_axis(entry_pa, order, 1), zero),
        np.where(keep, np.take_along_axis(value, order, 1), zero),
    )
