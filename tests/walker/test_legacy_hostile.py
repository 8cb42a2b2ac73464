"""Full, shared and self-referencing tables in 32-bit and PAE paging."""

import pytest

from crosswalk.walker import (
    Access,
    SparseWords,
    coalesce_leaves,
    collective_rights,
    count_mappings,
    mappings,
    translate,
    walk_leaves,
)
from crosswalk.walker.leaves import table_frames
from tests.tables import PS, READ, USED, P, PageTables, context, words_of


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_a_full_table_is_listed_as_a_sparse_one_is(mode):
    found = PageTables(mode)
    count = 1024 if mode == "32-bit" else 512
    for at in range(count):
        found.map(0x4000_0000 + (at << 12), at << 12, USED)
    rows = [each.va for each in mappings(found.memory, context(mode))]
    assert [0x4000_0000 + (at << 12) for at in range(count)] == rows
    memory = SparseWords(found.ram, {**found.words, 0x1000 + 0x800: 0})
    assert count == sum(count_mappings(memory, context(mode)).values())


def test_a_directory_of_4_mib_pages_maps_all_of_4_gib():
    words = words_of({0x1000 + 4 * at: at << 22 | USED | PS for at in range(1024)})
    memory, paging = SparseWords([(0, 1 << 20)], words), context("32-bit")
    (found,) = collective_rights(memory, paging)
    assert (0, 1 << 32) == found[:2]
    assert {1: 0, 2: 1024, 3: 0} == count_mappings(memory, paging)
    (whole,) = (
        each for ranges in coalesce_leaves(walk_leaves(memory, paging), paging) for each in ranges
    )
    assert (0, 0, 1 << 32, 1024) == (whole.va, whole.pa, whole.size, whole.count)


def test_a_directory_that_refers_to_itself_shows_its_entries_as_pages():
    entries = {0x1000 + 4 * at: (at << 22 | USED | PS) for at in range(1023)}
    entries[0x1000 + 4 * 1023] = 0x1000 | USED
    memory, paging = SparseWords([(0, 1 << 20)], words_of(entries)), context("32-bit")
    counts = count_mappings(memory, paging)
    assert {1: 1024, 2: 1023, 3: 0} == counts
    last = translate(memory, paging, Access(0xFFFF_FFFC, READ))
    assert 0x1FFC == last.pa


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_tables_all_of_which_are_one_end(mode):
    count = 1024 if mode == "32-bit" else 512
    size = 4 if mode == "32-bit" else 8
    entries = {
        0x1000 + size * at: 0x1000 | (USED if mode == "32-bit" else P) for at in range(count)
    }
    memory, paging = SparseWords([(0, 0x4000)], words_of(entries)), context(mode)
    expected = {"32-bit": 1024**2, "PAE": 4 * 512**2}[mode]
    assert expected == count_mappings(memory, paging)[1]
    assert [0x1000] == table_frames(memory, paging).tolist()
    assert [(0x1000, 0x1000)] == [each[:2] for each in collective_rights(memory, paging)]
