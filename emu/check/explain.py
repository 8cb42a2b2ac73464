"""The most frequent known divergence, recognised in bulk."""

import numpy as np
from numpy.typing import NDArray

from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext
from walker.entry import Entry
from walker.memory import U64, WORDS, PhysicalMemory

__all__ = ["ACCESSED_LEAF", "accessed_leaves", "large_pdptes"]

ACCESSED_LEAF = "pdpte-leaf-accessed-on-fault"
"""The id of the registry's entry."""


def accessed_leaves(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    predicted: Outcomes,
    observed: Outcomes,
) -> NDArray[np.bool_]:
    """Return bool[n]: of which accesses `ACCESSED_LEAF` explains that they differ.

    The same as its entry in the registry says, row by row.
    """
    explained = np.zeros(len(accesses), np.bool_)
    if not context.mode.long:
        return explained
    fault = (predicted.kind == Kind.PAGE_FAULT) & (observed.kind == Kind.PAGE_FAULT)
    fault &= (predicted.error_code == observed.error_code) & (predicted.cr2 == observed.cr2)
    differ = predicted.entry_pa != observed.entry_pa
    differ |= predicted.entry_value != observed.entry_value
    rows = np.flatnonzero(fault & differ.any(axis=1))
    said = predicted.entry_pa[rows, None, :] == observed.entry_pa[rows, :, None]
    said &= predicted.entry_value[rows, None, :] == observed.entry_value[rows, :, None]
    extra = (observed.entry_value[rows] != 0) & ~said.any(axis=2)
    one = extra.sum(axis=1) == 1
    rows, at = rows[one], extra[one].argmax(axis=1)
    pa, entry = large_pdptes(memory, context, accesses.va[rows])
    reached = entry != 0
    reached &= observed.entry_pa[rows, at] == pa
    reached &= observed.entry_value[rows, at] == entry | np.uint64(Entry.A)
    explained[rows[reached]] = True
    return explained


def large_pdptes(memory: PhysicalMemory, context: PagingContext, va: U64) -> tuple[U64, U64]:
    """Return the address and the value, uint64[n], of the PDPTE with PS that each `va` selects.

    The value is 0 where the walk finds none, or none that is present. In IA-32e mode alone.
    """
    entry = pa = table = np.full(len(va), context.root, np.uint64)
    reached = np.ones(len(va), np.bool_)
    for level in range(context.levels, 2, -1):
        index = va >> np.uint64(3 + 9 * level) & np.uint64(WORDS - 1)
        pa = table + index * np.uint64(8)
        frames, inverse = np.unique(table, return_inverse=True)
        entry = memory.tables(frames)[inverse, index]
        reached &= (entry & np.uint64(Entry.P)) != 0
        table = entry & np.uint64(context.address_mask)
    reached &= (entry & np.uint64(Entry.PS)) != 0
    return pa, np.where(reached, entry, np.uint64(0))
