"""Paging structures that are themselves mapped: by which mappings, and with which rights.

Whoever may write a page table may map anything. A table's frame is looked up among the collective
rights, so that no mapping is enumerated, however many there are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.aliases import MAX_QUERIES, Aliases, AliasQuery
from crosswalk.walker.columns import Rows
from crosswalk.walker.entry import LEVELS
from crosswalk.walker.frames import Frames, collective_rights
from crosswalk.walker.leaves import canonical, distinct_tables
from crosswalk.walker.mappings import Mapping
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.rights import WRITES, Rights
from crosswalk.walker.second_level import TableContext, table_level
from crosswalk.walker.spaces import groups_of

__all__ = ["MappedTables", "WritableTable", "mapped_tables", "table_names", "writable_tables"]


@dataclass(frozen=True, slots=True)
class MappedTables(Rows):
    """The n frames that hold paging structures, ascending.

    `pa` uint64[n] are their addresses; `levels` uint8[n] has bit k set where the frame is, or
    holds, a table of level k; `va`, `size` uint64[n] are the lowest linear address that it
    translates at the highest of these levels, and how many bytes it does from there. `rights`
    uint8[n] are the collective `Rights` of the frame, 0 where nothing maps it.
    """

    pa: U64
    levels: NDArray[np.uint8]
    va: U64
    size: U64
    rights: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pa)

    def granting(self, rights: Rights) -> NDArray[np.bool_]:
        """Return which frames some mapping grants any of these rights to, bool[n]."""
        granted: NDArray[np.bool_] = (self.rights & np.uint8(rights)) != 0
        return granted


def mapped_tables(
    memory: PhysicalMemory,
    contexts: TableContext | Sequence[TableContext],
    frames: Frames | None = None,
) -> MappedTables:
    """Return the frames of all tables of these address spaces, with their collective rights.

    Roots are among them, and so are tables outside the memory, whose addresses are known. `frames`
    are the `collective_rights` of the same address spaces, if the caller has them. A frame has a
    mapping's rights whichever of the address spaces it is in. Time and memory are those of
    `collective_rights`.
    """
    if frames is None:
        frames = collective_rights(memory, contexts)
    none = np.zeros(0, np.uint64)
    parts = [_Tables(none, np.zeros(0, np.uint8), none, none)]
    for group in groups_of(contexts):
        for number, tables in distinct_tables(memory, group.context, group.roots):
            level = table_level(group.context, number)
            parts.append(
                _Tables(
                    tables.frame & ~np.uint64(FRAME - 1),
                    np.full(len(tables), number, np.uint8),
                    canonical(group.context, tables.va),
                    np.full(len(tables), level.span << level.index_bits, np.uint64),
                )
            )
    found = _Tables.join(parts)
    # The highest level of each frame comes first, and there the lowest address.
    found = found.take(np.lexsort((found.va, -found.level.astype(np.int8), found.pa)))
    fresh = np.ones(len(found.pa), np.bool_)
    fresh[1:] = found.pa[1:] != found.pa[:-1]
    first = np.flatnonzero(fresh)
    kept = found.take(first)
    bits = np.uint8(1) << found.level
    levels = np.bitwise_or.reduceat(bits, first)
    return MappedTables(kept.pa, levels, kept.va, kept.size, frames.rights_at(kept.pa))


@dataclass(frozen=True, slots=True)
class _Tables(Rows):
    """n tables: frame, level, the lowest linear address, and the bytes that each translates."""

    pa: U64
    level: NDArray[np.uint8]
    va: U64
    size: U64


def table_names(levels: int) -> list[str]:
    """Return what tables of these levels (bit k for level k) are called, the highest first."""
    return [LEVELS[number].table for number in sorted(LEVELS, reverse=True) if levels >> number & 1]


@dataclass(frozen=True, slots=True)
class WritableTable:
    """One frame as in `MappedTables`, and the first mappings that grant a right to write it."""

    pa: int
    levels: int
    va: int
    size: int
    rights: Rights
    writers: tuple[Mapping, ...]


def writable_tables(
    memory: PhysicalMemory,
    contexts: TableContext | Sequence[TableContext],
    tables: MappedTables,
    how: Rights = WRITES,
    *,
    aliases: int,
) -> Iterator[WritableTable]:
    """Yield the frames of `tables` that `how` lets write, ascending, each with mappings that do.

    Up to `aliases` of them, as `Aliases.find_once` names them. 64 frames are looked up by one pass
    over all tables, and only when they are asked for.
    """
    some = tables.take(np.flatnonzero(tables.granting(how)))
    for at in range(0, len(some), MAX_QUERIES):
        batch = some.take(slice(at, at + MAX_QUERIES))
        queries = [AliasQuery(pa, FRAME, how) for pa in batch.pa.tolist()]
        finder = Aliases(memory, contexts, queries)
        columns = (batch.pa, batch.levels, batch.va, batch.size, batch.rights)
        for number, row in enumerate(zip(*(it.tolist() for it in columns), strict=True)):
            pa, levels, va, size, rights = row
            writers = tuple(islice(finder.find_once(number), aliases))
            yield WritableTable(pa, levels, va, size, Rights(rights), writers)
