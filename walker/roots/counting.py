"""How many leaves each of many roots has.

Hundreds of address spaces have a kernel's half in common; every distinct table is read twice,
however many ways lead to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import Expanded, Tables, expand
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.rights import ALL_GRANTS, Grant
from crosswalk.walker.spaces import Contexts, groups_of, listed_contexts, space_key

__all__ = ["Counts", "count_by_root", "count_roots", "tables_below"]

_BLOCK = 512
_MERGED = 1 << 20
"""Addresses of tables are made distinct when there are so many, which bounds what is kept."""

Count = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of leaves of n roots, int64[n] each.

    `user` are those that user mode may access, `lower` those of the lower half of the linear
    addresses (outside IA-32e mode, of the lower three quarters), `lower_user` both.
    """

    total: Count
    user: Count
    lower: Count
    lower_user: Count


def count_roots(memory: PhysicalMemory, context: PagingContext, roots: U64) -> Counts:
    """Return the numbers of leaves of the roots at these addresses, uint64[n].

    `context` is that of any of them: they may differ in CR3 alone. As `count_mappings` counts.
    """
    below = tables_below(memory, context, roots)
    total, user = np.zeros(0, np.int64), np.zeros(0, np.int64)
    frames = roots[:0]
    for level in range(1, context.levels):
        total, user = _counted(memory, context, level, below[level], (frames, total, user))
        frames = below[level]
    return _of_roots(memory, context, roots, (frames, total, user))


def count_by_root(memory: PhysicalMemory, contexts: Contexts) -> list[int]:
    """Return the number of leaves of each of these address spaces, without listing them."""
    counts: dict[tuple[object, ...], int] = {}
    for group in groups_of(contexts):
        totals = count_roots(memory, group.context, group.roots).total.tolist()
        counts |= {space_key(each): of for each, of in zip(group.contexts, totals, strict=True)}
    return [counts[space_key(each)] for each in listed_contexts(contexts)]


def tables_below(
    memory: PhysicalMemory, context: PagingContext, roots: U64, most: int | None = None
) -> dict[int, U64]:
    """Return the distinct tables in memory below these roots, ascending, by level.

    With `most`, at most so many of a level, those of the lowest addresses.
    """
    found, tables = {}, roots
    for level in range(context.levels, 1, -1):
        parts = [tables[:0]]
        for _, held in _blocks(memory, context, level, tables):
            parts.append(np.unique(held.children.frame))
            if sum(len(part) for part in parts[1:]) > _MERGED:
                parts = [np.unique(np.concatenate(parts))]
        tables = np.unique(np.concatenate(parts))
        # Entries may name any number of tables that aren't there; those hold nothing.
        tables = tables[memory.backed(tables)][:most]
        found[level - 1] = tables
    return found


def _counted(
    memory: PhysicalMemory,
    context: PagingContext,
    level: int,
    tables: U64,
    below: tuple[U64, Count, Count],
) -> tuple[Count, Count]:
    """Return the leaves below each of these tables, all of them and the user's."""
    total, user = np.zeros(len(tables), np.int64), np.zeros(len(tables), np.int64)
    for rows, held in _blocks(memory, context, level, tables):
        everything = np.ones(len(held.leaves), np.bool_), np.ones(len(held.children), np.bool_)
        total[rows], user[rows] = _sums(held, below, everything, rows.stop - rows.start)
    return total, user


def _of_roots(
    memory: PhysicalMemory, context: PagingContext, roots: U64, below: tuple[U64, Count, Count]
) -> Counts:
    counts = np.zeros((4, len(roots)), np.int64)
    middle = np.uint64(1 << context.va_bits - 1 if context.mode.long else 3 << 30)
    for rows, held in _blocks(memory, context, context.levels, roots):
        length = rows.stop - rows.start
        everything = np.ones(len(held.leaves), np.bool_), np.ones(len(held.children), np.bool_)
        lower = held.leaves.va < middle, held.children.va < middle
        counts[:2, rows] = _sums(held, below, everything, length)
        counts[2:, rows] = _sums(held, below, lower, length)
    return Counts(*counts)


def _sums(
    held: Expanded,
    below: tuple[U64, Count, Count],
    some: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    length: int,
) -> tuple[Count, Count]:
    """Return the leaves in and below each table of a block, of `some` leaves and children."""
    frames, total_below, user_below = below
    leaf, child = some
    parent = held.leaf_parent[leaf]
    users = (held.leaves.grant[leaf] & Grant.USER) != 0
    total = np.bincount(parent, minlength=length)
    user = np.bincount(parent[users], minlength=length)
    target = held.children.frame[child]
    place = np.searchsorted(frames, target)
    there = np.flatnonzero(np.append(frames, ~np.uint64(0))[place] == target)
    parent, place = held.child_parent[child][there], place[there]
    users = (held.children.grant[child][there] & Grant.USER) != 0
    # As floating point these sums are exact: there are at most 512^5 of them, 2^45.
    total += np.bincount(parent, total_below[place], length).astype(np.int64)
    weights = np.where(users, user_below[place], 0)
    user += np.bincount(parent, weights, length).astype(np.int64)
    return total, user


def _blocks(
    memory: PhysicalMemory, context: PagingContext, level: int, tables: U64
) -> Iterator[tuple[slice, Expanded]]:
    for at in range(0, len(tables), _BLOCK):
        some = tables[at : at + _BLOCK]
        grants = np.full(len(some), ALL_GRANTS, np.uint8)
        yield (
            slice(at, at + len(some)),
            expand(memory, context, level, Tables(np.zeros_like(some), some, grants)),
        )
