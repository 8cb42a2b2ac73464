"""Frames whose mappings disagree in memory type.

A processor may see one and the same memory cached through one mapping and uncached through another,
so that the manuals forbid it: what is read then isn't defined. No mapping is enumerated to find
such frames, see `crosswalk.walker.frames`.

Source: Intel SDM vol. 3A, "Programming the PAT"; AMD APM vol. 2, "Page-Attribute Table Mechanism".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np

from crosswalk.walker.aliases import MAX_QUERIES, Aliases, AliasQuery
from crosswalk.walker.frames import Frames, united_frames, united_pages
from crosswalk.walker.leaves import Leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.memory_types import MemoryTypes, Pat, pat_indices
from crosswalk.walker.mtrrs import MTRR_TYPES, MemoryType
from crosswalk.walker.pages import Mapping
from crosswalk.walker.spaces import Contexts, groups_of
from crosswalk.walker.states import distinct_states

__all__ = ["MOST_NAMED", "TypeConflict", "type_conflicts", "type_keys"]

MOST_NAMED = 256
"""The most ranges in conflict whose mappings are named."""

_OWN = (*MTRR_TYPES, MemoryType.UC_MINUS)
"""The types that a page may have of its own, each at the number of its bit."""

_ALIKE = {
    MemoryType.UC_MINUS: MemoryType.UC,
    MemoryType.CD: MemoryType.UC,
    MemoryType.WC_PLUS: MemoryType.WC,
}
"""Types that are the same to whoever reads memory: they differ in who may change them, and how."""


_VALUES = np.zeros(8, np.uint8)
_VALUES[list(_OWN)] = 1 << np.arange(len(_OWN), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class TypeConflict:
    """A physical range, `size` bytes from `pa`, that is mapped with several memory types.

    `types` are those, and `mappings` the first mappings of each type that a page has of its own,
    with the effective type; none where there are too many such ranges to name them.
    """

    pa: int
    size: int
    types: tuple[MemoryType, ...]
    mappings: tuple[tuple[MemoryType, tuple[Mapping, ...]], ...] = ()


def type_conflicts(
    memory: PhysicalMemory, context: Contexts, types: MemoryTypes, *, aliases: int
) -> list[TypeConflict]:
    """Return the physical ranges whose mappings disagree in memory type, by address.

    UC- and CD count as UC, WC+ as WC. Each of the first `MOST_NAMED` ranges has up to `aliases`
    mappings of each type, as `Aliases.find_once` names them. The cost is that of the distinct
    tables, and of the ranges found.
    """
    found = list(_ranges(_mapped_types(memory, context, types.pat), types))
    queries = [
        (row, kind, AliasQuery(each.pa, each.size, pat=_fields(types.pat, own)))
        for row, (each, kinds) in enumerate(found[:MOST_NAMED])
        for own, kind in kinds
    ]
    named: dict[int, list[tuple[MemoryType, tuple[Mapping, ...]]]] = {}
    for at in range(0, len(queries), MAX_QUERIES):
        some = queries[at : at + MAX_QUERIES]
        finder = Aliases(memory, context, [query for _, _, query in some])
        for number, (row, kind, _) in enumerate(some):
            mappings = tuple(islice(finder.find_once(number), aliases))
            named.setdefault(row, []).append((kind, mappings))
    return [
        replace(each, mappings=tuple(named.get(row, ()))) for row, (each, _) in enumerate(found)
    ]


def type_keys(leaves: Leaves, pat: Pat) -> U64:
    """Return for each leaf its page, with its shift and its own memory type in the bits below.

    As `crosswalk.walker.frames.page_keys` has it with rights.
    """
    keys = leaves.pa | leaves.shift.astype(np.uint64) << np.uint64(3)
    return keys | pat.types[pat_indices(leaves.level, leaves.entry)]


def _mapped_types(memory: PhysicalMemory, context: Contexts, pat: Pat) -> Frames:
    """Return the types of their own that the pages of each physical range have, a bit for each."""
    found = []
    for group in groups_of(context):
        blocks = distinct_states(memory, group.contexts)
        found.append(united_pages(_VALUES, (type_keys(block.leaves, pat) for block in blocks)))
    return united_frames(found)


def _fields(pat: Pat, own: MemoryType) -> int:
    """Return the fields of IA32_PAT that have a type, a bit for each."""
    return sum(1 << at for at, kind in enumerate(pat.types.tolist()) if kind == own)


def _ranges(
    frames: Frames, types: MemoryTypes
) -> Iterator[tuple[TypeConflict, list[tuple[MemoryType, MemoryType]]]]:
    """Yield the ranges in conflict, each with the pages' own types there and what they come to."""
    several = np.flatnonzero(frames.rights & (frames.rights - np.uint8(1)))
    columns = (frames.start[several], frames.size[several], frames.rights[several])
    for start, size, mask in zip(*(column.tolist() for column in columns), strict=True):
        edges = np.array([start + 1, start + size], np.uint64)
        inside = slice(*np.searchsorted(types.bounds, edges))
        for pa, end in pairwise([start, *types.bounds[inside].tolist(), start + size]):
            kinds = [
                (own, types.of_own(own, pa)) for bit, own in enumerate(_OWN) if mask >> bit & 1
            ]
            effective = {kind for _, kind in kinds}
            if len({_ALIKE.get(kind, kind) for kind in effective}) > 1:
                yield TypeConflict(pa, end - pa, tuple(sorted(effective))), kinds
