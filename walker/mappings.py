"""The walk as objects: mappings, the callback walk of the Heki series, and folded ranges."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.leaves import TOP, Leaves, walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.pages import Mapping, Pages, pages, pages_of
from crosswalk.walker.ranges import Folding, Range, Ranges, repeats_folded
from crosswalk.walker.repeats import Runs
from crosswalk.walker.rights import rights_table
from crosswalk.walker.second_level import TableContext
from crosswalk.walker.spaces import distinct_contexts

__all__ = [
    "IGNORED",
    "HekiArgs",
    "Kind",
    "Mapping",
    "Range",
    "Ranges",
    "RootedMapping",
    "coalesce",
    "coalesce_leaves",
    "coalesce_pages",
    "compared_flags",
    "heki_walk",
    "joined_kinds",
    "mappings",
]

Args = TypeVar("Args", bound="HekiArgs")

IGNORED = int(Entry.A | Entry.D)
"""The flags in which neighbours of one range may differ by default."""


@dataclass(frozen=True, slots=True)
class RootedMapping(Mapping):
    """A mapping of one of several address spaces: that of `context`.

    `roots` is the number of address spaces that have it by the same entry of their root tables,
    where it is named once for all of them.
    """

    context: TableContext
    roots: int = 1


@dataclass(slots=True)
class HekiArgs:
    """The argument of `heki_walk`'s callback; derive from it to carry more.

    The fields are those of the series' `struct heki_args`: linear and physical address and
    size in bytes of the part of the page that lies in the range asked for, and the raw flags
    of its leaf.
    """

    va: int = 0
    pa: int = 0
    size: int = 0
    flags: int = 0


@overload
def mappings(
    memory: PhysicalMemory, context: TableContext, start: int = 0, end: int = TOP
) -> Iterator[Mapping]: ...
@overload
def mappings(
    memory: PhysicalMemory, context: Sequence[PagingContext], start: int = 0, end: int = TOP
) -> Iterator[RootedMapping]: ...
def mappings(
    memory: PhysicalMemory,
    context: TableContext | Sequence[PagingContext],
    start: int = 0,
    end: int = TOP,
) -> Iterator[Mapping]:
    """Yield every mapping whose page touches [start, end), whole, in address order.

    Of several address spaces those of one after the other, in the order given, each root once. Of
    a hypervisor's tables (`crosswalk.walker.nested.EptTables`) `va` is guest-physical.
    """
    if isinstance(context, Sequence):
        for each in distinct_contexts(context):
            for it in mappings(memory, each, start, end):
                yield RootedMapping(it.va, it.pa, it.size, it.level, it.flags, it.rights, each)
        return
    for block in pages(memory, context, start, end):
        yield from block


def heki_walk(
    memory: PhysicalMemory,
    context: PagingContext,
    va: int,
    va_end: int,
    func: Callable[[Args], object],
    args: Args,
) -> None:
    """Call `func(args)` for each present leaf in [va, va_end), in address order.

    `args` has `va`, `pa`, `size` and `flags` set before each call. Of a page that begins
    before `va` or ends after `va_end` only the part inside is reported: `pa` moves on with
    `va`, `size` shrinks. `va_end` may be 2^64, so that the last page belongs to a range; the
    hole between the canonical halves has no leaves; an empty or inverted range has none
    either. With four levels there is no p4d level to walk.

    Source: the interface of `heki_walk()` in the Linux Heki RFC v2, patch 13.
    """
    for block in walk_leaves(memory, context, va, va_end):
        columns = (block.va, block.pa, block.size, block.flags)
        for page, pa, size, flags in zip(*(c.tolist() for c in columns), strict=True):
            first = max(page, va)
            args.va = first
            args.pa = pa + first - page
            args.size = min(page + size, va_end) - first
            args.flags = flags
            func(args)


Kind = Callable[[Pages], NDArray[np.uint8]]
"""Numbers the kinds of n pages: uint8[n]."""
AnyKind = Callable[[Pages], NDArray[np.unsignedinteger[Any]]]


def joined_kinds(one: Kind | None, other: Kind | None) -> Callable[[Pages], NDArray[np.uint16]]:
    """Return what numbers pages by two kinds, uint16[n]: alike where both are; None counts not."""

    def kinds(pages: Pages) -> NDArray[np.uint16]:
        found = np.zeros(len(pages), np.uint16)
        for each in (one, other):
            if each is not None:
                found = found << np.uint16(8) | each(pages)
        return found

    return kinds


def coalesce_leaves(
    blocks: Iterable[Leaves], context: PagingContext, *, ignore: int = IGNORED
) -> Iterator[Ranges]:
    """Yield the leaves, given in address order, folded into ranges, block by block.

    Neighbours fold where va and pa go on without a gap and rights and flags are equal, but
    for the flags in `ignore`. PS never counts, and PAT does wherever its size puts it, so that
    pages of different sizes fold. A range has the flags of its first page.
    """
    rights = rights_table(context)
    folding = (Pages(it.va, it.pa, it.flags, rights.take(it.grant), it.shift) for it in blocks)
    return coalesce_pages(folding, ignore=ignore)


def coalesce_pages(
    blocks: Iterable[Pages],
    *,
    ignore: int = IGNORED,
    kind: AnyKind | None = None,
    repeats: bool = False,
) -> Iterator[Ranges]:
    """Yield pages, given in address order, folded as `coalesce_leaves` says, block by block.

    With `kind` only pages of one kind. With `repeats` three or more mappings of one page, one after
    the other at equal distances, are a range, too; `blocks` may have `Runs` then.
    """
    every = (_rows(block, ignore, kind) for block in blocks if len(block))
    last: Folding | None = None
    for rows in repeats_folded(every) if repeats else every:
        found = _fold(rows, repeats=repeats)
        if last is not None:
            seam = _fold(Folding.join([last, found.take(slice(1))]), repeats=repeats)
            found = Folding.join([seam, found.take(slice(1, None))])
        if len(found) > 1:
            yield _public(found.take(slice(-1)))
        last = found.take(slice(-1, None))
    if last is not None:
        yield _public(last)


def _rows(block: Pages, ignore: int, kind: AnyKind | None) -> Folding:
    kinds: NDArray[np.unsignedinteger[Any]] = block.rights
    if kind is not None:
        kinds = kind(block).astype(np.uint32) << np.uint32(8) | kinds
    size = block.size
    if isinstance(block, Runs):
        count = block.count
        stride = np.where(count > 1, size, np.uint64(0))
        size = size * count
    else:
        count = np.broadcast_to(np.uint64(1), size.shape)
        stride = np.broadcast_to(np.uint64(0), size.shape)
    columns = (block.va, block.pa, size, block.flags, block.rights, count, block.shift, stride)
    return Folding(*columns, compared_flags(block, ignore), kinds)


def _fold(rows: Folding, *, repeats: bool) -> Folding:
    """Return rows with those folded that are contiguous; with `repeats` some may have a stride."""
    end, following = rows.take(slice(-1)), rows.take(slice(1, None))
    apart = following.va != end.va + end.size
    apart |= following.pa != end.pa + end.size
    apart |= following.key != end.key
    apart |= following.kind != end.kind
    if repeats:
        apart |= (following.stride | end.stride) != 0
    first = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(apart) + 1])
    if len(first) == len(rows):
        return rows
    last = np.append(first[1:], len(rows)) - 1
    size = rows.va[last] - rows.va[first] + rows.size[last]
    count = np.add.reduceat(rows.count, first)
    columns = (rows.va[first], rows.pa[first], size, rows.flags[first], rows.rights[first], count)
    stride = rows.stride[first] if repeats else rows.stride[: len(first)]
    return Folding(*columns, rows.shift[first], stride, rows.key[first], rows.kind[first])


def compared_flags(block: Pages, ignore: int = IGNORED) -> U64:
    """Return the flags that tell pages apart but for those in `ignore`, uint64[n].

    Without PS, and with PAT at its place in large pages, so that the size doesn't count.
    """
    key = block.flags & np.uint64(~(ignore | Entry.PS) & (1 << 64) - 1)
    if not ignore & Entry.PS and np.bitwise_or.reduce(block.flags) & np.uint64(Entry.PS):
        pat = block.flags & np.where(
            block.shift == LEVELS[1].shift, np.uint64(Entry.PS), np.uint64(0)
        )
        key |= pat << np.uint64(5)
    return key


def _public(rows: Folding) -> Ranges:
    columns = (rows.va, rows.pa, rows.size, rows.flags, rows.rights, rows.count, rows.shift)
    return Ranges(*columns, rows.stride)


def coalesce(
    listed: Iterable[Mapping], *, ignore: int = IGNORED, repeats: bool = False
) -> Iterator[Range]:
    """Yield the mappings, given in address order, folded into ranges.

    By the rule of `coalesce_leaves`, and with `repeats` by that of `coalesce_pages`. Reads ahead
    up to so many mappings: 1024.
    """
    for ranges in coalesce_pages(pages_of(listed), ignore=ignore, repeats=repeats):
        yield from ranges
