"""Memory for nested tables, and what the walker itself reads there."""

import numpy as np

from crosswalk.walker import Segments, mappings
from crosswalk.walker.protection import Permission
from crosswalk.walker.protection.policy import TableKind, Use
from tests.tables import context

PA = 0x1_0000_0000
NONE, R, RWX = Permission(0), Permission(1), Permission(7)
READ_WRITE, READ_EXECUTE = Permission(3), Permission(5)
EXPRESSIBLE = (NONE, R, READ_WRITE, READ_EXECUTE, RWX)
NPT, EPT, EPT_MBEC = TableKind
GRANTS = {
    NPT: EXPRESSIBLE,
    EPT: (*EXPRESSIBLE, Permission.EXECUTE),
    EPT_MBEC: tuple(use for use in map(Use, range(16)) if use & 3 != Use.WRITE),
}
"""What each kind of table can grant."""


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


def ept_leaves(words, levels=4, *, mbec):
    """What EPT entries say by the manual's layout: (gpa, size, pa, rights, memory type)."""
    found = []
    pending = [(PA, levels, 0)]
    while pending:
        table, level, base = pending.pop()
        at = (table - PA) // 8
        shift = 3 + 9 * level
        for index, entry in enumerate(words[at : at + 512].tolist()):
            rights = entry & 7 | (entry >> 10 & 1) << 3
            if not rights:
                assert 0 == entry
                continue
            assert mbec or rights < 8
            gpa = base + (index << shift)
            if level > 1 and not entry >> 7 & 1:
                assert (15 if mbec else 7) == rights
                assert 0 == entry >> 3 & 0x1F
                pending.append((entry & 0xF_FFFF_FFFF_F000, level - 1, gpa))
                continue
            assert level < 4
            assert (level > 1) == bool(entry >> 7 & 1)
            pa = entry & 0xF_FFFF_FFFF_F000
            assert 0 == pa % (1 << shift)
            kind = Use if mbec else Permission
            found.append((gpa, 1 << shift, pa, kind(rights), entry >> 3 & 7))
    return sorted(found)


def read_back(words, kind, levels=4):
    """What is mapped, by a reader that has nothing of `NestedTables`: (gpa, size, pa, rights)."""
    if kind is NPT:
        return leaves(words, levels)
    return [each[:4] for each in ept_leaves(words, levels, mbec=kind is EPT_MBEC)]
