"""Which mappings lead to a physical range; which ranges are both writable and executable (W^X)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.frames import Frames
from crosswalk.walker.leaves import TOP, Leaves, canonical
from crosswalk.walker.mappings import Mapping
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import EXECUTES, WRITES, Rights, rights_table
from crosswalk.walker.states import BLOCK, distinct_states, expand_states, keys_of

__all__ = [
    "MAX_QUERIES",
    "AliasQuery",
    "Aliases",
    "WritableExecutable",
    "mappings_of",
    "writable_and_executable",
]

MAX_QUERIES = 64
"""The most queries answered by one pass over the tables: each has a bit in a word per state."""


@dataclass(frozen=True, slots=True)
class AliasQuery:
    """Query for the mappings that reach bytes [pa, pa + size) and grant any of `rights`.

    None for `rights` selects all mappings. An empty range has none.
    """

    pa: int
    size: int
    rights: Rights | None = None


class Aliases:
    """The mappings that each of up to `MAX_QUERIES` queries selects in one address space.

    The states of the tables that lead to selected mappings are found from the last level up,
    then the mappings are listed from the root down. Each distinct state of the tables (see
    `crosswalk.walker.states`) is visited twice and takes a word of memory. Other mappings are
    never enumerated, however many there are.
    """

    def __init__(
        self, memory: PhysicalMemory, context: PagingContext, queries: Sequence[AliasQuery]
    ) -> None:
        if len(queries) > MAX_QUERIES:
            raise ValueError(f"{len(queries)} queries; at most {MAX_QUERIES} at a time")
        self._memory = memory
        self._context = context
        self._queries = queries
        self._rights = rights_table(context)
        keys: dict[int, list[U64]] = {}
        for block in distinct_states(memory, context):
            keys.setdefault(block.level, []).append(block.key)
        self._keys = {level: np.concatenate(parts) for level, parts in sorted(keys.items())}
        self._leading = {0: np.zeros(0, np.uint64)}
        for level in self._keys:
            self._leading[level] = self._lead(level)

    def find(self, query: int) -> Iterator[Mapping]:
        """Yield the mappings that the query of this number selects, in address order."""
        top = self._context.levels
        if self._leading[top][0] >> np.uint64(query) & np.uint64(1):
            yield from self._descend(query, top, int(self._keys[top][0]), 0)

    def _lead(self, level: int) -> U64:
        """Return for each state of a level the queries that select mappings below it, as bits."""
        keys = self._keys[level]
        leading = np.zeros(len(keys), np.uint64)
        for at in range(0, len(keys), BLOCK):
            held = expand_states(self._memory, self._context, level, keys[at : at + BLOCK])
            bits = self._bits_below(level, keys_of(held.children))
            np.bitwise_or.at(leading, at + held.child_parent, bits)
            for number in range(len(self._queries)):
                hit = self._hits(number, held.leaves)
                leading[at + held.leaf_parent[hit]] |= np.uint64(1 << number)
        return leading

    def _bits_below(self, level: int, keys: U64) -> U64:
        below = self._keys.get(level - 1)
        if below is None or not len(below):
            return np.zeros(len(keys), np.uint64)
        return self._leading[level - 1][np.searchsorted(below, keys)]

    def _hits(self, query: int, leaves: Leaves) -> NDArray[np.bool_]:
        asked = self._queries[query]
        pa = leaves.pa
        if asked.size <= 0:
            return np.zeros(len(leaves), np.bool_)
        last = min(asked.pa + asked.size, TOP) - 1
        hit = (pa <= last) & (pa + (leaves.size - np.uint64(1)) >= asked.pa)
        if asked.rights is not None:
            hit &= (self._rights[leaves.grant] & asked.rights) != 0
        return hit

    def _descend(self, query: int, level: int, key: int, base: int) -> Iterator[Mapping]:
        held = expand_states(self._memory, self._context, level, np.array([key], np.uint64))
        leaves = held.leaves.take(self._hits(query, held.leaves))
        keys = keys_of(held.children)
        leads = self._bits_below(level, keys) >> np.uint64(query) & np.uint64(1) != 0
        offsets = np.concatenate([leaves.va, held.children.va[leads]])
        keys = keys[leads]
        for row in np.argsort(offsets, kind="stable").tolist():
            va = base + int(offsets[row])
            if row < len(leaves):
                yield self._mapping(leaves, row, va)
            else:
                yield from self._descend(query, level - 1, int(keys[row - len(leaves)]), va)

    def _mapping(self, leaves: Leaves, row: int, va: int) -> Mapping:
        shift = int(leaves.shift[row])
        return Mapping(
            int(canonical(self._context, np.array([va], np.uint64))[0]),
            int(leaves.pa[row]),
            1 << shift,
            int(leaves.level[row]),
            int(leaves.flags[row]),
            Rights(int(self._rights[leaves.grant[row]])),
        )


def mappings_of(
    memory: PhysicalMemory, context: PagingContext, start: int, size: int
) -> Iterator[Mapping]:
    """Yield the mappings that reach physical bytes [start, start + size), in address order."""
    return Aliases(memory, context, [AliasQuery(start, size)]).find(0)


@dataclass(frozen=True, slots=True)
class WritableExecutable:
    """A physical range, `size` bytes from `pa`, and its first writable and executable mappings."""

    pa: int
    size: int
    rights: Rights
    writers: tuple[Mapping, ...]
    executors: tuple[Mapping, ...]

    @property
    def within_one_privilege(self) -> bool:
        """Whether the supervisor alone, or the user alone, may do both."""
        return any(self.rights >> shift & 6 == 6 for shift in (0, 3))


def writable_and_executable(
    memory: PhysicalMemory, context: PagingContext, frames: Frames, *, aliases: int
) -> list[WritableExecutable]:
    """Return the ranges that are writable and executable, by whichever mappings, by address.

    Each has up to `aliases` mappings of either kind. `frames` are the `collective_rights` of the
    same address space.
    """
    both = [each for each in frames if each[2] & WRITES and each[2] & EXECUTES]
    found = []
    for at in range(0, len(both), MAX_QUERIES // 2):
        some = both[at : at + MAX_QUERIES // 2]
        queries = [AliasQuery(pa, size, how) for pa, size, _ in some for how in (WRITES, EXECUTES)]
        finder = Aliases(memory, context, queries)
        for number, (pa, size, rights) in enumerate(some):
            writers = tuple(islice(finder.find(2 * number), aliases))
            executors = tuple(islice(finder.find(2 * number + 1), aliases))
            found.append(WritableExecutable(pa, size, rights, writers, executors))
    return found
