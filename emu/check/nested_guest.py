"""The guest of a hypervisor that is a guest itself: its accesses, a selection of them checked.

What its linear addresses come to, in two dimensions, is predicted and really tried in guest mode,
as for pairs of layouts. The emulated CPU makes these accesses one by one: of many pages some
are chosen: evenly over all that the guest maps, and the addresses behind the last ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from crosswalk.emu.check.nested import (
    NestedPredictor,
    NestedVerdict,
    check_nested,
)
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.entry import level_of
from crosswalk.walker.memory import FRAME, PhysicalMemory, Segments
from crosswalk.walker.nested.context import NestedContext
from crosswalk.walker.nested.translate import nested_outcomes, walk_nested
from crosswalk.walker.outcome import Translation
from crosswalk.walker.translate import translate

__all__ = ["MOST_PAGES", "GuestCheck", "check_guest_pages", "guest_pages"]

MOST_PAGES = 48
"""How many of a guest's pages are tried, with six accesses each."""

_MOST_FOUND = 1 << 20
_MOST_TABLES = 1 << 13
_BLOCK = 1 << 21
_PRESENT, _LARGE = 1, 0x80
_SIGN = 1 << 47


@dataclass(frozen=True, slots=True)
class GuestCheck:
    """The verdict on some of a guest's pages, of all `pages` that it maps.

    `tried` are the addresses at which accesses were made, pages and places that aren't mapped;
    `unreached` the tables of the guest's that the nested tables don't let it walk.
    """

    verdict: NestedVerdict
    pages: int
    tried: int
    unreached: int
    context: NestedContext


@dataclass(slots=True)
class _Found:
    """A guest's pages by linear address and size; how many tables, and of these unreachable."""

    pages: list[tuple[int, int]]
    tables: int = 0
    unreached: int = 0

    @property
    def full(self) -> bool:
        """Whether there is enough: tables that lead back to themselves map pages without end."""
        return len(self.pages) >= _MOST_FOUND or self.tables >= _MOST_TABLES


def guest_pages(
    memory: PhysicalMemory, context: NestedContext
) -> tuple[list[tuple[int, int]], int]:
    """Return linear address and size of each page that a guest's own tables map, in order.

    And the number of its tables that nested tables don't map. At most `_MOST_FOUND` are found, in
    `_MOST_TABLES`, each counted as often as it is come upon.
    """
    found = _Found([])
    _descend(memory, context, context.guest.root, context.guest.levels, 0, found)
    return found.pages, found.unreached


def _descend(
    memory: PhysicalMemory,
    context: NestedContext,
    table: int,
    number: int,
    base: int,
    found: _Found,
) -> None:
    found.tables += 1
    reached = _system(memory, context, table)
    words = None if reached is None else memory.read(reached, FRAME)
    if words is None or len(words) < FRAME:
        found.unreached += 1
        return
    level = level_of(context.guest, number)
    entries = np.frombuffer(words, "<u8")
    for index in np.flatnonzero(entries & np.uint64(_PRESENT)).tolist():
        if found.full:
            return
        entry, va = int(entries[index]), base + (index << level.shift)
        if number == context.guest.levels and va & _SIGN:
            va |= -1 << 48 & (1 << 64) - 1
        if number == 1 or (entry & _LARGE and number < 4):
            found.pages.append((va, 1 << level.shift))
        else:
            _descend(memory, context, entry & context.guest.address_mask, number - 1, va, found)


def _system(memory: PhysicalMemory, context: NestedContext, gpa: int) -> int | None:
    """Return where a guest-physical address lies; None where a guest's table can't."""
    outcome = translate(memory, context.npt, Access(gpa, AccessType.READ, 3))
    return outcome.pa if isinstance(outcome, Translation) else None


def check_guest_pages(
    memory: PhysicalMemory,
    context: NestedContext,
    *,
    most: int | None = None,
    predict: NestedPredictor = nested_outcomes,
) -> GuestCheck:
    """Check what at most `most` of a guest's pages (`MOST_PAGES`), and places behind, come to.

    `predict` says whose predictions are checked. `BadInput` where no emulated CPU has this state.
    """
    pages, unreached = guest_pages(memory, context)
    places = _chosen(pages, MOST_PAGES if most is None else most)
    accesses = [Access(va, kind, cpl) for va, kind, cpl in product(places, AccessType, (0, 3))]
    needed = _needed(memory, context, places)
    verdict = check_nested(
        NestedProber(needed, context), needed, context, accesses, predict=predict
    )
    return GuestCheck(verdict, len(pages), len(places), unreached, context)


def _chosen(pages: Sequence[tuple[int, int]], most: int) -> list[int]:
    """Return addresses in some of the pages, and those behind runs of pages, in order."""
    mapped = {va for va, _ in pages}
    some = [pages[at * len(pages) // most] for at in range(most)] if len(pages) > most else pages
    ends = [
        va + size
        for va, size in some
        if va + size not in mapped and (va + size) % (1 << 64) == va + size
    ]
    # Not at the start of a page, which could be an entry's place.
    inside = [va + (size // 2 | 0x123) % size for va, size in some]
    return sorted({*inside, *(va for va in ends if va < _SIGN or va >= (1 << 64) - _SIGN)})


def _needed(
    memory: PhysicalMemory, context: NestedContext, places: Sequence[int]
) -> PhysicalMemory:
    """Return the parts of memory that the walks of these addresses touch: the rest isn't copied."""
    blocks = {pa // _BLOCK for va in places for pa in _touched(memory, context, va)}
    parts = []
    for start, size in memory.ranges:
        for block in sorted(blocks):
            first = max(start, block * _BLOCK)
            end = min(start + size, (block + 1) * _BLOCK)
            if first < end:
                parts.append((first, memory.read(first, end - first)))
    return Segments(parts)


def _touched(memory: PhysicalMemory, context: NestedContext, va: int) -> Iterator[int]:
    path = walk_nested(memory, context, va)
    yield from (pa for pa, _ in path.words)
    if path.page is not None and path.page.pa is not None:
        yield path.page.pa
