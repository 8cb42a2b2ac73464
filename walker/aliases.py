"""Which mappings lead to a physical range: found from the tables up, named from the root down."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import TOP, Leaves, canonical
from crosswalk.walker.mappings import Mapping
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import Rights, rights_table
from crosswalk.walker.states import BLOCK, distinct_states, expand_states, keys_of

__all__ = ["QUESTIONS", "Aliases", "Question", "mappings_of"]

QUESTIONS = 64
"""How many questions are answered from one pass over the tables: a bit each of a word."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which mappings reach bytes [pa, pa + size) and have one of `rights` (None: any or none)?

    None do where there are no bytes.
    """

    pa: int
    size: int
    rights: Rights | None = None


class Aliases:
    """Answers up to `QUESTIONS` questions about one address space.

    Costs two visits of each distinct state of its tables, and a word of memory for each. What
    is not asked for is never enumerated, however many mappings there are.
    """

    def __init__(
        self, memory: PhysicalMemory, context: PagingContext, questions: Sequence[Question]
    ) -> None:
        if len(questions) > QUESTIONS:
            raise ValueError(f"{len(questions)} questions; at most {QUESTIONS} at a time")
        self._memory = memory
        self._context = context
        self._questions = questions
        self._rights = rights_table(context)
        keys: dict[int, list[U64]] = {}
        for block in distinct_states(memory, context):
            keys.setdefault(block.level, []).append(block.key)
        self._keys = {level: np.concatenate(parts) for level, parts in sorted(keys.items())}
        self._leading = {0: np.zeros(0, np.uint64)}
        for level in self._keys:
            self._leading[level] = self._lead(level)

    def find(self, question: int) -> Iterator[Mapping]:
        """Yield the mappings that answer the question of this number, in address order."""
        top = self._context.levels
        if self._leading[top][0] >> np.uint64(question) & np.uint64(1):
            yield from self._descend(question, top, int(self._keys[top][0]), 0)

    def _lead(self, level: int) -> U64:
        """Return for each state of a level the questions whose answers it leads to, as bits."""
        keys = self._keys[level]
        leading = np.zeros(len(keys), np.uint64)
        for at in range(0, len(keys), BLOCK):
            held = expand_states(self._memory, self._context, level, keys[at : at + BLOCK])
            bits = self._bits_below(level, keys_of(held.children))
            np.bitwise_or.at(leading, at + held.child_parent, bits)
            for number in range(len(self._questions)):
                hit = self._hits(number, held.leaves)
                leading[at + held.leaf_parent[hit]] |= np.uint64(1 << number)
        return leading

    def _bits_below(self, level: int, keys: U64) -> U64:
        below = self._keys.get(level - 1)
        if below is None or not len(below):
            return np.zeros(len(keys), np.uint64)
        return self._leading[level - 1][np.searchsorted(below, keys)]

    def _hits(self, question: int, leaves: Leaves) -> NDArray[np.bool_]:
        asked = self._questions[question]
        pa = leaves.pa
        if asked.size <= 0:
            return np.zeros(len(leaves), np.bool_)
        last = min(asked.pa + asked.size, TOP) - 1
        hit = (pa <= last) & (pa + (leaves.size - np.uint64(1)) >= asked.pa)
        if asked.rights is not None:
            hit &= (self._rights[leaves.grant] & asked.rights) != 0
        return hit

    def _descend(self, question: int, level: int, key: int, base: int) -> Iterator[Mapping]:
        held = expand_states(self._memory, self._context, level, np.array([key], np.uint64))
        leaves = held.leaves.take(self._hits(question, held.leaves))
        keys = keys_of(held.children)
        leads = self._bits_below(level, keys) >> np.uint64(question) & np.uint64(1) != 0
        offsets = np.concatenate([leaves.va, held.children.va[leads]])
        keys = keys[leads]
        for row in np.argsort(offsets, kind="stable").tolist():
            va = base + int(offsets[row])
            if row < len(leaves):
                yield self._mapping(leaves, row, va)
            else:
                yield from self._descend(question, level - 1, int(keys[row - len(leaves)]), va)

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
    return Aliases(memory, context, [Question(start, size)]).find(0)
