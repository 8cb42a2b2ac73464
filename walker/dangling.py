"""Linear addresses of which memory can't tell what they map: their tables lie outside it."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from crosswalk.walker.blocks import BLOCK, Tables
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.leaves import TOP, canonical, expand, root_table
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.tables import invalid_pdpte

__all__ = ["dangling_spans"]

_PAGE = np.uint64(FRAME.bit_length() - 1)


def dangling_spans(
    memory: PhysicalMemory, context: PagingContext, start: int = 0, end: int = TOP
) -> Iterator[tuple[U64, U64]]:
    """Yield what tables outside memory translate, in address order, block by block.

    Each block is the first addresses, uint64[n], and the sizes in bytes, uint64[n], of spans that
    touch [start, end), whole. Where a PAE address space can't be entered there are none. The
    root itself is taken to be in memory.
    """
    if start >= end or invalid_pdpte(memory, context) is not None:
        return
    yield from _below(memory, context, context.levels, root_table(context), (start, end))


def _below(
    memory: PhysicalMemory,
    context: PagingContext,
    level: int,
    tables: Tables,
    between: tuple[int, int],
) -> Iterator[tuple[U64, U64]]:
    """Yield the spans below these tables of one level, of those that touch `between`."""
    form = level_of(context, level)
    # In pages, in which the end of the address space is a number like any other.
    span, first, last = form.span >> int(_PAGE), between[0] >> int(_PAGE), -(-between[1] // FRAME)
    for at in range(0, len(tables), BLOCK):
        found = expand(memory, context, level, tables.take(slice(at, at + BLOCK))).children
        # The root's addresses are indices until here; those below go on from canonical ones.
        va = canonical(context, found.va) if level == context.levels else found.va
        page = va >> _PAGE
        some = (page + np.uint64(span) > np.uint64(first)) & (page < np.uint64(last))
        found = Tables(va, found.frame, found.grant).take(some)
        outside = ~memory.backed(found.frame)
        edges = np.flatnonzero(np.diff(outside)) + 1
        cuts = [0, *edges.tolist(), len(found)] if len(found) else [0]
        for begin, stop in pairwise(cuts):
            run = found.take(slice(begin, stop))
            if outside[begin]:
                yield run.va, np.full(len(run), form.span, np.uint64)
            elif level > 2:
                yield from _below(memory, context, level - 1, run, between)
