"""Tables as states: each visited once for each level and each set of inherited grants.

However many ways lead to a table, it has at most eight states a level. What depends on where a
mapping leads and on its rights, and not on its address, follows from the states alone: at a
cost that shared and self-referencing tables can't raise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from walker.context import PagingContext
from walker.leaves import Leaves, Tables, expand, root_table
from walker.memory import U64, PhysicalMemory
from walker.rights import GRANTS

__all__ = ["StateBlock", "distinct_states"]

_BLOCK = 1024
_MERGE = 64


@dataclass(frozen=True, slots=True)
class StateBlock:
    """Some states of one level, and what they hold.

    `key` uint64[n] is a table's frame with its inherited `Grant` bits below, `ways` uint64[n]
    the number of paths from the root that lead there. Of `leaves` and of the tables below,
    `leaf_state` and `child_state` tell the row here, `child_key` the state, and
    `child_offset`, like the `va` of a leaf, the bytes from the first that the table covers.
    """

    level: int
    key: U64
    ways: U64
    leaves: Leaves
    leaf_state: NDArray[np.intp]
    child_key: U64
    child_state: NDArray[np.intp]
    child_offset: U64


def distinct_states(memory: PhysicalMemory, context: PagingContext) -> Iterator[StateBlock]:
    """Yield every distinct state in blocks, from the root down, by ascending key in a level.

    The ways can't overflow: there are at most 512^4.
    """
    root = root_table(context)
    keys, ways = root.frame | root.grant, np.ones(1, np.uint64)
    for level in range(context.levels, 0, -1):
        below: list[tuple[U64, U64]] = [(keys[:0], ways[:0])]
        for at in range(0, len(keys), _BLOCK):
            some = slice(at, at + _BLOCK)
            part = expand(memory, context, level, _tables(keys[some]))
            child_key = part.children.frame | part.children.grant
            yield StateBlock(
                level,
                keys[some],
                ways[some],
                part.leaves,
                part.leaf_parent,
                child_key,
                part.child_parent,
                part.children.va,
            )
            below.append((child_key, ways[some][part.child_parent]))
            if len(below) >= _MERGE:
                below = [_merge(below)]
        keys, ways = _merge(below)


def _tables(keys: U64) -> Tables:
    grants = keys & np.uint64(GRANTS - 1)
    return Tables(np.zeros_like(keys), keys - grants, grants.astype(np.uint8))


def _merge(parts: list[tuple[U64, U64]]) -> tuple[U64, U64]:
    """Return the distinct keys of all parts, with their ways added up."""
    keys, inverse = np.unique(np.concatenate([key for key, _ in parts]), return_inverse=True)
    ways = np.zeros(len(keys), np.uint64)
    np.add.at(ways, inverse, np.concatenate([count for _, count in parts]))
    return keys, ways
