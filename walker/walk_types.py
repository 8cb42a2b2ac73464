"""Memory types of one walk: by which each entry is read, and which the page has.

Source: Intel SDM vol. 3A, "Paging and Memory Typing When the PAT is Supported"; AMD APM vol. 2,
"Page-Attribute Table Mechanism".
"""

import numpy as np

from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.entry import Entry, leaf_address, level_of
from crosswalk.walker.memory_types import MemoryTypes, pat_index
from crosswalk.walker.mtrrs import MemoryType
from crosswalk.walker.translate import Walk

__all__ = ["page_type", "step_types"]


def step_types(
    context: PagingContext, path: Walk, types: MemoryTypes
) -> tuple[MemoryType | None, ...]:
    """Return the memory type by which each entry of a walk is read.

    PWT and PCD of CR3 choose it for the first table, those of the entry that refers to a table for
    the others; there is no PAT bit for tables. With CR4.PCIDE the bits of CR3 are part of a PCID,
    and count as 0. None for a PDPTE of PAE paging on Intel's processors, which load all four with
    CR3: the manual doesn't state by which type.
    """
    found: list[MemoryType | None] = []
    above = 0 if context.cr4 & CR4.PCIDE else context.cr3
    for step in path.steps:
        if context.loads_pdptes and step.level == context.levels:
            found.append(None)
        else:
            own = MemoryType(types.pat.types[_table_index(above)])
            found.append(types.of_own(own, step.pa))
        above = step.entry
    return tuple(found)


def _table_index(above: int) -> int:
    """Return the field of IA32_PAT by which the table is read that an entry, or CR3, refers to."""
    return (2 if above & Entry.PCD else 0) | (1 if above & Entry.PWT else 0)


def page_type(context: PagingContext, path: Walk, types: MemoryTypes) -> MemoryType | None:
    """Return the memory type of the page that a walk leads to; None where it leads to none."""
    leaf = path.leaf
    if leaf is None:
        return None
    size = np.array([1 << level_of(context, leaf.level).shift], np.uint64)
    pa = np.array([leaf_address(context, leaf.level, leaf.entry)], np.uint64)
    index = np.array([pat_index(leaf.level, leaf.entry)], np.uint8)
    return MemoryType(types.of_indices(pa, size, index)[0])
