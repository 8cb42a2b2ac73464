"""The walk's list of pages, compared with the outcomes of accesses."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.selection import Lister
from crosswalk.walker.access import Access
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import Leaves
from crosswalk.walker.mappings import Mapping
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.outcome import ErrorCode, Outcome
from crosswalk.walker.rights import Rights, rights_table
from crosswalk.walker.translate import Walk

__all__ = ["ListingDivergence", "listed_pages", "mapping_at", "unlike_list"]

SPARE = 1 << 20
"""So many pages more than accesses are read at once; beyond them, window by window."""

_WINDOW = 21  # What a page table maps: no window holds more than 512 pages of one listing.
_USER = 3  # The user's rights are the supervisor's, three bits higher.


@dataclass(frozen=True, slots=True)
class ListingDivergence:
    """An access whose outcome contradicts the walk's list, though not the walk of its address.

    `listed` is the page of the list that holds the address, None for none; `walk` are the entries
    that the access used.
    """

    access: Access
    listed: Mapping | None
    observed: Outcome
    walk: Walk


def listed_pages(
    memory: PhysicalMemory, context: PagingContext, walk: Lister, va: U64
) -> tuple[Leaves, NDArray[np.intp]]:
    """Return pages that the walk lists, and for each address the row of its page, intp[n].

    -1 where no page of the list holds an address. Time and memory follow the number of addresses,
    whatever else the walk would list between them.
    """
    pages = _pages_about(memory, context, walk, va)
    pages = pages.take(np.argsort(pages.va, kind="stable"))
    if not len(pages):
        return pages, np.full(len(va), -1, np.intp)
    row = np.searchsorted(pages.va, va, "right") - 1
    inside = (row >= 0) & (va - pages.va[row] < pages.size[row])
    return pages, np.where(inside, row, -1)


def unlike_list(
    context: PagingContext,
    accesses: Accesses,
    pages: Leaves,
    row: NDArray[np.intp],
    outcomes: Outcomes,
) -> NDArray[np.bool_]:
    """Return bool[n]: which outcomes contradict the list, `pages` and `row` of `listed_pages`.

    An access succeeds where its page is listed with that right, at the page's physical address and
    the offset into it, and nowhere else. Rights leave protection keys out: a fault for a key
    contradicts none.
    """
    held = row >= 0
    ok: NDArray[np.bool_] = outcomes.kind == Kind.OK
    if not len(pages):
        return ok
    at = np.where(held, row, 0)
    right = np.uint8(1) << (accesses.type + np.uint8(_USER) * (accesses.cpl == 3))
    rights = _rights(context, accesses, pages, at)
    allowed = held & ((rights & right) != 0)
    expected = pages.pa[at] + (accesses.va - pages.va[at])
    by_key = (outcomes.kind == Kind.PAGE_FAULT) & ((outcomes.error_code & ErrorCode.PK) != 0)
    wrong: NDArray[np.bool_] = np.where(ok, ~allowed | (expected != outcomes.pa), allowed & ~by_key)
    return wrong


def mapping_at(context: PagingContext, pages: Leaves, row: int) -> Mapping | None:
    """Return a page of the list as an object; None for row -1."""
    if row < 0:
        return None
    one = pages.take(slice(row, row + 1))
    columns = (one.va, one.pa, one.size, one.level, one.flags)
    va, pa, size, level, flags = (int(column[0]) for column in columns)
    return Mapping(va, pa, size, level, flags, Rights(int(one.rights(context)[0])))


def _rights(
    context: PagingContext, accesses: Accesses, pages: Leaves, at: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Return the rights that the list states for the page of each access, under its own AC."""
    tables = [rights_table(replace(context, rflags_ac=ac)) for ac in (False, True)]
    return np.stack(tables)[accesses.ac.astype(np.intp), pages.grant[at]]


def _pages_about(memory: PhysicalMemory, context: PagingContext, walk: Lister, va: U64) -> Leaves:
    """Return all pages of the list that hold one of these addresses, and others."""
    found = [Leaves.none()]
    if not len(va):
        return found[0]
    left = SPARE + len(va)
    for block in walk(memory, context, int(va.min()), int(va.max()) + 1):
        found.append(block)
        left -= len(block)
        if left < 0:
            break
    else:
        return Leaves.join(found)
    found = [Leaves.none()]
    window = np.unique(va >> np.uint64(_WINDOW))
    first = np.append(0, np.flatnonzero(np.diff(window) != 1) + 1)
    last = np.append(first[1:], len(window)) - 1
    for low, high in zip(window[first].tolist(), window[last].tolist(), strict=True):
        found += walk(memory, context, low << _WINDOW, high + 1 << _WINDOW)
    # A page larger than a window may be listed for several of them.
    return Leaves.join(found)
