"""Counts of many roots' leaves, against each root's own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from crosswalk.walker import count_mappings, mappings
from crosswalk.walker.roots.counting import count_roots
from tests.random_tables import extended_tables
from tests.tables import LEGACY, P, PageTables, context

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
USER = 0x38
"""The rights of user mode."""
RAM = ((0, 1 << 20),)


def own(memory, root):
    """The four counts of one root, from its list of mappings."""
    middle = 1 << 63 if root.mode.long else 3 << 30
    pages = list(mappings(memory, root))
    users = [page for page in pages if page.rights & USER]
    return tuple(
        len(some)
        for some in (
            pages,
            users,
            [page for page in pages if page.va < middle],
            [page for page in users if page.va < middle],
        )
    )


def rows(counts):
    columns = (counts.total, counts.user, counts.lower, counts.lower_user)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@QUICK
@given(tables=extended_tables())
def test_every_frame_as_a_root_has_the_leaves_that_its_own_walk_lists(tables):
    # All of one context but CR3: 512 leaves of a table are listed at most once for each way.
    contexts = [replace(tables.context, cr3=frame) for frame in tables.frames if frame < 1 << 32]
    few = [each for each in contexts if sum(count_mappings(tables.memory, each).values()) < 3000]
    roots = np.array([each.root for each in few], np.uint64)

    found = rows(count_roots(tables.memory, tables.context, roots))

    assert [own(tables.memory, each) for each in few] == found


@pytest.mark.parametrize("mode", [4, 5, *LEGACY])
def test_user_pages_are_those_that_all_levels_leave_to_user_mode(mode):
    tables = PageTables(mode, ram=RAM).map(0x1000, 0x5000).map(0x2000, 0x6000, P)
    # The supervisor's alone above: outside IA-32e mode, in the last quarter.
    tables.map(0xFFFF_F000 if mode in LEGACY else 0xFFFF_FFFF_FFFF_F000, 0x7000, upper=P)

    found = count_roots(tables.memory, context(mode), np.array([tables.root], np.uint64))

    # A PDPTE of PAE has no rights: what lies below has its own.
    assert [(3, 1, 2, 1)] == rows(found)


def test_a_pae_root_that_cannot_be_entered_takes_none_of_the_others_with_it():
    tables = PageTables("PAE", ram=RAM).map(0x1000, 0x5000)
    other = PageTables("PAE", root=0x8000, ram=RAM).map(0x1000, 0x5000).map(0x2000, 0x5000)
    other.change(0x1000, 3, add=2)
    tables.entries |= other.entries

    found = count_roots(tables.memory, context("PAE"), np.array([0x1000, 0x8000], np.uint64))

    assert [1, 0] == found.total.tolist()


def test_tables_that_many_roots_share_are_read_twice_at_most():
    reads = []

    class Counted:
        def __init__(self, memory):
            self.memory, self.backed = memory, memory.backed

        def tables(self, frames):
            reads.extend(frames.tolist())
            return self.memory.tables(frames)

    shared = PageTables(ram=((0, 1 << 22),)).map(0xFFFF_8000_0000_0000, 0x5000)
    roots = list(range(0x10_0000, 0x10_0000 + 300 * 0x1000, 0x1000))
    entry = shared.entries[shared.entry_pa(0xFFFF_8000_0000_0000, 4)]
    for root in roots:
        shared.entries[root + 8 * 256] = entry

    found = count_roots(Counted(shared.memory), context(), np.array(roots, np.uint64))

    assert [1] * 300 == found.total.tolist()
    assert 2 * (300 + 3) >= len(reads)
