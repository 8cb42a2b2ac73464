"""Which mappings lead to a physical range: found from the tables up, named from the root down."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from walker.context import PagingContext
from walker.leaves import Leaves, canonical
from walker.mappings import Mapping
from walker.memory import U64, PhysicalMemory
from walker.rights import Rights, rights_table
from walker.states import StateBlock, distinct_states

__all__ = ["Aliases", "mappings_of"]


@dataclass(frozen=True, slots=True)
class _Level:
    """All states of one level by ascending key; leaves and children by state, then address."""

    key: U64
    leaves: Leaves
    leaf_state: NDArray[np.intp]
    child_key: U64
    child_state: NDArray[np.intp]
    child_offset: U64


class Aliases:
    """The mappings of physical ranges, for any number of questions about one address space.

    Costs the distinct states of its tables once, and then what is asked for: mappings that
    don't lead to the range are never enumerated, however many there are.
    """

    def __init__(self, memory: PhysicalMemory, context: PagingContext) -> None:
        self._context = context
        self._rights = rights_table(context)
        blocks: dict[int, list[StateBlock]] = {level: [] for level in range(context.levels + 1)}
        for block in distinct_states(memory, context):
            blocks[block.level].append(block)
        self._levels = {level: _join(parts) for level, parts in blocks.items() if parts}

    def find(self, start: int, size: int, *, rights: Rights | None = None) -> Iterator[Mapping]:
        """Yield the mappings that reach bytes [start, start + size), in address order.

        With `rights`, only those that have at least one of them.
        """
        hits: dict[int, NDArray[np.bool_]] = {}
        alive: dict[int, NDArray[np.bool_]] = {}
        below = np.zeros(0, np.uint64)
        for level, states in sorted(self._levels.items()):
            pa, length = states.leaves.pa, states.leaves.size
            hit = (pa < start + size) & (pa + (length - np.uint64(1)) >= start)
            if rights is not None:
                hit &= (self._rights[states.leaves.grant] & rights) != 0
            alive[level] = np.isin(states.child_key, below)
            hits[level] = hit
            reaching = np.concatenate([states.leaf_state[hit], states.child_state[alive[level]]])
            below = states.key[np.unique(reaching)]
        if len(below):
            yield from self._descend(self._context.levels, 0, 0, hits, alive)

    def _descend(
        self,
        level: int,
        state: int,
        base: int,
        hits: dict[int, NDArray[np.bool_]],
        alive: dict[int, NDArray[np.bool_]],
    ) -> Iterator[Mapping]:
        states = self._levels[level]
        leaves = _rows_of(states.leaf_state, state)
        leaf_rows = leaves.start + np.flatnonzero(hits[level][leaves])
        children = _rows_of(states.child_state, state)
        child_rows = children.start + np.flatnonzero(alive[level][children])
        offsets = np.concatenate([states.leaves.va[leaf_rows], states.child_offset[child_rows]])
        rows = np.concatenate([leaf_rows, child_rows])
        for at in np.argsort(offsets, kind="stable").tolist():
            row, va = int(rows[at]), base + int(offsets[at])
            if at < len(leaf_rows):
                yield self._mapping(states.leaves.take(slice(row, row + 1)), va)
            else:
                child = np.searchsorted(self._levels[level - 1].key, states.child_key[row])
                yield from self._descend(level - 1, int(child), va, hits, alive)

    def _mapping(self, leaf: Leaves, va: int) -> Mapping:
        return Mapping(
            int(canonical(self._context, np.array([va], np.uint64))[0]),
            int(leaf.pa[0]),
            int(leaf.size[0]),
            int(leaf.level[0]),
            int(leaf.flags[0]),
            Rights(int(self._rights[leaf.grant[0]])),
        )


def mappings_of(
    memory: PhysicalMemory, context: PagingContext, start: int, size: int
) -> Iterator[Mapping]:
    """Yield the mappings that reach physical bytes [start, start + size), in address order."""
    return Aliases(memory, context).find(start, size)


def _join(parts: list[StateBlock]) -> _Level:
    # Rows of a block become rows of the level.
    firsts = np.cumsum([0] + [len(part.key) for part in parts])[:-1].tolist()
    placed = list(zip(parts, firsts, strict=True))
    return _Level(
        np.concatenate([part.key for part in parts]),
        Leaves.join(part.leaves for part in parts),
        np.concatenate([part.leaf_state + first for part, first in placed]),
        np.concatenate([part.child_key for part in parts]),
        np.concatenate([part.child_state + first for part, first in placed]),
        np.concatenate([part.child_offset for part in parts]),
    )


def _rows_of(column: NDArray[np.intp], state: int) -> slice:
    first, last = np.searchsorted(column, [state, state + 1]).tolist()
    return slice(first, last)
