from dataclasses import replace

import pytest

from crosswalk.walker import Vendor, walk
from crosswalk.walker.memory_types import MemoryTypes, Pat
from crosswalk.walker.mtrrs import MemoryType, Mtrrs, VariableRange
from crosswalk.walker.walk_types import page_type, step_types
from tests.tables import KIB4, MIB2, OPEN, PCD, PS, PWT, USED, PageTables, context

LINUX = MemoryTypes(Pat(0x0407_0506_0007_0106))  # WB, WC, UC-, UC, WB, WP, UC-, WT
PCIDE = 1 << 17
WC = MemoryType.WC


def types_of(paging, tables, va=0, types=LINUX):
    path = walk(tables.memory, paging, va)
    *entries, page = (
        None if it is None else it.name
        for it in (*step_types(paging, path, types), page_type(paging, path, types))
    )
    return entries, page


def test_cr3_and_the_entry_above_choose_how_an_entry_is_read():
    tables = PageTables().map(0, 0x5000, USED | PS | PCD, upper=OPEN | PWT)
    tables.change(0, 4, add=PCD, drop=PWT)
    paging = context()
    paging = replace(paging, cr3=paging.cr3 | PWT | PCD)
    assert (["UC", "UC_MINUS", "WC", "WC"], "UC_MINUS") == types_of(paging, tables)


def test_pat_is_no_bit_of_an_entry_that_refers_to_a_table():
    tables = PageTables().map(0, 0x5000, USED | PS)
    assert (["WB"] * 4, "WB") == types_of(context(), tables)
    tables = PageTables().map(0, 0x5000, USED | PS | PWT)
    assert (["WB"] * 4, "WP") == types_of(context(), tables)


def test_with_pcids_the_bits_of_cr3_are_none():
    tables = PageTables().map(0, 0x5000)
    paging = context()
    paging = replace(paging, cr3=paging.cr3 | PWT | PCD, cr4=paging.cr4 | PCIDE)
    assert (["WB"] * 4, "WB") == types_of(paging, tables)


@pytest.mark.parametrize(("vendor", "first"), [(Vendor.INTEL, None), (Vendor.AMD, "WC")])
def test_pdptes_of_pae_paging_that_are_loaded_with_cr3_have_no_stated_type(vendor, first):
    tables = PageTables("PAE").map(0, 0x5000, USED | PCD, upper=OPEN)
    tables.change(0, 3, add=PCD | PWT)
    paging = context("PAE", vendor=vendor)
    paging = replace(paging, cr3=paging.cr3 | PWT)
    assert ([first, "UC", "WB"], "UC_MINUS") == types_of(paging, tables)


def test_mtrrs_apply_to_tables_and_pages_by_where_these_lie():
    tables = PageTables().map(0, MIB2, USED | PS, level=2)
    ranges = (
        VariableRange(0x2000, KIB4, MemoryType.UC),
        VariableRange(MIB2, KIB4, MemoryType.WC),
    )
    types = MemoryTypes(Pat(), Mtrrs(default=MemoryType.WB, variable=ranges))
    assert (["WB", "UC", "WB"], "MIXED") == types_of(context(), tables, types=types)


def test_what_lies_behind_a_page_is_none_of_it():
    tables = PageTables().map(0, MIB2, USED | PS, level=2).map(MIB2, 0x5000)
    ranges = (VariableRange(2 * MIB2, KIB4, MemoryType.UC), VariableRange(0x6000, KIB4, WC))
    types = MemoryTypes(Pat(), Mtrrs(default=MemoryType.WB, variable=ranges))
    assert "WB" == types_of(context(), tables, types=types)[1]
    assert "WB" == types_of(context(), tables, MIB2, types=types)[1]


def test_a_walk_without_a_page_has_types_of_its_entries_alone():
    tables = PageTables().map(0, 0x5000)
    assert (["WB", "WB", "WB", "WB"], None) == types_of(context(), tables, 0x1000)
    assert ([], None) == types_of(context(), tables, 1 << 60)
