"""Ranges: mappings in a row as one; and those of one page at equal distances."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows
from crosswalk.walker.memory import U64
from crosswalk.walker.rights import Rights

__all__ = ["Folding", "Range", "Ranges", "repeats_folded"]

_REPEATS = 3
"""How many mappings of one page are a range: two may fold with their neighbours instead."""


@dataclass(frozen=True, slots=True)
class Range:
    """`count` mappings in a row: contiguous in va and pa, equal in rights and flags.

    With a `stride` they all map the one page at pa instead, every so many bytes of va; `size` is
    that from the first to the last, with what lies between.
    """

    va: int
    pa: int
    size: int
    flags: int
    rights: Rights
    count: int
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Ranges(Rows):
    """n ranges: `va`, `pa`, `size` (bytes), `flags`, `count` uint64[n], `rights` uint8[n].

    `flags` are those of the first page, and `shift` uint8[n] its size, 1 << shift bytes.
    `stride` uint64[n]: all pages of the range map the one at `pa`, every so many bytes of `va`; 0
    where `pa` goes on with `va`.
    """

    va: U64
    pa: U64
    size: U64
    flags: U64
    rights: NDArray[np.uint8]
    count: U64
    shift: NDArray[np.uint8]
    stride: U64

    def __len__(self) -> int:
        return len(self.va)

    def __iter__(self) -> Iterator[Range]:
        """Yield each as a `Range`."""
        columns = (self.va, self.pa, self.size, self.flags, self.rights, self.count, self.stride)
        for va, pa, size, flags, rights, count, stride in zip(
            *(c.tolist() for c in columns), strict=True
        ):
            yield Range(va, pa, size, flags, _RIGHTS[rights], count, stride)


_RIGHTS = [Rights(bits) for bits in range(64)]


@dataclass(frozen=True, slots=True)
class Folding(Ranges):
    """Ranges with what they are compared by: their flags as `key`, uint64[n], and `kind`.

    That has rights as well: a number for each, of any size.
    """

    key: U64
    kind: NDArray[np.unsignedinteger[Any]]


def _alike(one: Folding, other: Folding) -> NDArray[np.bool_]:
    """Return which rows are equal in what the pages of a range have to have in common, bool[n]."""
    found: NDArray[np.bool_] = one.key == other.key
    found &= one.kind == other.kind
    return found


def repeats_folded(blocks: Iterable[Folding]) -> Iterator[Folding]:
    """Yield mappings, block by block, with those of one page at equal distances as one row.

    Three or more of them, one after the other. A mapping that could be the last of one such row and
    the first of another is the last of one. Rows that have a stride already are of `Runs`.
    """
    held: Folding | None = None
    for part in (part for block in blocks for part in _parts(block)):
        rows = part
        if held is not None and held.stride[-1]:
            more = _continuing(held, rows)
            held = _longer(held, rows.take(slice(more)))
            rows = rows.take(slice(more, None))
            if not len(rows):
                continue
            yield held
        elif held is not None and rows.stride[0]:
            yield held
        elif held is not None:
            rows = Folding.join([held, rows])
        done, held = (rows.take(slice(0)), rows) if rows.stride[0] else _folded(rows)
        if len(done):
            yield done
    if held is not None:
        yield held


def _parts(block: Folding) -> Iterator[Folding]:
    """Yield the rows of a block: single mappings together, each run by itself."""
    if not block.stride.any():
        yield block
        return
    end, following = block.take(slice(-1)), block.take(slice(1, None))
    apart = ~_alike(end, following) | (following.pa != end.pa) | (following.stride != end.stride)
    apart |= (following.va != end.va + end.size) | (end.stride == 0)
    first = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(apart) + 1])
    size, count = np.add.reduceat(block.size, first), np.add.reduceat(block.count, first)
    rows = replace(block.take(first), size=size, count=count)
    done = 0
    for at in np.flatnonzero(rows.stride).tolist():
        if at > done:
            yield rows.take(slice(done, at))
        yield rows.take(slice(at, at + 1))
        done = at + 1
    if done < len(rows):
        yield rows.take(slice(done, None))


def _continuing(run: Folding, rows: Folding) -> int:
    """Return how many rows, from the first, go on from a run."""
    page = np.uint64(1) << run.shift.astype(np.uint64)
    steps = np.arange(1, len(rows) + 1, dtype=np.uint64) * run.stride
    goes_on = _alike(run, rows) & (rows.pa == run.pa) & (rows.shift == run.shift)
    goes_on &= rows.va == run.va + (run.size - page) + steps
    goes_on &= (rows.stride == 0) | (rows.stride == run.stride)
    apart = np.flatnonzero(~goes_on)
    return int(apart[0]) if len(apart) else len(rows)


def _longer(run: Folding, rows: Folding) -> Folding:
    """Return a run with the mappings of rows that go on from it."""
    more = rows.count.sum(dtype=np.uint64)
    return replace(run, size=run.size + more * run.stride, count=run.count + more)


def _folded(rows: Folding) -> tuple[Folding, Folding]:
    """Return single mappings folded: what is done, and what may go on behind."""
    end, following = rows.take(slice(-1)), rows.take(slice(1, None))
    same = (following.pa == end.pa) & (following.shift == end.shift)
    if not same.any():
        return rows.take(slice(-1)), rows.take(slice(-1, None))
    same &= _alike(end, following)
    step = following.va - end.va
    # Two neighbours are a pair; pairs with one step are a segment.
    goes_on = np.zeros(len(same), np.bool_)
    goes_on[1:] = same[1:] & same[:-1] & (step[1:] == step[:-1])
    begins = np.flatnonzero(~goes_on)
    pairs = np.diff(np.append(begins, len(same)))
    begins, pairs = begins[same[begins]], pairs[same[begins]]
    if not len(begins):
        return rows.take(slice(-1)), rows.take(slice(-1, None))
    merged, first = _segments(begins, pairs)
    count = begins + pairs + 1 - first

    at, many = first[merged], count[merged].astype(np.uint64)
    inner = np.zeros(len(rows) + 1, np.int8)
    inner[at + 1] += 1
    inner[at + count[merged]] -= 1
    kept = np.flatnonzero(np.cumsum(inner[:-1]) == 0)
    columns = {name: getattr(rows, name).copy() for name in ("size", "count", "stride")}
    columns["stride"][at] = step[begins[merged]]
    columns["size"][at] += (many - np.uint64(1)) * step[begins[merged]]
    columns["count"][at] = many
    found = replace(rows, **columns).take(kept)
    last = 1 if merged[-1] or not same[-1] else int(count[-1])
    return found.take(slice(-last)), found.take(slice(-last, None))


def _segments(
    begins: NDArray[np.intp], pairs: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return which segments are long enough to be a row, bool[n], and the first mapping of each.

    `begins` intp[n] is the first pair of each, `pairs` intp[n] how many pairs it has. A segment
    that begins with the last mapping of one before it, which is a row, has one mapping less. For
    one of two pairs that decides: where such follow each other, every other one is a row.
    """
    number = np.arange(len(begins))
    meets = np.zeros(len(begins), np.bool_)
    meets[1:] = begins[1:] == begins[:-1] + pairs[:-1]
    two = _REPEATS - 1
    decided = np.maximum.accumulate(np.where((pairs != two) | ~meets, number, 0))
    merged = (pairs[decided] >= two) ^ ((number - decided) % 2 == 1)
    first = begins.copy()
    first[1:] += meets[1:] & merged[:-1]
    return merged, first
