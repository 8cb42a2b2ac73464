"""Several address spaces in one memory: grouped by registers, and what they have in common.

An operating system's address spaces share most of their tables. What is computed of all of them
together (`crosswalk.walker.states`) costs the distinct tables; what is listed root by root can
leave out the slots whose entry an earlier root has there, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import CR3, PagingContext, PagingMode
from crosswalk.walker.entry import Entry, Level, level_of
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.second_level import SecondLevel, Space, TableContext, table_level
from crosswalk.walker.tables import invalid_roots, read_tables

__all__ = [
    "AnyGroup",
    "Contexts",
    "SpaceGroup",
    "access_key",
    "distinct_contexts",
    "groups_of",
    "listed_contexts",
    "shared_slots",
    "slot_ranges",
    "space_key",
]

Contexts = PagingContext | Sequence[PagingContext]
"""One address space, or any number of them in one memory."""

_ROOTS = 2048
"""How many root tables are read at once: 8 MiB of words."""
_COMPARED = 1 << 20
"""How many entries are compared at once."""
_NOT_ENTERED = np.uint64((1 << 64) - 1)
_REGISTERS = tuple(field.name for field in fields(PagingContext) if field.name != "cr3")


@dataclass(frozen=True, slots=True)
class AnyGroup(Generic[Space]):
    """Address spaces whose contexts differ in their roots alone, each once, in the order given.

    As far as tables and effective rights go: they may differ in what only accesses depend on.

    `roots` uint64[n] are the physical addresses of the root tables of the n `contexts`, `numbers`
    the places of these among all contexts that were given, ascending.
    """

    contexts: tuple[Space, ...]
    roots: U64
    numbers: tuple[int, ...]

    @property
    def context(self) -> Space:
        """The first context, which stands for all but for the root."""
        return self.contexts[0]


SpaceGroup = AnyGroup[PagingContext]
"""The same of a processor's paging."""


def listed_contexts(contexts: Space | Sequence[Space]) -> Sequence[Space]:
    """Return the contexts as a sequence, also where there is one that isn't in any."""
    return contexts if isinstance(contexts, Sequence) else [contexts]


def distinct_contexts(contexts: Space | Sequence[Space]) -> list[Space]:
    """Return the contexts in the order given, each address space once."""
    found: dict[tuple[object, ...], Space] = {}
    for each in listed_contexts(contexts):
        found.setdefault(space_key(each), each)
    return list(found.values())


def space_key(context: TableContext) -> tuple[int, *tuple[object, ...]]:
    """Return what two contexts have in common if they are one address space.

    That is the root, and all that tables mean and the rights that they leave depend on.
    """
    if isinstance(context, SecondLevel):
        return context.root, *context.key
    return (
        context.root,
        context.mode,
        context.maxphyaddr,
        context.page1gb,
        context.vendor,
        context.encryption_mask,
        context.nxe,
        context.pse and context.mode is PagingMode.BIT32,
        context.wp,
        context.smep,
        context.smap and not context.rflags_ac,
    )


def access_key(context: PagingContext) -> tuple[int, *tuple[object, ...]]:
    """Return what two contexts have in common if no access tells them apart.

    That is the root and all registers; of CR3 the bits that mask addresses.
    """
    cr3 = context.cr3 & (CR3.LAM_U48 | CR3.LAM_U57) if context.mode.long else 0
    return context.root, cr3, *(getattr(context, name) for name in _REGISTERS)


def groups_of(
    contexts: Space | Sequence[Space],
    key: Callable[[Space], tuple[int, *tuple[object, ...]]] = space_key,
) -> list[AnyGroup[Space]]:
    """Return the contexts in groups that differ in their roots alone, in order of each's first.

    Two values of CR3 with one root table are one address space: the first of them stays. `key`
    gives what makes two contexts one, the root before all else.
    """
    groups: dict[tuple[object, ...], dict[int, int]] = {}
    every = listed_contexts(contexts)
    for number, each in enumerate(every):
        root, *registers = key(each)
        groups.setdefault(tuple(registers), {}).setdefault(root, number)
    return [
        AnyGroup(
            tuple(every[number] for number in group.values()),
            np.array(list(group), np.uint64),
            tuple(group.values()),
        )
        for group in groups.values()
    ]


def shared_slots(memory: PhysicalMemory, group: AnyGroup[Space]) -> NDArray[np.uint32]:
    """Return for each slot of each root how many roots have the same entry there.

    uint32[n, number of slots]; 0 where a root before has it, so that what isn't 0 is each distinct
    entry of a slot once. Two entries are the same if they are equal but for A: what the slot
    translates is then the same under both roots. An absent entry is an entry like any other, and
    all entries of PAE roots that can't be entered are the same.
    """
    level = table_level(group.context, group.context.levels)
    found = np.zeros((len(group.roots), level.entries), np.uint32)
    width = min(max(_COMPARED // len(group.roots), 1), level.entries)
    for first in range(0, level.entries, width):
        columns = slice(first, first + width)
        words = _words(memory, group, level, columns)
        # Most entries are as the first root's, and only the others need to be sorted.
        same = words == words[0]
        found[0, columns] = same.sum(axis=0)
        row, slot = np.nonzero(~same)
        word = words[row, slot]
        order = np.lexsort((row, word, slot))
        row, slot, word = row[order], slot[order], word[order]
        fresh = np.ones(len(order), np.bool_)
        fresh[1:] = (slot[1:] != slot[:-1]) | (word[1:] != word[:-1])
        begins = np.flatnonzero(fresh)
        found[row[begins], first + slot[begins]] = np.diff(np.append(begins, len(order)))
    return found


def _words(memory: PhysicalMemory, group: AnyGroup[Space], level: Level, columns: slice) -> U64:
    """Return these entries of all roots as they are compared, uint64[n, number of columns]."""
    parts = []
    for at in range(0, len(group.roots), _ROOTS):
        some = group.roots[at : at + _ROOTS]
        words = read_tables(memory, level, some)[:, columns].astype(np.uint64)
        words &= ~np.uint64(_used(group.context, level))
        words[invalid_roots(memory, group.context, some)] = _NOT_ENTERED
        parts.append(words)
    return np.concatenate(parts)


def _used(context: TableContext, level: Level) -> int:
    """Return the flags of entries of a root that accesses set."""
    if isinstance(context, SecondLevel):
        return context.use
    return int(Entry.A) if level.restricts else 0


def slot_ranges(context: PagingContext, slots: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the linear addresses [start, end) of the chosen slots of a root, in address order.

    Neighbouring slots are one range, but none crosses from one canonical half to the other.
    """
    level = level_of(context, context.levels)
    half = level.entries // 2 if context.mode.long else level.entries
    edges = np.flatnonzero(np.diff(np.concatenate([[False], slots, [False]]).astype(np.int8)))
    runs: list[tuple[int, int]] = []
    for first, end in edges.reshape(-1, 2).tolist():
        cuts = [first, half, end] if first < half < end else [first, end]
        runs += pairwise(cuts)
    # Above the hole between the halves, an address copies the top bit of its index.
    above = (1 << 64) - (1 << context.va_bits) if context.mode.long else 0
    return [
        (
            (first << level.shift) + (above if first >= half else 0),
            (end << level.shift) + (above if first >= half else 0),
        )
        for first, end in runs
    ]
