"""Mappings chosen by what they map and where they lie, found without listing the others.

Whether a table leads to a mapping with some physical address, size, flags and rights follows from
the state of the table (`crosswalk.walker.states`), and whether it translates an address of some
spans from its place. The walk goes past tables that lead to nothing, so that the cost is that of
the distinct states and of what is chosen, however many mappings there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Self

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import among
from crosswalk.walker.leaves import TOP, Tables, Through, root_table
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.pages import Pages, pages, pages_of_leaves
from crosswalk.walker.repeats import USE, pages_and_runs
from crosswalk.walker.second_level import Space, TableContext, table_level
from crosswalk.walker.spaces import AnyGroup, distinct_contexts, groups_of
from crosswalk.walker.states import BLOCK, distinct_states, expand_states, keys_of, states_by_level

__all__ = ["Condition", "Spans", "chosen_pages"]

Condition = Callable[[Pages, Space], NDArray[np.bool_]]
"""Which of n mappings are chosen, bool[n].

By physical address, size, level, flags and rights alone: their linear addresses mean nothing.
"""


_NONE = np.zeros(0, np.uint64)
_REACHED = 1 << 11
"""How often page directories and tables above may be reached by a walk of all of them."""


@dataclass(frozen=True, slots=True)
class Spans:
    """n ranges of addresses, disjoint and ascending: `first`, `last` uint64[n], both included."""

    first: U64
    last: U64

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Self:
        """Return the union of ranges [start, end), of addresses from 0 to 2^64."""
        first: list[int] = []
        last: list[int] = []
        for start, end in sorted((max(start, 0), min(end, TOP)) for start, end in ranges):
            if start >= end:
                continue
            if last and start <= last[-1] + 1:
                last[-1] = max(last[-1], end - 1)
            else:
                first.append(start)
                last.append(end - 1)
        return cls(np.array(first, np.uint64), np.array(last, np.uint64))

    def __len__(self) -> int:
        return len(self.first)

    def touched(self, first: U64, last: U64) -> NDArray[np.bool_]:
        """Return which of n ranges have an address in common with these, bool[n].

        `first` and `last` uint64[n] are their first and last addresses.
        """
        # Of the spans that begin before a range ends, the last one ends last.
        row = np.searchsorted(self.first, last, side="right") - 1
        found = row >= 0
        found[found] = self.last[row[found]] >= first[found]
        return found

    @property
    def edges(self) -> U64:
        """The addresses where one begins, or after which one ends, ascending."""
        after = self.last + np.uint64(1)
        return np.sort(np.concatenate([self.first, after[after != 0]]))


def chosen_pages(
    memory: PhysicalMemory,
    contexts: Space | Sequence[Space],
    condition: Condition[Space] | None,
    spans: Spans | None = None,
    start: int = 0,
    end: int = TOP,
    *,
    edges: U64 | None = None,
    by_use: bool = False,
) -> Iterator[tuple[Space, Iterator[Pages]]]:
    """Yield for each address space the mappings in [start, end) that the condition chooses.

    Of those whose pages touch `spans`, if these are given, too. In the order of the contexts, each
    address space once, and in address order in each, block by block; one without any has no block.
    Address spaces that differ in their roots alone are looked at together, before the first.

    With `edges` blocks may be `Runs`, in which none of these addresses lies inside a run, as
    `pages_and_runs` has it; `by_use` says that the condition depends on A or D, so that the pages
    of a run have to be equal in those, too.
    """
    every = distinct_contexts(contexts)
    if condition is None and _has_many_ways(memory, every):
        condition = _any
    leading: dict[int, dict[int, U64]] = {}
    group_at: dict[int, int] = {}
    groups = groups_of(every) if condition is not None else []
    for number, group in enumerate(groups):
        group_at |= dict.fromkeys(group.numbers, number)
    for number, context in enumerate(every):
        states = None
        if condition is not None:
            at = group_at[number]
            if at not in leading:
                leading[at] = _leading(memory, groups[at], condition)
            states = leading[at]
        found = _found(memory, context, states, spans, (start, end), edges, by_use=by_use)
        yield context, _chosen(found, context, condition, spans)


def _any(pages: Pages, _: TableContext) -> NDArray[np.bool_]:
    return np.ones(len(pages), np.bool_)


def _has_many_ways(memory: PhysicalMemory, contexts: Sequence[Space]) -> bool:
    """Return whether walks reach tables very often: some may lead to no mapping in very many ways.

    A walk of all of them doesn't end, then; of those that lead to mappings it does, or lists some.
    """
    for group in groups_of(contexts):
        blocks = distinct_states(memory, group.contexts)
        upper = takewhile(lambda block: block.level > 1, blocks)
        if sum(int(block.ways.sum()) for block in upper) > _REACHED:
            return True
    return False


def _found(
    memory: PhysicalMemory,
    context: TableContext,
    states: dict[int, U64] | None,
    spans: Spans | None,
    between: tuple[int, int],
    edges: U64 | None,
    *,
    by_use: bool,
) -> Iterator[Pages]:
    """Yield the mappings to which tables lead that lead to something that is chosen."""
    if states is not None:
        root = keys_of(root_table(context))
        if not among(root, states.get(context.levels, _NONE)).any():
            return
    through = _through(context, states, spans)
    if edges is None:
        yield from pages(memory, context, *between, through=through)
        return
    if spans is not None:
        edges = np.sort(np.concatenate([edges, spans.edges]))
    ignore = 0 if by_use else USE
    runs = pages_and_runs(memory, context, *between, through=through, edges=edges, ignore=ignore)
    yield from runs


def _chosen(
    found: Iterable[Pages],
    context: Space,
    condition: Condition[Space] | None,
    spans: Spans | None,
) -> Iterator[Pages]:
    for each in found:
        rows = each
        if spans is not None:
            rows = rows.take(spans.touched(rows.va, rows.va + (rows.size - np.uint64(1))))
        if condition is not None:
            rows = rows.take(condition(rows, context))
        if len(rows):
            yield rows


def _through(
    context: TableContext, states: dict[int, U64] | None, spans: Spans | None
) -> Through | None:
    """Return which tables lead to something that is chosen; None where all do."""
    if states is None and spans is None:
        return None

    def through(number: int, tables: Tables) -> Tables:
        kept = np.ones(len(tables), np.bool_)
        if states is not None:
            kept &= among(keys_of(tables), states.get(number, _NONE))
        if spans is not None:
            level = table_level(context, number)
            last = tables.va + np.uint64((level.span << level.index_bits) - 1)
            kept &= spans.touched(tables.va, last)
        return tables if kept.all() else tables.take(np.flatnonzero(kept))

    return through


def _leading(
    memory: PhysicalMemory, group: AnyGroup[Space], condition: Condition[Space]
) -> dict[int, U64]:
    """Return the states of each level that lead to mappings that are chosen, ascending."""
    found: dict[int, U64] = {}
    below = _NONE
    for level, keys in states_by_level(memory, group.contexts).items():
        leads = np.zeros(len(keys), np.bool_)
        for at in range(0, len(keys), BLOCK):
            held = expand_states(memory, group.context, level, keys[at : at + BLOCK])
            chosen = condition(pages_of_leaves(held.leaves, group.context), group.context)
            leads[at + held.leaf_parent[chosen]] = True
            leads[at + held.child_parent[among(keys_of(held.children), below)]] = True
        found[level] = below = keys[leads]
    return found
