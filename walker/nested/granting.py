"""Permissions as nested entries grant them, in both directions."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import Entry
from crosswalk.walker.memory import U64
from crosswalk.walker.protection.permission import Permission

__all__ = ["expressible", "is_table", "leaf_entries", "permissions_of"]

_ALL = Permission.READ | Permission.WRITE | Permission.EXECUTE
_FLAGS = np.array(
    [
        Entry.P
        | Entry.US
        | (Entry.RW if permission & Permission.WRITE else 0)
        | (0 if permission & Permission.EXECUTE else Entry.XD)
        for permission in range(_ALL + 1)
    ],
    np.uint64,
)


def expressible(permission: Permission) -> bool:
    """Return whether an entry can grant just that: anything with reading, or nothing at all."""
    return not permission or (bool(permission & Permission.READ) and not permission & ~_ALL)


def leaf_entries(pa: U64, level: int, permissions: NDArray[np.uint8]) -> U64:
    """Return the leaves of a level that grant `permissions` on pages at these addresses.

    Zero for no permission. U/S is always set: without it no access passes (AMD APM vol. 2,
    "Nested Table Walk").
    """
    leaves = pa | _FLAGS[permissions]
    if level > 1:
        leaves |= np.uint64(Entry.PS)
    found: U64 = leaves * (permissions != 0)
    return found


def permissions_of(entries: U64) -> NDArray[np.uint8]:
    """Return the `Permission` that each entry leaves, as uint8; 0 without P or U/S."""
    one = np.uint64(1)
    open_ = entries & entries >> np.uint64(2) & one
    writable = entries >> one & one
    executable = ~entries >> np.uint64(63)
    bits = one + np.uint64(Permission.WRITE) * writable + np.uint64(Permission.EXECUTE) * executable
    found: NDArray[np.uint8] = (open_ * bits).astype(np.uint8)
    return found


def is_table(entries: U64, level: int) -> NDArray[np.bool_]:
    """Return whether each entry of a level refers to a table."""
    if level == 1:
        return np.zeros(entries.shape, np.bool_)
    present = entries & np.uint64(Entry.P) != 0
    found: NDArray[np.bool_] = present & (entries & np.uint64(Entry.PS) == 0)
    return found
