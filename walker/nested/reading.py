"""What nested tables grant, read back from their words."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS
from crosswalk.walker.memory import FRAME, U64, WORDS
from crosswalk.walker.nested.granting import is_table, permissions_of
from crosswalk.walker.protection.permission import Permission

__all__ = ["below", "read_ranges"]

_TABLE = 0xFF

Run = tuple[int, int, Permission]


def below(tables: U64, pa: int, table: int, at: int) -> int:
    """Return the number of the table that an entry refers to; `tables`, [n, 512], lie at `pa`."""
    return ((int(tables[table, at]) & ADDRESS_FIELD) - pa) // FRAME


def read_ranges(tables: U64, pa: int, levels: int) -> Iterator[Run]:
    """Yield (start, size, permission) of the guest-physical ranges mapped by the first table.

    Ascending; neighbours of equal permission are one. What entries above the leaves might
    withhold isn't looked at: `NestedTables` lets them grant everything.
    """
    start, end, permission = 0, 0, Permission(0)
    for base, size, found in _runs(tables, pa, 0, levels, 0):
        if found != permission:
            if permission:
                yield start, end - start, permission
            start, permission = base, found
        end = base + size
    if permission:
        yield start, end - start, permission


def _runs(tables: U64, pa: int, table: int, level: int, base: int) -> Iterator[Run]:
    """Yield runs of equal entries, and those of the tables between them."""
    size = LEVELS[level].span
    found = permissions_of(tables[table])
    found[is_table(tables[table], level)] = _TABLE
    starts = [0, *(np.flatnonzero(np.diff(found)) + 1).tolist(), WORDS]
    for first, last in pairwise(starts):
        if found[first] != _TABLE:
            yield base + first * size, (last - first) * size, Permission(int(found[first]))
            continue
        for at in range(first, last):
            child = below(tables, pa, table, at)
            yield from _runs(tables, pa, child, level - 1, base + at * size)
