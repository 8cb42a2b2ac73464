"""Random pairs of layouts."""

import pytest

from crosswalk.emu.fuzz.nested import make_pair
from crosswalk.walker.context import EFER
from crosswalk.walker.nested import walk_nested

PAIRS = [make_pair(7, number, 20) for number in range(24)]


def everything(pair):
    memory = [pair.memory.read(start, size) for start, size in pair.memory.ranges]
    return memory, pair.context, pair.accesses


@pytest.mark.parametrize("number", [0, 5])
def test_equal_numbers_give_equal_pairs(number):
    assert everything(make_pair(7, number, 20)) == everything(PAIRS[number])


def test_other_numbers_give_other_pairs():
    first = everything(PAIRS[0])
    for other in (make_pair(8, 0, 20), PAIRS[1]):
        assert all(a != b for a, b in zip(first, everything(other), strict=True))


def test_more_accesses_begin_with_the_same_ones():
    assert make_pair(7, 0, 40).accesses[:20] == PAIRS[0].accesses


def test_both_values_of_every_switch_are_drawn():
    for name in ("wp", "smep", "smap", "nxe", "pge"):
        assert {False, True} == {getattr(pair.context.guest, name) for pair in PAIRS}
    assert {False, True} == {bool(pair.context.host.efer & EFER.NXE) for pair in PAIRS}


def test_all_kinds_of_access_are_drawn():
    kinds = {(each.type, each.cpl, each.ac) for pair in PAIRS for each in pair.accesses}
    assert 12 == len(kinds)


def test_the_frames_that_hold_tables_are_named():
    for pair in PAIRS:
        roots = pair.context.host.root, pair.context.guest.root
        assert roots[0] in pair.tables
        path = walk_nested(pair.memory, pair.context, 0)
        assert path.tables[0].gpa & -4096 == roots[1]
        root = path.tables[0].pa
        assert root is None or root & -4096 in pair.tables
    assert any(walk_nested(pair.memory, pair.context, 0).tables[0].pa for pair in PAIRS)
