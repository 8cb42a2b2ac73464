"""Random pairs of layouts with an EPT beneath the guest's tables."""

import pytest

from crosswalk.emu.fuzz.nested.ept_pair import make_ept_pair
from crosswalk.walker.nested.ept import EptEntry
from crosswalk.walker.nested.translate import walk_nested

PAIRS = [make_ept_pair(7, number, 20, mbec=bool(number % 2)) for number in range(24)]


def everything(pair):
    memory = [pair.memory.read(start, size) for start, size in pair.memory.ranges]
    return memory, pair.context, pair.accesses, pair.tables


@pytest.mark.parametrize("number", [0, 5])
def test_equal_numbers_give_equal_pairs(number):
    again = make_ept_pair(7, number, 20, mbec=bool(number % 2))
    assert everything(again) == everything(PAIRS[number])


def test_other_numbers_and_controls_give_other_pairs():
    first = everything(PAIRS[0])
    for other in (
        make_ept_pair(8, 0, 20, mbec=False),
        make_ept_pair(7, 2, 20, mbec=False),
        make_ept_pair(7, 0, 20, mbec=True),
    ):
        assert all(a != b for a, b in zip(first, everything(other), strict=True))


def test_more_accesses_begin_with_the_same_ones():
    assert make_ept_pair(7, 0, 40, mbec=False).accesses[:20] == PAIRS[0].accesses


def test_both_values_of_every_switch_are_drawn():
    for name in ("wp", "smep", "smap", "nxe"):
        assert {False, True} == {getattr(pair.context.guest, name) for pair in PAIRS}
    assert {False, True} == {pair.context.ept.accessed_dirty for pair in PAIRS}


def test_the_width_of_addresses_is_that_of_both_sides():
    pair = make_ept_pair(7, 0, 1, mbec=False, maxphyaddr=46)
    assert (46, 46) == (pair.context.guest.maxphyaddr, pair.context.ept.maxphyaddr)


def entries():
    """The EPT entries that accesses come upon."""
    for pair in PAIRS:
        for access in pair.accesses:
            path = walk_nested(pair.memory, pair.context, access.va)
            for lookup in (*path.tables, *([path.page] if path.page else [])):
                yield from lookup.path.steps


def test_every_memory_type_and_every_bit_of_an_entry_is_drawn():
    found = list(entries())
    assert set(range(8)) == {step.entry >> 3 & 7 for step in found}
    for bit in EptEntry:
        assert {False, True} == {bool(step.entry & bit) for step in found}


def test_the_frames_that_hold_tables_are_named():
    roots = [walk_nested(pair.memory, pair.context, 0).tables[0].pa for pair in PAIRS]
    for pair in PAIRS:
        assert pair.context.ept.root in pair.tables
    # Where a large page takes the place of a table, the guest's is elsewhere.
    named = [root & -4096 in pair.tables for pair, root in zip(PAIRS, roots, strict=True) if root]
    assert sum(named) > 0.8 * len(named)
