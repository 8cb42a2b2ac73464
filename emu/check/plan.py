"""Which accesses put an address space to the proof."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.selection import PLACES, Lister, Place, Reader, Targets
from crosswalk.emu.check.survey import DEFAULT_LIMIT, Survey
from crosswalk.emu.probe import mapped
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import TOP, walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = ["Plan", "accesses_to", "make_plan"]

_SLOT = 16
# An offset in a large page that changes if it is rounded to any smaller size.
_INSIDE = 0x2A5A_5A50
_SHIFT_4KIB = 12


@dataclass(frozen=True, slots=True)
class Plan(Rows):
    """n accesses with the `Place` of each, uint8[n], and `listed`, bool[n], as in `Targets`."""

    va: U64
    type: NDArray[np.uint8]
    cpl: NDArray[np.uint8]
    ac: NDArray[np.bool_]
    place: NDArray[np.uint8]
    listed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.va)

    @property
    def accesses(self) -> Accesses:
        """The accesses, without what the plan knows of them."""
        return Accesses(self.va, self.type, self.cpl, self.ac)


def make_plan(
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    start: int = 0,
    end: int = TOP,
    limit: int = DEFAULT_LIMIT,
    walk: Lister = walk_leaves,
    read: Reader = mapped,
) -> Plan:
    """Return the accesses that check what the walker says of [start, end), all at once.

    Of every page that `walk` or `read` finds, at both CPLs: reads and writes of the first and the
    last byte, fetches from the first and the last 16 bytes and of the last byte, and all of it
    inside a large page; of a user page under SMAP the supervisor's data accesses with the other
    AC as well. Of what isn't mapped: both neighbours of each run of pages, the middle of each gap,
    entries that are not zero but map nothing, or lead out of RAM, and addresses that aren't
    canonical.

    `LimitExceeded` if there are more than `limit` mappings; they are counted, not listed.
    """
    survey = Survey(memory, context, start=start, end=end, limit=limit, walk=walk, read=read)
    return Plan.join([_NOTHING, *(accesses_to(context, piece) for piece in survey.pieces())])


def accesses_to(context: PagingContext, targets: Targets) -> Plan:
    """Return the accesses that `make_plan` describes to these targets, by the kind of target."""
    parts = [_NOTHING]
    for shift, place in PLACES.items():
        pages = targets.take(targets.place == place)
        if len(pages):
            parts += _of_pages(context, pages, shift)
    for place in (Place.HOLE, Place.MALFORMED, Place.NOT_CANONICAL):
        parts.append(_plan(context, targets.take(targets.place == place)))
    return Plan.join(parts)


def _of_pages(context: PagingContext, pages: Targets, shift: int) -> Iterator[Plan]:
    """Yield the accesses to pages of one size."""
    data = [0, (1 << shift) - 1]
    code = [0, (1 << shift) - _SLOT, data[1]]
    if shift > _SHIFT_4KIB:
        inside = _INSIDE & ((1 << shift) - 1)
        data.append(inside)
        code.append(inside)
    for offset in data:
        yield _plan(context, pages, offset, (AccessType.READ, AccessType.WRITE))
    for offset in code:
        yield _plan(context, pages, offset, (AccessType.EXECUTE,))
    if context.smap:
        yield _plan(
            context,
            pages.take(pages.user),
            0,
            (AccessType.READ, AccessType.WRITE),
            cpls=(0,),
            ac=not context.rflags_ac,
        )


def _plan(
    context: PagingContext,
    targets: Targets,
    offset: int = 0,
    types: tuple[AccessType, ...] = tuple(AccessType),
    *,
    cpls: tuple[int, ...] = (0, 3),
    ac: bool | None = None,
) -> Plan:
    pairs = [(kind, cpl) for kind in types for cpl in cpls]
    each, count = len(pairs), len(targets)
    return Plan(
        np.repeat(targets.va + np.uint64(offset), each),
        np.tile(np.array([kind for kind, _ in pairs], np.uint8), count),
        np.tile(np.array([cpl for _, cpl in pairs], np.uint8), count),
        np.full(count * each, context.rflags_ac if ac is None else ac),
        # A page that the walk doesn't list is, by its word, an entry that maps nothing.
        np.repeat(np.where(targets.listed, targets.place, np.uint8(Place.MALFORMED)), each),
        np.repeat(targets.listed, each),
    )


_NO_BITS, _NO_FLAGS = np.zeros(0, np.uint8), np.zeros(0, np.bool_)
_NOTHING = Plan(np.zeros(0, np.uint64), _NO_BITS, _NO_BITS, _NO_FLAGS, _NO_BITS, _NO_FLAGS)
