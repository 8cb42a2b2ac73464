"""All ways that a walk may go, from the root or from what may be cached of upper levels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import (
    LEVELS,
    Entry,
    is_leaf,
    leaf_address,
    protection_key,
    reserved_bits,
)
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.rights import grant_of
from crosswalk.walker.tlb.caches import Leaf, Table
from crosswalk.walker.tlb.steps import pcid_of

__all__ = ["MAX_WAYS", "Decode", "Decoded", "End", "Walks", "decoded", "walks_to"]

MAX_WAYS = 1 << 12
"""The most ways that a walk may take, by what may be cached, before the model gives up."""

_D, _G = int(Entry.D), int(Entry.G)
_ALL = -1
"""What is granted before any entry: each bit that `decode` may give a meaning."""

_NOTHING: frozenset[int] = frozenset()


class Way(NamedTuple):
    """A walk so far: what entries grant, in which of them A has to be set."""

    grant: int
    read: frozenset[int]
    fresh: bool


class Decoded(NamedTuple):
    """What an entry is, at its level: how it ends a walk (None if it doesn't), its rights.

    `accessed` says whether A may be set in one that ends it by a fault.
    """

    kind: Kind | None
    reserved: bool
    grant: int
    next_table: int
    frame: int
    key: int
    accessed: bool = False


Decode = Callable[[PagingContext, int, int], Decoded]
"""Says what an entry is, in a table of this level."""


class End(NamedTuple):
    """Where a walk ends: at `entry`, at `pa` in a table of `level`."""

    level: int
    pa: int
    entry: int
    decoded: Decoded
    way: Way


@dataclass(frozen=True, slots=True)
class Walks:
    """The `ends` of all ways, what they let be cached, and the present entries `read` on them."""

    ends: list[End]
    tables: set[Table]
    leaves: set[Leaf]
    read: set[int]


@lru_cache(1 << 12)
def walks_to(
    context: PagingContext,
    words: frozenset[tuple[int, int]],
    tables: frozenset[Table],
    va: int,
    decode: Decode,
) -> Walks:
    """Return the ways to a canonical address, `words` in memory, these `tables` cached perhaps.

    `decode` says what entries are. The result is kept for the next sequence, which often begins
    with the same steps: treat it as read-only.

    `LimitExceeded` beyond `MAX_WAYS`.
    """
    pcid, memory = pcid_of(context), dict(words)
    walks = Walks([], set(), set(), set())
    cached = [table for table in tables if table.pcid == pcid and table.covers(va)]
    # By table, rights and what was read: whether memory alone leads there.
    ways = {(context.root, _ALL, _NOTHING): True}
    for level in range(context.levels, 0, -1):
        span, at = LEVELS[level].span, 8 * LEVELS[level].index(va)
        further: dict[tuple[int, int, frozenset[int]], bool] = {
            (table.table, table.grant, table.read): False
            for table in cached
            if table.level == level
        }
        for (table, grant, read), fresh in ways.items():
            pa = table + at
            entry = memory.get(pa, 0)
            found = decode(context, level, entry)
            if found.kind is None:
                walks.read.add(pa)
                way = found.next_table, grant & found.grant, read | {pa}
                further[way] = fresh or further.get(way, False)
                walks.tables.add(Table(pcid, level, va & -span, span, *way))
                continue
            end = End(level, pa, entry, found, Way(grant, read, fresh))
            walks.ends.append(end)
            if found.accessed or found.kind is Kind.OK:
                walks.read.add(pa)
            if found.kind is Kind.OK:
                walks.leaves.add(_leaf(context, end, va))
        ways = further
        if len(ways) > MAX_WAYS:
            raise LimitExceeded(f"more than {MAX_WAYS} ways to walk to {va:#x}")
    return walks


def _leaf(context: PagingContext, end: End, va: int) -> Leaf:
    span, entry, found = LEVELS[end.level].span, end.entry, end.decoded
    return Leaf(
        pcid=pcid_of(context),
        shared=bool(entry & _G) and context.pge,
        base=va & -span,
        span=span,
        frame=found.frame,
        grant=end.way.grant & found.grant,
        key=found.key,
        dirty=bool(entry & _D),
        read=end.way.read | {end.pa},
    )


@lru_cache(1 << 14)
def decoded(context: PagingContext, level: int, entry: int) -> Decoded:
    """Return what an entry is by the manuals: the `Decode` of a processor without departures."""
    nothing = Decoded(Kind.PAGE_FAULT, reserved=False, grant=0, next_table=0, frame=0, key=0)
    if not entry & Entry.P:
        return nothing
    leaf = is_leaf(context, level, entry)
    if entry & reserved_bits(context, level, leaf=leaf):
        return nothing._replace(reserved=True)
    return Decoded(
        kind=Kind.OK if leaf else None,
        reserved=False,
        grant=grant_of(entry),
        next_table=entry & context.address_mask,
        frame=leaf_address(context, level, entry),
        key=protection_key(entry),
    )
