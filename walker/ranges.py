"""Pages folded into ranges, as columns: the one statement of when neighbours fold."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import Leaves
from crosswalk.walker.columns import Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.memory import U64
from crosswalk.walker.rights import Rights, rights_table

__all__ = ["IGNORED", "Pages", "Range", "Ranges", "coalesce_leaves", "fold"]

IGNORED = int(Entry.A | Entry.D)
"""The flags that two neighbours may differ in, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Range:
    """`count` mappings in a row: contiguous in va and pa, equal in rights and flags."""

    va: int
    pa: int
    size: int
    flags: int
    rights: Rights
    count: int


@dataclass(frozen=True, slots=True)
class Ranges(Rows):
    """n ranges: `va`, `pa`, `size` (bytes), `flags`, `count` uint64[n], `rights` uint8[n]."""

    va: U64
    pa: U64
    size: U64
    flags: U64
    rights: NDArray[np.uint8]
    count: U64

    def __len__(self) -> int:
        return len(self.va)

    def __iter__(self) -> Iterator[Range]:
        """Yield each as a `Range`."""
        columns = (self.va, self.pa, self.size, self.flags, self.rights, self.count)
        for va, pa, size, flags, rights, count in zip(*(c.tolist() for c in columns), strict=True):
            yield Range(va, pa, size, flags, _RIGHTS[rights], count)


_RIGHTS = [Rights(bits) for bits in range(64)]


@dataclass(frozen=True, slots=True)
class Pages(Rows):
    """n pages in address order, the columns that folding looks at, as `Leaves` has them."""

    va: U64
    pa: U64
    size: U64
    flags: U64
    rights: NDArray[np.uint8]
    shift: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.va)


@dataclass(frozen=True, slots=True)
class _Rows(Ranges):
    """Ranges with what they are compared by: their flags, those that count, in one place."""

    key: U64


def coalesce_leaves(
    blocks: Iterable[Leaves], context: PagingContext, *, ignore: int = IGNORED
) -> Iterator[Ranges]:
    """Yield the leaves, given in address order, folded into ranges, block by block.

    Neighbours fold where va and pa go on without a gap and rights and flags are equal, but
    for the flags in `ignore`. PS never counts, and PAT does wherever its size puts it, so that
    pages of different sizes fold. A range has the flags of its first page.
    """
    rights = rights_table(context)
    pages = (
        Pages(it.va, it.pa, it.size, it.flags, rights.take(it.grant), it.shift) for it in blocks
    )
    return fold(pages, ignore)


def fold(blocks: Iterable[Pages], ignore: int) -> Iterator[Ranges]:
    """Yield pages, given in address order, folded as `coalesce_leaves` says."""
    last: _Rows | None = None
    for block in blocks:
        if not len(block):
            continue
        ones = np.broadcast_to(np.uint64(1), block.va.shape)
        key = _key(block, ignore)
        found = _fold(_Rows(block.va, block.pa, block.size, block.flags, block.rights, ones, key))
        if last is not None:
            seam = _fold(_Rows.join([last, found.take(slice(1))]))
            found = _Rows.join([seam, found.take(slice(1, None))])
        if len(found) > 1:
            yield _public(found.take(slice(-1)))
        last = found.take(slice(-1, None))
    if last is not None:
        yield _public(last)


def _fold(rows: _Rows) -> _Rows:
    end, following = rows.take(slice(-1)), rows.take(slice(1, None))
    apart = following.va != end.va + end.size
    apart |= following.pa != end.pa + end.size
    apart |= following.key != end.key
    apart |= following.rights != end.rights
    first = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(apart) + 1])
    if len(first) == len(rows):
        return rows
    last = np.append(first[1:], len(rows)) - 1
    size = rows.va[last] - rows.va[first] + rows.size[last]
    count = np.add.reduceat(rows.count, first)
    return _Rows(
        rows.va[first],
        rows.pa[first],
        size,
        rows.flags[first],
        rows.rights[first],
        count,
        rows.key[first],
    )


def _key(block: Pages, ignore: int) -> U64:
    """Return the flags that count, with PAT at its place in large pages."""
    key = block.flags & np.uint64(~(ignore | Entry.PS) & (1 << 64) - 1)
    if not ignore & Entry.PS and np.bitwise_or.reduce(block.flags) & np.uint64(Entry.PS):
        pat = block.flags & np.where(
            block.shift == LEVELS[1].shift, np.uint64(Entry.PS), np.uint64(0)
        )
        key |= pat << np.uint64(5)
    return key


def _public(rows: _Rows) -> Ranges:
    return Ranges(rows.va, rows.pa, rows.size, rows.flags, rows.rights, rows.count)
