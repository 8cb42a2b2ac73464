import numpy as np

from crosswalk.walker import (
    Access,
    Accesses,
    GeneralProtection,
    Outcomes,
    PageFault,
    Rights,
    Translation,
)
from crosswalk.walker.columns import merge_changes
from tests.tables import EXECUTE, READ, WRITE

PA = 0x1000


def merged(*steps):
    """What `merge_changes` makes of the (address, before, after) of one translation's steps."""
    columns = np.zeros((3, 1, 5), np.uint64)
    for at, step in enumerate(steps):
        columns[:, 0, at] = step
    pa, value = merge_changes(*columns)
    return list(zip(pa[0].tolist(), value[0].tolist(), strict=True))


def test_an_access_without_ac_gets_the_one_that_stands_in():
    rows = [Access(0, READ), Access(1, WRITE, 3, ac=False), Access(2, EXECUTE, ac=True)]

    assert [True, False, True] == Accesses.of(rows, ac=True).ac.tolist()
    assert [False, False, True] == Accesses.of(rows).ac.tolist()
    assert Access(2, EXECUTE, 0, ac=True) == Accesses.of(rows)[2]
    assert Access(1, WRITE, 3, ac=False) == Accesses.of(rows)[1]


def test_the_product_has_every_type_at_both_privileges_for_each_address():
    found = Accesses.product(np.array([5, 1 << 63], np.uint64), ac=True)

    expected = [
        Access(va, kind, cpl, ac=True)
        for va in (5, 1 << 63)
        for kind in (READ, WRITE, EXECUTE)
        for cpl in (0, 3)
    ]
    assert expected == [found[row] for row in range(len(found))]


def test_rows_are_taken_and_joined_in_the_order_asked_for():
    rows = Accesses.of([Access(va, READ) for va in range(4)])

    assert [3, 1] == rows.take(np.array([3, 1])).va.tolist()
    assert [2, 3, 0, 1] == Accesses.join([rows.take(slice(2, 4)), rows.take(slice(2))]).va.tolist()


def test_each_kind_of_outcome_comes_back_as_its_object():
    rows = Outcomes.empty(4)
    rows.kind[:] = (0, 1, 2, 0)
    rows.pa[:] = (0x5123, 0, 0, 0x6000)
    rows.page_size[0], rows.rights[0] = 4096, Rights.USER_READ
    rows.error_code[1], rows.cr2[1] = 6, (1 << 64) - 1
    rows.entry_pa[0, :2], rows.entry_value[0, :2] = (8, 16), (0x21, 0x61)

    assert [
        Translation(0x5123, 4096, Rights.USER_READ, ((8, 0x21), (16, 0x61))),
        PageFault(6, (1 << 64) - 1),
        GeneralProtection(),
        Translation(0x6000),
    ] == [rows[row] for row in range(4)]


def test_changes_come_by_address_and_unchanged_words_are_left_out():
    found = merged((PA + 8, 1, 0x21), (PA + 16, 0x21, 0x21), (PA, 3, 0x23))
    assert [(PA, 0x23), (PA + 8, 0x21), (0, 0), (0, 0), (0, 0)] == found


def test_a_word_used_on_two_levels_has_all_bits_that_were_set_in_it():
    expected = [(PA, 0x63), (0, 0), (0, 0), (0, 0), (0, 0)]
    assert expected == merged((PA, 3, 0x23), (PA, 3, 0x63))
    assert expected == merged((PA, 0x23, 0x23), (PA, 0x23, 0x63))
    assert expected == merged(*[(PA, 3, 0x23)] * 4, (PA, 3, 0x63))


def test_an_entry_at_physical_zero_is_told_from_an_unused_place():
    assert (0, 0x23) == merged((0, 3, 0x23))[0]
    assert [(0, 0x23), (PA, 0x23)] == merged((PA, 3, 0x23), (0, 3, 0x23))[:2]
