"""The walk as objects: mappings, the callback walk of the Heki series, and ranges."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import TOP, walk_leaves
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.ranges import IGNORED, Pages, Range, fold
from crosswalk.walker.rights import Rights, rights_table

__all__ = ["HekiArgs", "Mapping", "Range", "coalesce", "heki_walk", "mappings"]

Args = TypeVar("Args", bound="HekiArgs")

_AHEAD = 1024


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
    # One object for each set of rights: making one anew costs more than all else here.
    rights = [Rights(bits) for bits in rights_table(context).tolist()]
    for block in walk_leaves(memory, context, start, end):
        columns = (block.va, block.pa, block.size, block.level, block.flags, block.grant)
        for va, pa, size, level, flags, grant in zip(*(c.tolist() for c in columns), strict=True):
            yield Mapping(va, pa, size, level, flags, rights[grant])


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


def coalesce(pages: Iterable[Mapping], *, ignore: int = IGNORED) -> Iterator[Range]:
    """Yield the mappings, given in address order, folded into ranges.

    By the rule of `coalesce_leaves`. Reads ahead up to so many mappings: 1024.
    """
    for ranges in fold(_columns(iter(pages)), ignore):
        yield from ranges


def _columns(pages: Iterator[Mapping]) -> Iterator[Pages]:
    while some := list(islice(pages, _AHEAD)):
        yield Pages(
            np.array([page.va for page in some], np.uint64),
            np.array([page.pa for page in some], np.uint64),
            np.array([page.size for page in some], np.uint64),
            np.array([page.flags for page in some], np.uint64),
            np.array([page.rights for page in some], np.uint8),
            np.array([page.size.bit_length() - 1 for page in some], np.uint8),
        )
