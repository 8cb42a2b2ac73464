"""The probe's reading of 32-bit and PAE tables: entries of either size, as data of one format."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.paths import NO_ADDRESS, NO_PAGE, find_paths, find_tables, format_of
from crosswalk.emu.probe.space import NOWHERE, Space
from crosswalk.walker import SparseWords
from tests.tables import OPEN, PS, P, PageTables, context

VA = 0xC123_4567
FORMS = {mode: format_of(Control.of(context(mode))) for mode in ("32-bit", "PAE")}
BIT32, PAE = FORMS.values()
BOTH = pytest.mark.parametrize("mode", FORMS)


def space_of(tables):
    space = Space(tables.ram)
    frames = np.arange(0, 1 << 16, 4096, dtype=np.uint64)
    space.write_tables(frames, tables.memory.tables(frames))
    return space


def path(tables, va=VA, form=None):
    form = FORMS[tables.mode] if form is None else form
    space = space_of(tables)
    return space, find_paths(space, form, tables.root, np.array([va], np.uint64))


def test_the_control_registers_decide_the_format():
    assert (32, 4, {22}) == (BIT32.bits, BIT32.entry_bytes, BIT32.large)
    assert (32, 8, {21}) == (PAE.bits, PAE.entry_bytes, PAE.large)
    assert PAE == format_of(Control.of(context("PAE", pse=False)))
    assert replace(BIT32, large=frozenset()) == format_of(Control.of(context("32-bit", pse=False)))
    for levels, shift in ((4, 39), (5, 48)):
        form = format_of(Control.of(context(levels)))
        root = form.levels[0]
        assert (64, 8, (shift, 9), {21, 30}) == (form.bits, form.entry_bytes, root, form.large)


@BOTH
def test_a_path_names_the_entries_and_the_page(mode):
    tables = PageTables(mode).map(VA, 0x80_0000)
    space, found = path(tables)
    levels = [3, 2, 1] if mode == "PAE" else [2, 1]
    places = [tables.entry_pa(VA, level) for level in levels]
    rest = [NO_ADDRESS] * (5 - len(levels))
    assert places + rest == found.pa[0].tolist()
    size = FORMS[mode].entry_bytes
    entries = space.words.view(np.uint32 if size == 4 else np.uint64)
    cells = found.index[0, : len(levels)]
    assert [tables.entries[place] for place in places] == entries[cells].tolist()
    assert [NOWHERE] * len(rest) == found.index[0, len(levels) :].tolist()
    assert [0x80_0000] == found.page.tolist()


@pytest.mark.parametrize(
    ("mode", "pa", "expected"),
    [
        ("32-bit", 0x80_0000 | 3 << 13, 3 << 32 | 0x80_0000 | VA & 0x3F_F000),
        ("PAE", 0x3_0080_0000, 0x3_0080_0000 | VA & 0x1F_F000),
    ],
)
def test_a_large_page_is_where_its_entry_and_the_address_say(mode, pa, expected):
    tables = PageTables(mode).map(VA, pa, OPEN | PS, level=2)
    assert [expected] == path(tables)[1].page.tolist()


def test_without_pse_ps_leads_on():
    tables = PageTables("32-bit").map(VA, 0x80_0000).change(VA, 2, add=PS)
    form = format_of(Control.of(context("32-bit", pse=False)))
    assert [0x80_0000] == path(tables, form=form)[1].page.tolist()
    found = find_tables(tables.memory, form, tables.root).tolist()
    assert [0x1000, 0x2000] == found
    assert [0x1000] == find_tables(tables.memory, BIT32, tables.root).tolist()


@BOTH
def test_an_absent_entry_leads_nowhere(mode):
    tables = PageTables(mode).map(VA, 0x80_0000).change(VA, 1, drop=P)
    assert [NO_PAGE] == path(tables)[1].page.tolist()


@BOTH
def test_all_tables_in_ram_are_found_each_once(mode):
    tables = PageTables(mode).map(VA, 0x8000).map(0, 0x9000).map(0x40_0000, 0x9000)
    frames = {place & -4096 for place in tables.entries}
    tables.entries[tables.entry_pa(0, 2) + 8] = 0x7000_0000 | OPEN  # Outside RAM.
    assert sorted(frames) == find_tables(tables.memory, FORMS[mode], tables.root).tolist()


def test_a_table_may_be_shared_by_levels():
    memory = SparseWords([(0, 1 << 16)], {0x1FF8: (0x1000 | OPEN) << 32})
    assert [0x1000] == find_tables(memory, BIT32, 0x1000).tolist()


def test_only_the_four_entries_of_a_pdpt_count():
    tables = PageTables("PAE", root=0x1020).map(VA, 0x8000)
    tables.entries |= {0x1018: 0x5000 | P, 0x1040: 0x6000 | P}
    found = find_tables(tables.memory, PAE, tables.root).tolist()
    assert 0x5000 not in found
    assert 0x6000 not in found


@pytest.mark.parametrize(
    ("mode", "number", "expected"),
    [
        ("32-bit", 1023, 0xFFC0_0000),
        ("PAE", 3, 0xC000_0000),
        (4, 255, 0x7F80_0000_0000),
        (4, 256, 0xFFFF_8000_0000_0000),
        (5, 255, 0x00FF_0000_0000_0000),
        (5, 511, 0xFFFF_0000_0000_0000),
    ],
)
def test_a_slot_of_the_root_begins_at_a_canonical_address(mode, number, expected):
    assert expected == format_of(Control.of(context(mode))).slot_va(number)
