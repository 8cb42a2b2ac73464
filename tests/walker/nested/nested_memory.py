"""Memory for nested tables, and what the walker itself reads there."""

import numpy as np

from crosswalk.walker import Segments, mappings
from crosswalk.walker.protection import Permission
from tests.tables import context

PA = 0x1_0000_0000
NONE, R, RWX = Permission(0), Permission(1), Permission(7)
READ_WRITE, READ_EXECUTE = Permission(3), Permission(5)
EXPRESSIBLE = (NONE, R, READ_WRITE, READ_EXECUTE, RWX)


def pool(tables):
    return np.zeros(512 * tables, np.uint64)


def memory_of(words):
    return Segments([(PA, words.view(np.uint8))])


def leaves(words, levels=4):
    """What the walker reads there: (gpa, size, pa, permission); nothing of `NestedTables`."""
    found = []
    for each in mappings(memory_of(words.copy()), context(levels, root=PA)):
        user = each.rights >> 3
        assert user & 1
        found.append((each.va & (1 << 48) - 1, each.size, each.pa, Permission(user)))
    return found
