"""The walk as objects: mappings, the callback walk of the Heki series, and ranges."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from walker.context import PagingContext
from walker.entry import Entry
from walker.leaves import TOP, walk_leaves
from walker.memory import PhysicalMemory
from walker.rights import Rights

__all__ = ["HekiArgs", "Mapping", "Range", "coalesce", "heki_walk", "mappings"]

Args = TypeVar("Args", bound="HekiArgs")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One leaf: `size` bytes from `va` are those from `pa`.

    `level` is 1 for a PTE, 2 for a PDE, 3 for a PDPTE; `flags` are the leaf's bits outside its
    address field; `rights` are the effective ones.
    """

    va: int
    pa: int
    size: int
    level: int
    flags: int
    rights: Rights


@dataclass(frozen=True, slots=True)
class Range:
    """`count` mappings in a row: contiguous in va and pa, equal in rights and flags."""

    va: int
    pa: int
    size: int
    flags: int
    rights: Rights
    count: int


@dataclass(slots=True)
class HekiArgs:
    """What `heki_walk` tells its callback; derive from it to carry more.

    The fields are those of the series' `struct heki_args`: linear and physical address and
    size in bytes of the part of the page that lies in the range asked for, and the raw flags
    of its leaf.
    """

    va: int = 0
    pa: int = 0
    size: int = 0
    flags: int = 0


def mappings(
    memory: PhysicalMemory, context: PagingContext, start: int = 0, end: int = TOP
) -> Iterator[Mapping]:
    """Yield every mapping whose page touches [start, end), whole, in address order."""
    for block in walk_leaves(memory, context, start, end):
        columns = (
            block.va,
            block.pa,
            block.size,
            block.level,
            block.flags,
            block.rights(context),
        )
        for va, pa, size, level, flags, rights in zip(*(c.tolist() for c in columns), strict=True):
            yield Mapping(va, pa, size, level, flags, Rights(rights))


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


def coalesce(pages: Iterable[Mapping], *, ignore: int = int(Entry.A | Entry.D)) -> Iterator[Range]:
    """Yield the mappings, given in address order, folded into ranges.

    Neighbours fold where va and pa go on without a gap and rights and flags are equal, but
    for the flags in `ignore`; PS never counts, so that pages of different sizes fold. The
    range has the flags of its first page.
    """
    ignore |= Entry.PS
    current: Range | None = None
    for page in pages:
        if (
            current is not None
            and page.va == current.va + current.size
            and page.pa == current.pa + current.size
            and page.rights == current.rights
            and not (page.flags ^ current.flags) & ~ignore
        ):
            current = Range(
                current.va,
                current.pa,
                current.size + page.size,
                current.flags,
                current.rights,
                current.count + 1,
            )
            continue
        if current is not None:
            yield current
        current = Range(page.va, page.pa, page.size, page.flags, page.rights, 1)
    if current is not None:
        yield current
