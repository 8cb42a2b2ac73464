"""Tables as states: each visited once for each level and each set of inherited grants.

However many ways lead to a table, it has at most eight states a level. Results that depend on the
physical addresses and rights of mappings, not on their linear addresses, follow from the states
alone, at a cost that shared and self-referencing tables can't raise. Several address spaces are
one graph of states with several roots: what they share is visited once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import Expanded, Tables, expand, root_tables
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import GRANTS
from crosswalk.walker.spaces import Contexts, groups_of

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
    """Some states of one level, and the entries of their tables.

    `key` uint64[n] is a table's address with its inherited `Grant` bits below, `ways` uint64[n]
    the number of paths from all roots that lead there.
    """

    level: int
    key: U64
    ways: U64
    held: Expanded


def distinct_states(memory: PhysicalMemory, contexts: Contexts) -> Iterator[StateBlock]:
    """Yield every distinct state in blocks, from the roots down, by ascending key in a level.

    Several contexts may differ in their roots alone: `ValueError` else (`spaces.groups_of` makes
    groups of any). The ways can't overflow: there are at most 512^4 from a root.
    """
    groups = groups_of(contexts)
    if len(groups) > 1:
        raise ValueError("contexts that differ in more than their roots")
    for group in groups:
        yield from _distinct_states(memory, group.context, group.roots)


def _distinct_states(
    memory: PhysicalMemory, context: PagingContext, roots: U64
) -> Iterator[StateBlock]:
    keys, ways = _distinct(keys_of(root_tables(roots)), np.ones(len(roots), np.uint64))
    for level in range(context.levels, 0, -1):
        below = [(keys[:0], ways[:0])]
        for at in range(0, len(keys), BLOCK):
            some = slice(at, at + BLOCK)
            held = expand_states(memory, context, level, keys[some])
            yield StateBlock(level, keys[some], ways[some], held)
            below.append(_distinct(keys_of(held.children), ways[some][held.child_parent]))
        keys, ways = _distinct(*(np.concatenate(column) for column in zip(*below, strict=True)))


def states_by_level(memory: PhysicalMemory, contexts: Contexts) -> dict[int, U64]:
    """Return the keys of all distinct states by level, ascending; the lowest level comes first.

    A word for each state is kept. `ValueError` as in `distinct_states`.
    """
    keys: dict[int, list[U64]] = {}
    for block in distinct_states(memory, contexts):
        keys.setdefault(block.level, []).append(block.key)
    return {level: np.concatenate(parts) for level, parts in sorted(keys.items())}


def expand_states(
    memory: PhysicalMemory, context: PagingContext, level: int, keys: U64
) -> Expanded:
    """Return what the tables of these states hold; a `va` counts from its table's first byte."""
    grants = keys & np.uint64(GRANTS - 1)
    tables = Tables(np.zeros_like(keys), keys - grants, grants.astype(np.uint8))
    return expand(memory, context, level, tables)


def keys_of(tables: Tables) -> U64:
    """Return the states that these tables are in, uint64[n]."""
    return tables.frame | tables.grant


def _distinct(keys: U64, ways: U64) -> tuple[U64, U64]:
    """Return the distinct keys, ascending, and the sum of the ways of each."""
    found, inverse = np.unique(keys, return_inverse=True)
    total = np.zeros(len(found), np.uint64)
    np.add.at(total, inverse, ways)
    return found, total
