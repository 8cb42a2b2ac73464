"""Frames whose mappings disagree in memory type.

A processor may see one and the same memory cached through one mapping and uncached through another,
so that the manuals forbid it: what is read then isn't defined. No mapping is enumerated to find
such frames, see `crosswalk.walker.frames`.

Source: Intel SDM vol. 3A, "Programming the PAT"; AMD APM vol. 2, "Page-Attribute Table Mechanism".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.aliases import MAX_QUERIES, Aliases, AliasQuery
from crosswalk.walker.columns import distinct
from crosswalk.walker.frames import Frames, united_frames, united_pages
from crosswalk.walker.leaves import Leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.memory_types import MemoryTypes, Pat, pat_indices
from crosswalk.walker.mtrrs import MTRR_TYPES, MemoryType
from crosswalk.walker.pages import Mapping
from crosswalk.walker.rights import GRANT_BITS
from crosswalk.walker.spaces import Contexts, groups_of
from crosswalk.walker.states import distinct_states

__all__ = [
    "MOST_NAMED",
    "TypeConflict",
    "TypedFrames",
    "mapped_types",
    "type_conflicts",
    "type_keys",
    "typed_frames",
]

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


@dataclass(frozen=True, slots=True)
class TypedFrames:
    """Collective rights with memory types: of each of n ranges of `frames`, `types` uint16[n].

    Bit n is `MemoryType` n, for each that the range is mapped with. Neighbours differ in rights or
    in types.
    """

    frames: Frames
    types: NDArray[np.uint16]


def type_conflicts(
    memory: PhysicalMemory,
    context: Contexts,
    types: MemoryTypes,
    *,
    aliases: int,
    mapped: Frames | None = None,
) -> list[TypeConflict]:
    """Return the physical ranges whose mappings disagree in memory type, by address.

    UC- and CD count as UC, WC+ as WC. Each of the first `MOST_NAMED` ranges has up to `aliases`
    mappings of each type, as `Aliases.find_once` names them. The cost is that of the distinct
    tables, and of the ranges found. `mapped` is what `mapped_types` returned, if it was called.
    """
    mapped = mapped_types(memory, context, types.pat) if mapped is None else mapped
    found = list(_ranges(mapped, types))
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
    keys = leaves.pa | leaves.shift.astype(np.uint64) << np.uint64(GRANT_BITS)
    return keys | pat.types[pat_indices(leaves.level, leaves.entry)]


def typed_frames(frames: Frames, mapped: Frames, types: MemoryTypes) -> TypedFrames:
    """Return collective rights with the memory types of all mappings.

    `mapped` is what `mapped_types` returns of the same address spaces.
    """
    ends = [each.start + each.size for each in (frames, mapped)]
    edges = distinct(np.concatenate([frames.start, mapped.start, *ends, types.bounds]))
    start, size = edges[:-1], np.diff(edges)
    rights, own = (each.rights_at(start) for each in (frames, mapped))
    # A piece lies in one stretch of the MTRRs: its first byte tells the type.
    several = _several(types)[own, types.mtrr_masks(start, np.ones_like(start))]
    begins = np.ones(len(start), np.bool_)
    begins[1:] = (rights[1:] != rights[:-1]) | (several[1:] != several[:-1])
    first = np.flatnonzero(begins)
    size = np.add.reduceat(size, first) if len(first) else size
    start, rights, several = start[first], rights[first], several[first]
    kept = np.flatnonzero((several != 0) & (rights != 0))
    return TypedFrames(Frames(start[kept], size[kept], rights[kept]), several[kept])


def _several(types: MemoryTypes) -> NDArray[np.uint16]:
    """Return the types, a bit for each, by those of pages' own and of MTRRs, uint16[64, 64]."""
    table = np.zeros((64, 64), np.uint16)
    for bit, kind in enumerate(_OWN):
        mapped = np.flatnonzero(np.arange(64) >> bit & 1)
        table[mapped] |= np.uint16(1) << types.effective[kind].astype(np.uint16)
    return table


def mapped_types(memory: PhysicalMemory, context: Contexts, pat: Pat) -> Frames:
    """Return the types of their own that the pages of each physical range have.

    In place of rights, a bit for each type: UC, WC, WT, WP, WB, UC-.
    """
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
) -> Iterator[tuple[TypeConflict, Sequence[tuple[MemoryType, MemoryType]]]]:
    """Yield the ranges in conflict, each with the pages' own types there and what they come to."""
    ends = frames.start + frames.size
    edges = distinct(np.concatenate([frames.start, ends, types.bounds]))
    start, size = edges[:-1], np.diff(edges)
    own = frames.rights_at(start)
    several = np.flatnonzero(own & (own - np.uint8(1)))
    start, size, own = start[several], size[several], own[several]
    # A piece lies in one stretch of the MTRRs: its first byte tells the type.
    masks = types.mtrr_masks(start, np.ones_like(start))
    found, kind = np.unique(own.astype(np.uint16) << 8 | masks, return_inverse=True)
    each = [_kinds(types, code >> 8, code & 0xFF) for code in found.tolist()]
    differ = np.array([_differ(kinds) for kinds in each], np.bool_)
    rows = np.flatnonzero(differ[kind])
    columns = (start[rows], size[rows], kind[rows])
    for pa, length, number in zip(*(column.tolist() for column in columns), strict=True):
        kinds = each[number]
        yield TypeConflict(pa, length, tuple(sorted({effective for _, effective in kinds}))), kinds


def _kinds(types: MemoryTypes, own: int, mask: int) -> list[tuple[MemoryType, MemoryType]]:
    """Return the pages' own types, and what they come to with MTRRs' types, by their bits."""
    return [
        (kind, MemoryType(types.effective[kind, mask]))
        for bit, kind in enumerate(_OWN)
        if own >> bit & 1
    ]


def _differ(kinds: Sequence[tuple[MemoryType, MemoryType]]) -> bool:
    return len({_ALIKE.get(effective, effective) for _, effective in kinds}) > 1
