"""Collective rights kept up to date, entry by entry, at a cost in proportion to the change.

The Heki series keeps a counter for each permission of each page while the kernel maps, unmaps and
changes permissions. Here the counters are of leaves in distinct states of tables (see
`crosswalk.walker.states`), so that shared and self-referencing tables are counted once a state
too.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from crosswalk.walker.context import PagingContext
from crosswalk.walker.frames import (
    PAGE_SHIFTS,
    Frames,
    page_keys,
    page_shift,
    page_span,
    rights_of_pages,
)
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory, SparseWords
from crosswalk.walker.rights import ALL_GRANTS
from crosswalk.walker.states import expand_states, keys_of

__all__ = ["RightsTracker"]

_State = tuple[int, int]
# Pages are kept by the stretch of memory they lie in, of 512 pages of their size.
_REGIONS = {shift: shift + 9 for shift in PAGE_SHIFTS}


class RightsTracker:
    """The collective rights of an address space that changes.

    `memory` is read when the tracker is made, and the words named to `update` again then; in
    between it must not change unnoticed. Frames outside RAM are tables without entries. A PDPTE
    of PAE paging counts as loaded with its change where the processor loads them.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        self._memory = memory
        self._context = context
        # Each table in use: its words, and the states that it is in.
        self._words: dict[int, U64] = {}
        self._states: dict[int, set[_State]] = defaultdict(set)
        self._references: Counter[_State] = Counter()
        self._pages: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
        self._touched: set[int] = set()
        self._refer((context.levels, context.root | ALL_GRANTS), 1)

    def frames(self) -> Frames:
        """Return the collective rights of every mapped physical range, as `collective_rights`."""
        keys = [key for pages in self._pages.values() for key in pages]
        return rights_of_pages(self._context, np.array(keys, np.uint64))

    def rights_within(self, start: int, size: int) -> Frames:
        """Return the collective rights of what is mapped of bytes [start, start + size)."""
        keys: list[int] = []
        for shift, wide in _REGIONS.items():
            for region in range(start >> wide, (start + size - 1 >> wide) + 1):
                keys += self._pages.get((shift, region), ())
        pages = np.array(keys, np.uint64)
        return rights_of_pages(self._context, pages, start=start, size=size)

    def update(self, entries: Iterable[int]) -> list[tuple[int, int]]:
        """Read these words again, and return the physical ranges whose rights may have changed.

        `entries` are physical addresses of 8-byte words; those that are in no table, or haven't
        changed, are ignored. The ranges are (start, size), disjoint and in order: elsewhere no
        frame's rights have changed.
        """
        self._touched.clear()
        for pa in sorted({entry & -8 for entry in entries}):
            words = self._words.get(pa & -FRAME)
            value = self._memory.word(pa) or 0
            if words is not None and int(words[pa % FRAME // 8]) != value:
                self._replace(pa, words, value)
        return list(_joined(sorted(page_span(page) for page in self._touched)))

    def _replace(self, pa: int, words: U64, value: int) -> None:
        frame, index = pa & -FRAME, pa % FRAME // 8
        one = np.zeros_like(words)
        one[index] = words[index]
        # From the top level down: a state that ends may end a lower one, which is then removed with
        # this word as it was.
        states = sorted(self._states[frame], reverse=True)
        for state in states:
            if state in self._references:
                self._count(state, words if self._joint(state) else one, -1)
        alive = [state for state in states if state in self._references]
        words[index] = one[index] = value
        for state in alive:
            self._count(state, words if self._joint(state) else one, 1)

    def _joint(self, state: _State) -> bool:
        """Return whether one entry decides about all of a table: PDPTEs are loaded together."""
        return self._context.loads_pdptes and state[0] == self._context.levels

    def _refer(self, state: _State, times: int) -> None:
        """Count references to a state; the first adds its entries, the last removes them."""
        before = self._references[state]
        self._references[state] += times
        frame = state[1] & -FRAME
        if before == 0:
            if frame not in self._words:
                table = self._memory.tables(np.array([frame], np.uint64))[0]
                self._words[frame] = table.copy()
            self._states[frame].add(state)
            self._count(state, self._words[frame], 1)
        elif self._references[state] == 0:
            del self._references[state]
            self._count(state, self._words[frame], -1)
            self._states[frame].discard(state)
            if not self._states[frame]:
                del self._states[frame], self._words[frame]

    def _count(self, state: _State, words: U64, sign: int) -> None:
        """Count what these words, of a table in this state, map and refer to."""
        level, key = state
        memory = _OneTable(words)
        held = expand_states(memory, self._context, level, np.array([key], np.uint64))
        for page, count in _counted(page_keys(held.leaves)):
            region = self._pages[_region(page)]
            before = region[page]
            region[page] += sign * count
            if not region[page]:
                del region[page]
                if not region:
                    del self._pages[_region(page)]
            if not before or not before + sign * count:
                self._touched.add(page)
        for child, count in _counted(keys_of(held.children)):
            self._refer((level - 1, child), sign * count)


class _OneTable(SparseWords):
    """Memory in which every frame is the same table."""

    def __init__(self, words: U64) -> None:
        super().__init__([], {})
        self._words = words

    def tables(self, frames: U64) -> U64:
        return np.broadcast_to(self._words, (len(frames), len(self._words)))


def _counted(keys: U64) -> Iterator[tuple[int, int]]:
    distinct, counts = np.unique(keys, return_counts=True)
    return zip(distinct.tolist(), counts.tolist(), strict=True)


def _region(page: int) -> tuple[int, int]:
    shift = page_shift(page)
    return shift, page >> _REGIONS[shift]


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield spans (start, end), given in order, as disjoint ranges (start, size)."""
    current: tuple[int, int] | None = None
    for start, end in spans:
        if current is not None and start <= current[1]:
            current = current[0], max(current[1], end)
            continue
        if current is not None:
            yield current[0], current[1] - current[0]
        current = start, end
    if current is not None:
        yield current[0], current[1] - current[0]
