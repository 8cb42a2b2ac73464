"""Entries whose P is clear, and that aren't zero, at every linear address that selects them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from crosswalk.walker.blocks import BLOCK, Leaves, Tables, clip, interleave
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.leaves import TOP, canonical, expand, root_table
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.tables import invalid_pdpte

__all__ = ["absent_entries"]


def absent_entries(
    memory: PhysicalMemory, context: PagingContext, start: int = 0, end: int = TOP
) -> Iterator[Leaves]:
    """Yield the entries of all levels with P clear that aren't zero, in address order, in blocks.

    Those whose linear addresses touch [start, end): an entry of level n spans what a table below it
    would. A table that is reached by several ways counts at each of them. Memory is bounded by a
    block, and nothing is read before it is asked for, as in `walk_leaves`.
    """
    if start >= end or invalid_pdpte(memory, context) is not None:
        return
    yield from _absent(memory, context, context.levels, root_table(context), start, end)


def _absent(
    memory: PhysicalMemory,
    context: PagingContext,
    level: int,
    tables: Tables,
    start: int,
    end: int,
) -> Iterator[Leaves]:
    form = level_of(context, level)
    for at in range(0, len(tables), BLOCK):
        found = expand(memory, context, level, tables.take(slice(at, at + BLOCK)))
        absent = found.malformed.take(found.malformed.entry & np.uint64(Entry.P) == 0)
        children = found.children
        if level == context.levels:
            # Below the root addresses go on from those of its entries.
            absent = replace(absent, va=canonical(context, absent.va))
            children = replace(children, va=canonical(context, children.va))
        absent = clip(absent, form, start, end)
        if level == 1:
            if len(absent):
                yield absent
            continue
        inside = (children.va + np.uint64(form.span - 1) >= start) & (children.va <= end - 1)
        below = _absent(memory, context, level - 1, children.take(inside), start, end)
        yield from interleave(absent, below) if len(absent) else below
