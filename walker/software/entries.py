"""Entries whose P is clear, and that aren't zero, at every linear address that selects them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from crosswalk.walker.blocks import BLOCK, Leaves, Tables, clip, interleave
from crosswalk.walker.columns import among
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import Entry, level_of
from crosswalk.walker.leaves import TOP, canonical, distinct_tables, expand, root_table
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.tables import invalid_pdpte, read_tables

__all__ = ["absent_entries"]


def absent_entries(
    memory: PhysicalMemory, context: PagingContext, start: int = 0, end: int = TOP
) -> Iterator[Leaves]:
    """Yield the entries of all levels with P clear that aren't zero, in address order, in blocks.

    Those whose linear addresses touch [start, end): an entry of level n spans what a table below it
    would. A table that is reached by several ways counts at each of them; those that lead to no
    such entry, as the tables of a KASAN shadow, are looked at once. Memory is bounded by a block,
    and by a word for each distinct table.
    """
    if start >= end or invalid_pdpte(memory, context) is not None:
        return
    leading = _leading(memory, context)
    root = root_table(context)
    yield from _absent(memory, context, leading, context.levels, root, (start, end))


def _leading(memory: PhysicalMemory, context: PagingContext) -> dict[int, U64]:
    """Return by level the tables that have such an entry or lead to one, ascending."""
    found: dict[int, U64] = {}
    below = np.zeros(0, np.uint64)
    roots = np.array([context.root], np.uint64)
    for level, tables in reversed(list(distinct_tables(memory, context, roots))):
        leads = np.zeros(len(tables), np.bool_)
        for at in range(0, len(tables), BLOCK):
            some = tables.take(slice(at, at + BLOCK))
            words = read_tables(memory, level_of(context, level), some.frame)
            leads[at : at + BLOCK] = ((words != 0) & (words & int(Entry.P) == 0)).any(axis=1)
            if level > 1:
                held = expand(memory, context, level, some)
                down = among(held.children.frame, below)
                leads[at + held.child_parent[down]] = True
        found[level] = below = np.sort(tables.frame[leads])
    return found


def _absent(
    memory: PhysicalMemory,
    context: PagingContext,
    leading: dict[int, U64],
    level: int,
    tables: Tables,
    between: tuple[int, int],
) -> Iterator[Leaves]:
    form, (start, end) = level_of(context, level), between
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
        inside &= among(children.frame, leading[level - 1])
        children = children.take(inside)
        below = _absent(memory, context, leading, level - 1, children, between)
        yield from interleave(absent, below) if len(absent) else below
