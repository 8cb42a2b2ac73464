"""Which mappings lead to a physical range; which ranges are both writable and executable (W^X)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.chosen import Spans
from crosswalk.walker.frames import Frames
from crosswalk.walker.leaves import TOP, Leaves, canonical, root_tables
from crosswalk.walker.mappings import Mapping, RootedMapping
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.memory_types import pat_indices
from crosswalk.walker.rights import EXECUTES, WRITES, Rights, rights_table
from crosswalk.walker.second_level import TableContext, table_level
from crosswalk.walker.spaces import AnyGroup, groups_of, shared_slots
from crosswalk.walker.states import BLOCK, expand_states, keys_of, states_by_level

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

    None for `rights` selects all mappings. An empty range has none. With `pat`, only mappings whose
    leaf selects one of these fields of IA32_PAT: field n is bit n.
    """

    pa: int
    size: int
    rights: Rights | None = None
    pat: int | None = None


class Aliases:
    """The mappings that each of up to `MAX_QUERIES` queries selects in one or more address spaces.

    The states of the tables that lead to selected mappings are found from the last level up,
    then the mappings are listed from the roots down. Each distinct state of the tables (see
    `crosswalk.walker.states`) is visited twice and takes a word of memory. Other mappings are
    never enumerated, however many there are.

    Of a single context mappings are `Mapping`, of a sequence of contexts `RootedMapping`.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: TableContext | Sequence[TableContext],
        queries: Sequence[AliasQuery],
    ) -> None:
        if len(queries) > MAX_QUERIES:
            raise ValueError(f"{len(queries)} queries; at most {MAX_QUERIES} at a time")
        self._rooted = isinstance(context, Sequence)
        self._groups = [_Group(memory, group, queries) for group in groups_of(context)]

    def find(self, query: int) -> Iterator[Mapping]:
        """Yield the mappings that the query of this number selects, in address order.

        Of several address spaces those of one after the other, in the order given.
        """
        return self._found(query, once=False)

    def find_once(self, query: int) -> Iterator[Mapping]:
        """Do as `find`, but name once what several roots have by the same entry.

        It is named by the first of them, and its `roots` is their number.
        """
        return self._found(query, once=True)

    def _found(self, query: int, *, once: bool) -> Iterator[Mapping]:
        parts = [group.leading_roots(query, once=once) for group in self._groups]
        order = sorted(
            (group.space.numbers[row], at, row)
            for at, group in enumerate(self._groups)
            for row in parts[at]
        )
        for _, at, row in order:
            yield from self._groups[at].find(query, row, once=once, rooted=self._rooted)


class _Group:
    """The mappings that queries select in address spaces that differ in CR3 alone."""

    def __init__(
        self,
        memory: PhysicalMemory,
        space: AnyGroup[TableContext],
        queries: Sequence[AliasQuery],
    ) -> None:
        self.space = space
        self._memory, self._context, self._queries = memory, space.context, queries
        self._asked = Spans.of((each.pa, each.pa + each.size) for each in queries)
        self._several = len(space.roots) > 1
        self._rights = rights_table(space.context)
        self._top = table_level(space.context, space.context.levels)
        self._keys = states_by_level(memory, space.contexts)
        self._leading: dict[int, U64] = {}
        for level, keys in self._keys.items():
            self._leading[level] = self._lead(level, keys)
        self._roots = keys_of(root_tables(space.context, space.roots))

    @cached_property
    def _shared(self) -> NDArray[np.uint32]:
        return shared_slots(self._memory, self.space)

    @cached_property
    def _leading_once(self) -> U64:
        """The queries that select mappings by slots that no root before has, for each root."""
        return self._lead(self._top.number, self._roots, self._shared != 0)

    def leading_roots(self, query: int, *, once: bool) -> list[int]:
        """Return which roots lead to mappings that the query selects, ascending."""
        if once and self._several:
            bits = self._leading_once
        else:
            top = self._top.number
            bits = self._leading[top][np.searchsorted(self._keys[top], self._roots)]
        return np.flatnonzero(bits >> np.uint64(query) & np.uint64(1)).tolist()

    def find(self, query: int, row: int, *, once: bool, rooted: bool) -> Iterator[Mapping]:
        """Yield the mappings of one root that the query selects, in address order."""
        shared = self._shared[row] if once and self._several else None
        for roots, leaves, at, va in self._descend(
            query, self._top.number, int(self._roots[row]), 0, shared
        ):
            page = self._mapping(leaves, at, va)
            yield self._named(page, row, roots) if rooted else page

    def _lead(self, level: int, keys: U64, slots: NDArray[np.bool_] | None = None) -> U64:
        """Return for each state of a level the queries that select mappings below it, as bits.

        With `slots` those that do by the chosen entries of each table.
        """
        leading = np.zeros(len(keys), np.uint64)
        for at in range(0, len(keys), BLOCK):
            held = expand_states(self._memory, self._context, level, keys[at : at + BLOCK])
            bits = self._bits_below(level, keys_of(held.children))
            if slots is not None:
                bits[~slots[at + held.child_parent, self._slot(held.children.va)]] = 0
            np.bitwise_or.at(leading, at + held.child_parent, bits)
            # What no query asks for is left out before each is looked at.
            first = held.leaves.pa
            near = np.flatnonzero(
                self._asked.touched(first, first + (held.leaves.size - np.uint64(1)))
            )
            leaves, parent = held.leaves.take(near), at + held.leaf_parent[near]
            for number in range(len(self._queries)):
                hit = self._hits(number, leaves)
                if slots is not None:
                    hit &= slots[parent, self._slot(leaves.va)]
                leading[parent[hit]] |= np.uint64(1 << number)
        return leading

    def _slot(self, va: U64) -> NDArray[np.intp]:
        return (va >> np.uint64(self._top.shift)).astype(np.intp)

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
        if asked.pat is not None:
            hit &= np.uint8(asked.pat) >> pat_indices(leaves.level, leaves.entry) & 1 != 0
        return hit

    def _descend(
        self, query: int, level: int, key: int, base: int, shared: NDArray[np.uint32] | None
    ) -> Iterator[tuple[int, Leaves, int, int]]:
        """Yield selected leaves below a state: how many roots share it, where it is, its va.

        `shared` has the number of roots for each entry of this table, 0 for entries to leave out;
        without it all have one.
        """
        held = expand_states(self._memory, self._context, level, np.array([key], np.uint64))
        leaves = held.leaves.take(self._hits(query, held.leaves))
        keys = keys_of(held.children)
        leads = self._bits_below(level, keys) >> np.uint64(query) & np.uint64(1) != 0
        offsets = np.concatenate([leaves.va, held.children.va[leads]])
        keys = keys[leads]
        for row in np.argsort(offsets, kind="stable").tolist():
            offset = int(offsets[row])
            roots = 1 if shared is None else int(shared[offset >> self._top.shift])
            if not roots:
                continue
            if row < len(leaves):
                yield roots, leaves, row, base + offset
                continue
            below = int(keys[row - len(leaves)])
            for _, those, at, va in self._descend(query, level - 1, below, base + offset, None):
                yield roots, those, at, va

    def _mapping(self, leaves: Leaves, at: int, va: int) -> Mapping:
        shift = int(leaves.shift[at])
        return Mapping(
            int(canonical(self._context, np.array([va], np.uint64))[0]),
            int(leaves.pa[at]),
            1 << shift,
            int(leaves.level[at]),
            int(leaves.flags[at]),
            Rights(int(self._rights[leaves.grant[at]])),
        )

    def _named(self, it: Mapping, row: int, roots: int) -> RootedMapping:
        context = self.space.contexts[row]
        return RootedMapping(it.va, it.pa, it.size, it.level, it.flags, it.rights, context, roots)


def mappings_of(
    memory: PhysicalMemory,
    context: TableContext | Sequence[TableContext],
    start: int,
    size: int,
) -> Iterator[Mapping]:
    """Yield the mappings that reach physical bytes [start, start + size), as `find` does."""
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
    memory: PhysicalMemory,
    context: TableContext | Sequence[TableContext],
    frames: Frames,
    *,
    aliases: int,
) -> list[WritableExecutable]:
    """Return the ranges that are writable and executable, by whichever mappings, by address.

    Each has up to `aliases` mappings of either kind, as `Aliases.find_once` names them. `frames`
    are the `collective_rights` of the same address spaces.
    """
    each = frames.rights
    chosen = (each & np.uint8(WRITES) != 0) & (each & np.uint8(EXECUTES) != 0)
    both = list(frames.take(chosen))
    found = []
    for at in range(0, len(both), MAX_QUERIES // 2):
        some = both[at : at + MAX_QUERIES // 2]
        queries = [AliasQuery(pa, size, how) for pa, size, _ in some for how in (WRITES, EXECUTES)]
        finder = Aliases(memory, context, queries)
        for number, (pa, size, rights) in enumerate(some):
            writers = tuple(islice(finder.find_once(2 * number), aliases))
            executors = tuple(islice(finder.find_once(2 * number + 1), aliases))
            found.append(WritableExecutable(pa, size, rights, writers, executors))
    return found
