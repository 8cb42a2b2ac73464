"""Tables as states: each visited once for each level and each set of inherited grants.

However many ways lead to a table, it has at most eight states a level (of EPT, sixteen). Results
that depend on the physical addresses and rights of mappings, not on their linear addresses, follow
from the states alone, at a cost that shared and self-referencing tables can't raise. Several
address spaces are one graph of states with several roots: what they share is visited once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.blocks import present_entries, without_reserved
from crosswalk.walker.columns import distinct
from crosswalk.walker.entry import reserved_bits
from crosswalk.walker.leaves import Expanded, Leaves, Tables, expand, root_tables
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import GRANT_BITS
from crosswalk.walker.second_level import SecondLevel, Space, TableContext, table_level
from crosswalk.walker.spaces import AnyGroup, groups_of

__all__ = [
    "BLOCK",
    "StateBlock",
    "distinct_states",
    "expand_states",
    "keys_of",
    "states_by_level",
]

BLOCK = 1024
"""How many states are expanded at once: up to 4 MiB of tables."""


class StateBlock(NamedTuple):
    """Some states of one level, and the pages that their tables map.

    `key` uint64[n] is a table's address with its inherited `Grant` bits below, `ways` uint64[n]
    the number of paths from all roots that lead there. `leaves` are the pages of all of them, of
    which their `va` says nothing, and `counts` int[n] the number of pages of each.
    """

    level: int
    key: U64
    ways: U64
    leaves: Leaves
    counts: NDArray[np.intp]


def distinct_states(
    memory: PhysicalMemory, contexts: Space | Sequence[Space]
) -> Iterator[StateBlock]:
    """Yield every distinct state in blocks, from the roots down, by ascending key in a level.

    Several contexts may differ in their roots alone: `ValueError` else (`spaces.groups_of` makes
    groups of any). The ways can't overflow: there are at most 512^4 from a root.
    """
    for group in _one_group(contexts):
        yield from _distinct_states(memory, group.context, group.roots)


def _one_group(contexts: Space | Sequence[Space]) -> list[AnyGroup[Space]]:
    """Return the one group that these contexts are, or none; `ValueError` if they are several."""
    groups = groups_of(contexts)
    if len(groups) > 1:
        raise ValueError("contexts that differ in more than their roots")
    return groups


def _distinct_states(
    memory: PhysicalMemory, context: TableContext, roots: U64
) -> Iterator[StateBlock]:
    keys, ways = _distinct(keys_of(root_tables(context, roots)), np.ones(len(roots), np.uint64))
    for level in range(context.levels, 1, -1):
        below = [(keys[:0], ways[:0])]
        for at in range(0, len(keys), BLOCK):
            some = slice(at, at + BLOCK)
            held = expand_states(memory, context, level, keys[some])
            counts = np.bincount(held.leaf_parent, minlength=len(keys[some]))
            yield StateBlock(level, keys[some], ways[some], held.leaves, counts)
            below.append(_distinct(keys_of(held.children), ways[some][held.child_parent]))
        keys, ways = _distinct(*(np.concatenate(column) for column in zip(*below, strict=True)))
    for at in range(0, len(keys), BLOCK):
        some = slice(at, at + BLOCK)
        yield StateBlock(1, keys[some], ways[some], *_pages(memory, context, keys[some]))


def _pages(
    memory: PhysicalMemory, context: TableContext, keys: U64
) -> tuple[Leaves, NDArray[np.intp]]:
    """Return the pages of page tables in these states, and how many each has.

    Most entries of all are in page tables: they are read as the walk reads them.
    """
    form = table_level(context, 1)
    starts = np.arange(len(keys) + 1, dtype=np.uint64) << np.uint64(form.shift + form.index_bits)
    found = present_entries(memory, form, _tables(keys, starts[:-1]), context.encryption_mask)
    if isinstance(context, SecondLevel):
        found = found.take(np.flatnonzero(~context.malformed(1, found.entry, leaf=True)))
    else:
        found = without_reserved(found, np.uint64(reserved_bits(context, 1, leaf=True)))
    return found, np.diff(np.searchsorted(found.va, starts))


def states_by_level(memory: PhysicalMemory, contexts: Space | Sequence[Space]) -> dict[int, U64]:
    """Return the keys of all distinct states by level, ascending; the lowest level comes first.

    A word for each state is kept, and tables of the last level aren't read. `ValueError` as in
    `distinct_states`.
    """
    found: dict[int, U64] = {}
    for group in _one_group(contexts):
        keys = distinct(keys_of(root_tables(group.context, group.roots)))
        for level in range(group.context.levels, 1, -1):
            found[level] = keys
            below = [keys[:0]]
            for at in range(0, len(keys), BLOCK):
                held = expand_states(memory, group.context, level, keys[at : at + BLOCK])
                below.append(distinct(keys_of(held.children)))
            keys = distinct(np.concatenate(below))
        found[1] = keys
    return dict(sorted(found.items()))


def expand_states(memory: PhysicalMemory, context: TableContext, level: int, keys: U64) -> Expanded:
    """Return what the tables of these states hold; a `va` counts from its table's first byte."""
    return expand(memory, context, level, _tables(keys, np.zeros_like(keys)))


def _tables(keys: U64, va: U64) -> Tables:
    """Return the tables that are in these states, at these addresses."""
    grants = keys & np.uint64((1 << GRANT_BITS) - 1)
    return Tables(va, keys - grants, grants.astype(np.uint8))


def keys_of(tables: Tables) -> U64:
    """Return the states that these tables are in, uint64[n]."""
    return tables.frame | tables.grant


def _distinct(keys: U64, ways: U64) -> tuple[U64, U64]:
    """Return the distinct keys, ascending, and the sum of the ways of each."""
    found, inverse = np.unique(keys, return_inverse=True)
    total = np.zeros(len(found), np.uint64)
    np.add.at(total, inverse, ways)
    return found, total
