"""Tables of other sizes than a frame, and address spaces that can't be entered."""

import numpy as np
import pytest

from crosswalk.walker import (
    Access,
    Accesses,
    BadInput,
    collective_rights,
    count_mappings,
    malformed_entries,
    mappings,
    tables,
    translate,
    translate_many,
)
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.leaves import table_frames
from tests.tables import KIB4, OPEN, READ, RW, P, PageTables, context


@pytest.mark.parametrize("bit", [1, 2, 5, 6, 7, 8, 40, 51, 52, 62, 63])
def test_one_reserved_bit_in_any_pdpte_keeps_all_of_the_address_space_out(bit):
    found = PageTables("PAE").map(0, 0x8000).map(3 << 30, 0x9000)
    paging = context("PAE")
    assert 2 == sum(count_mappings(found.memory, paging).values())
    assert None is tables.invalid_pdpte(found.memory, paging)
    found.change(3 << 30, 3, add=1 << bit)
    assert 0x1018 == tables.invalid_pdpte(found.memory, paging)
    assert [] == list(mappings(found.memory, paging))
    assert {1: 0, 2: 0, 3: 0} == count_mappings(found.memory, paging)
    assert 0 == len(collective_rights(found.memory, paging))
    assert [0, 3 << 30] == malformed_entries(found.memory, paging).va.tolist()
    found.change(3 << 30, 3, drop=P)
    assert 1 == sum(count_mappings(found.memory, paging).values())


def test_a_pdpt_may_lie_anywhere_in_its_frame():
    found = PageTables("PAE", root=0x1FE0).map(0xC000_0000, 0x8000)
    paging = context("PAE", root=0x1FE0 | 0x18)
    assert 0x8000 == translate(found.memory, paging, Access(0xC000_0000, READ)).pa
    assert [0xC000_0000] == [each.va for each in mappings(found.memory, paging)]
    assert 0x1000 in table_frames(found.memory, paging).tolist()


@pytest.mark.parametrize("mode", ["32-bit", "PAE"])
def test_an_address_of_more_than_32_bits_is_no_question(mode):
    found = PageTables(mode).map(0, 0x8000)
    for va in (1 << 32, 0xFFFF_8000_0000_0000):
        access = Access(va, READ)
        with pytest.raises(BadInput, match="32 bits"):
            translate(found.memory, context(mode), access)
        with pytest.raises(BadInput, match="32 bits"):
            translate_many(found.memory, context(mode), Accesses.of([access]))


def test_entries_of_tables_are_those_with_a_bit_or_with_any_bit():
    found = PageTables().map(KIB4, 0x8000).map(2 * KIB4, 0x9000, RW)
    level = LEVELS[1]
    frames = np.array([found.entry_pa(0) & -KIB4, 0x9000], np.uint64)
    every = tables.entries_with(found.memory, level, frames)
    assert [[0, 0], [1, 2], [0x8000 | OPEN, 0x9000 | RW]] == [column.tolist() for column in every]
    present = tables.entries_with(found.memory, level, frames, Entry.P)
    assert [[0], [1], [0x8000 | OPEN]] == [column.tolist() for column in present]
