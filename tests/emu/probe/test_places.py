"""Accesses that go where paging structures are, where no RAM is, and where the probe lives."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.probe import FEATURES, Prober, prober
from crosswalk.emu.probe import trampoline as trampolines
from crosswalk.emu.probe.control import Control
from crosswalk.emu.probe.paths import format_of
from crosswalk.emu.probe.trampoline import place_trampoline
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.outcome import PageFault, Translation
from tests.emu.accesses import (
    borrowed_slots,
    every,
    execute,
    observe,
    probe,
    read,
    tables_of,
    write,
)
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    ROOT,
    TOP,
    USED,
    A,
    D,
    PageTables,
    context,
    linear,
)

VA = 0x40_0000
BACKED = 1 << 24


@pytest.mark.parametrize("pa", [BACKED, 0x8000_0000, 0xFEE0_0000, 0xFF_FFFF_F000])
def test_a_page_without_ram_is_reached_all_the_same(pa):
    memory = PageTables().map(VA, pa).memory
    found = observe(memory, context(), *every(VA + 0x123))
    assert [pa + 0x123] * 6 == [each.pa for each in found]
    assert [4] * 6 == [len(each.entries) for each in found]


def test_large_pages_that_end_outside_ram_are_reached_on_both_sides():
    builder = PageTables(ram=((0, 3 * MIB2 + KIB4),)).map(0, 2 * MIB2, OPEN | PS, level=2)
    builder.map(GIB1, 0, OPEN | PS, level=3)
    inside, outside = MIB2 - KIB4 + 5, MIB2 + KIB4 + 5
    found = observe(
        builder.memory, context(), *every(5), *every(inside), *every(GIB1 + 3 * outside)
    )
    assert [2 * MIB2 + 5] * 6 + [2 * MIB2 + inside] * 6 + [3 * outside] * 6 == [
        each.pa for each in found
    ]


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_table_without_ram_is_not_present(level):
    builder = PageTables().map(VA, 0x8000)
    builder.words[builder.entry_pa(VA, level)] = 0x8000_0000 | OPEN
    found = observe(builder.memory, context(), read(VA), write(VA, 3), execute(VA))
    assert [(0x0, VA), (0x6, VA), (0x10, VA)] == [(each.error_code, each.cr2) for each in found]
    assert [5 - level] * 3 == [len(each.entries) for each in found]


def self_mapped():
    """The page table that maps VA is mapped by itself, at VA; its first entry is its own."""
    builder = PageTables().map(VA, 0x8000)
    leaf = builder.entry_pa(VA, 1)
    builder.words[leaf] = leaf & -KIB4 | OPEN
    return builder, leaf


@pytest.mark.parametrize("offset", [0, 1, 4, 8, 0x800, 0xFFF])
def test_a_write_into_a_page_table_reaches_it_and_is_undone(offset):
    builder, leaf = self_mapped()
    table = leaf & -KIB4
    asked = Prober(builder.memory, context())
    before = tables_of(asked)
    (found,) = probe(asked, write(VA + offset))
    assert table + offset == found.pa
    assert builder.words[leaf] | A | D == dict(found.entries)[leaf]
    assert np.array_equal(before, tables_of(asked))
    assert [found] == probe(asked, write(VA + offset))


def test_a_write_into_each_table_of_its_own_walk_is_reported_from_the_marks():
    # 0x40_0000 and what follows map the four tables of the very walk.
    builder = PageTables().map(VA, 0x8000)
    tables = [ROOT, *(builder.words[builder.entry_pa(VA, at)] & -KIB4 for at in (4, 3, 2))]
    for number, table in enumerate(tables):
        builder.map(VA + number * KIB4, table)
    found = observe(builder.memory, context(), *(write(VA + at * KIB4 + 8 * at) for at in range(4)))
    assert [table + 8 * at for at, table in enumerate(tables)] == [each.pa for each in found]
    for number, each in enumerate(found):
        place = builder.entry_pa(VA + number * KIB4, 1)
        assert builder.words[place] | A | D == dict(each.entries)[place]
        assert 4 == len(each.entries)


def test_a_fetch_from_a_page_table_executes_nothing_there():
    builder, leaf = self_mapped()
    builder.words[leaf + 8] = 0x0B0F  # ud2
    builder.words[leaf + 16] = 0xFEEB  # a jump to itself
    found = observe(
        builder.memory, context(), execute(VA + 8), execute(VA + 16), execute(VA + 8, 3)
    )
    at = leaf & -KIB4
    assert [at + 8, at + 16, at + 8] == [each.pa for each in found]


def test_a_recursive_slot_shows_the_root_and_what_is_marked_twice_counts_once():
    words = {ROOT + 8 * 255: ROOT | OPEN}
    memory = SparseWords([(0, 1 << 16)], words)
    va = linear(255, 255, 255, 255, offset=8 * 255)
    found = observe(memory, context(), read(va), write(va))
    pa = ROOT + 8 * 255
    assert [
        Translation(pa, entries=((pa, ROOT | OPEN | A),)),
        Translation(pa, entries=((pa, ROOT | OPEN | A | D),)),
    ] == found


def test_a_recursive_slot_shows_the_tables_as_they_are_and_nothing_of_the_probe():
    builder = PageTables().map(VA, 0x8000)
    builder.words[ROOT + 8 * 510] = ROOT | OPEN
    asked = Prober(builder.memory, context())
    slots = borrowed_slots(asked)
    # Each borrowed slot, seen as a page below the recursive one, is the empty entry that it was.
    found = probe(asked, *(read(linear(510, 510, 510, slot)) for slot in slots))
    assert [PageFault(0x0, linear(510, 510, 510, slot)) for slot in slots] == [
        PageFault(each.error_code, each.cr2) for each in found
    ]


@pytest.mark.parametrize("levels", [4, 5])
def test_addresses_in_the_slots_that_the_probe_borrows_are_empty_as_the_tables_say(levels):
    memory = PageTables(levels).map(VA, 0x8000).memory
    asked = Prober(memory, context(levels))
    first, second = borrowed_slots(asked)
    assert first != second
    for slot in (first, second):
        for page in range(16):
            va = linear(slot, *(0,) * (levels - 2), page, offset=page)
            found = probe(asked, read(va), write(va, 3), execute(va))
            assert [PageFault(0x0, va), PageFault(0x6, va), PageFault(0x10, va)] == found


@pytest.mark.parametrize("levels", [4, 5])
def test_with_every_root_slot_in_use_each_of_them_is_reached(levels):
    builder = PageTables(levels).map(0, 0x1F_0000)
    first = builder.words[ROOT]
    for slot in range(512):
        builder.words[ROOT + 8 * slot] = first
    zeros = (0,) * (levels - 1)
    found = observe(
        builder.memory,
        context(levels),
        *(write(linear(slot, *zeros, offset=slot)) for slot in range(512)),
    )
    assert [0x1F_0000 + slot for slot in range(512)] == [each.pa for each in found]
    # The word marked is the root's own, though the walk went through a copy of it.
    assert [ROOT + 8 * slot for slot in range(512)] == [each.entries[0][0] for each in found]


@pytest.mark.parametrize("levels", [4, 5])
def test_the_last_bytes_of_the_address_space_are_reached(levels):
    last = TOP - KIB4
    memory = PageTables(levels).map(last, 0x8000).memory
    found = observe(memory, context(levels), *every(TOP - 1), *every(TOP - 9), *every(last))
    assert [0x8FFF] * 6 + [0x8FF7] * 6 + [0x8000] * 6 == [each.pa for each in found]


def test_the_last_byte_before_an_unmapped_page_is_reached():
    memory = PageTables().map(VA, 0x8000).memory
    found = observe(memory, context(), *every(VA + 0xFFF), *every(VA + 0x1000))
    assert [0x8FFF] * 6 == [each.pa for each in found[:6]]
    assert [0x0, 0x2, 0x10, 0x4, 0x6, 0x14] == [each.error_code for each in found[6:]]


@pytest.mark.parametrize("levels", [4, 5])
def test_ram_may_begin_anywhere_and_have_holes(levels):
    builder = PageTables(levels, ram=((0, 0x8000), (0x10_0000, 0x1000), (0xFF_FFFF_0000, 0x1_0000)))
    builder.map(VA, 0x10_0000).map(VA + KIB4, 0xFF_FFFF_F000).map(VA + 2 * KIB4, 0x10_1000)
    memory = builder.memory
    found = observe(memory, context(levels), *(write(VA + at * KIB4 + 7) for at in range(3)))
    assert [0x10_0007, 0xFF_FFFF_F007, 0x10_1007] == [each.pa for each in found]


def test_a_frame_mapped_at_many_addresses_is_one_frame():
    builder = PageTables()
    for number in range(64):
        builder.map(VA + number * KIB4, 0x8000)
    found = observe(builder.memory, context(), *(write(VA + at * KIB4 + at) for at in range(64)))
    assert [0x8000 + at for at in range(64)] == [each.pa for each in found]


def test_tables_that_are_reached_on_several_levels_are_followed():
    # One table, its first entry itself: root, PDPT, PD, PT and page at once.
    memory = SparseWords([(0, 1 << 16)], {ROOT: ROOT | USED, ROOT + 8: 0x5000 | OPEN})
    found = observe(memory, context(), read(0x18), read(linear(0, 0, 0, 1, offset=3)))
    assert [ROOT + 0x18, 0x5003] == [each.pa for each in found]


def test_more_ram_than_the_emulator_takes_is_refused():
    with pytest.raises(BadInput, match="bytes of RAM; the probe takes 0x4000000000"):
        Prober(SparseWords([(0, 1 << 39)], {ROOT: 0x2000 | USED}), context())


def test_memory_that_refers_to_every_gib_is_reached_wherever_the_probe_is():
    words = {ROOT: 0x2000 | USED, ROOT + 8: 0x3000 | USED}
    words |= {0x2000 + 8 * at: at << 30 | OPEN | PS for at in range(512)}
    words |= {0x3000 + 8 * at: 512 + at << 30 | OPEN | PS for at in range(512)}
    memory = SparseWords([(0, 1 << 16)], words)
    prober = Prober(memory, context())
    start, end = prober._workspace.own
    asked = [start, start + 0x5008, end - 1, end, start ^ 1 << 39, 0x8000, (1 << 40) - 1]
    found = observe(memory, context(), *(each for va in asked for each in every(va)))
    assert [va for va in asked for _ in range(6)] == [each.pa for each in found]
    before = tables_of(prober)
    assert [start, 0x8000] == [each.pa for each in probe(prober, write(start), read(0x8000))]
    assert start != prober._elsewhere._workspace.own[0]
    assert np.array_equal(before, tables_of(prober))


def test_a_table_outside_ram_where_the_probe_is_reads_as_not_present():
    # Entries name every GiB, and one of them has a table where the probe's own pages are.
    words = {ROOT: 0x2000 | USED, ROOT + 8: 0x3000 | USED, ROOT + 16: 0x4000 | USED}
    words |= {0x2000 + 8 * at: at << 30 | OPEN | PS for at in range(512)}
    words |= {0x3000 + 8 * at: 512 + at << 30 | OPEN | PS for at in range(512)}
    start = Prober(SparseWords([(0, 1 << 16)], words), context())._workspace.own[0]
    words |= {0x4000 + 8 * at: start + at * KIB4 | OPEN for at in range(512)}
    asked = [linear(2, at, 0, at) for at in range(0, 512, 37)]
    found = observe(SparseWords([(0, 1 << 16)], words), context(), *map(read, asked))
    assert [PageFault(0, va) for va in asked] == [replace(each, entries=()) for each in found]


def test_ram_in_every_gib_leaves_a_gap_for_the_probe():
    def place(ranges):
        nothing = np.zeros(0, np.uint64), np.zeros((0, 512), np.uint64)
        control = Control.of(context())
        return place_trampoline(
            ranges, format_of(control), control, *nothing, np.zeros(512, np.uint64)
        )

    found = place([(at << 30, 1 << 29) for at in range(1 << 10)])
    assert ((1 << 40) - (1 << 22), False) == (found.start, found.apart)
    with pytest.raises(BadInput, match="no 4 MiB below"):
        place([(0, 1 << 40)])


@pytest.mark.parametrize("levels", [4, 5])
def test_more_tables_than_the_probe_can_show_itself_are_shown_by_turns(monkeypatch, levels):
    builder = PageTables(levels)
    for at in range(60):
        builder.map(at << 30, 0x80_0000 + at % 8 * KIB4, OPEN)
    asked = [each for at in range(0, 60, 3) for each in every(at << 30 | at)]
    expected = probe(Prober(builder.memory, context(levels)), *asked)
    fewest = 5 + 2 * (trampolines._RECORDS + trampolines._OUTS + 2)
    monkeypatch.setattr(trampolines, "_MAX_PAGES", fewest + 2 * 60)
    monkeypatch.setattr(prober, "_FEW", 60)
    prober_ = Prober(builder.memory, context(levels))
    assert not prober_._workspace.trampoline.whole
    made = []
    make = prober_._engines.single.make
    monkeypatch.setattr(
        prober_._engines.single, "make", lambda *a, **k: made.append(a) or make(*a, **k)
    )
    before = tables_of(prober_)
    assert expected == probe(prober_, *asked)
    assert len(made) < len(asked) // 4
    assert np.array_equal(before, tables_of(prober_))


def test_a_direct_map_beyond_2_to_the_40_is_probed_as_far_as_that():
    slots = {273: 0, 274: 1, 275: 2, 300: 127}  # Of 512 GiB each, the last two from 2^40 on.
    words = {}
    for number, (slot, at) in enumerate(slots.items(), 2):
        words[ROOT + 8 * slot] = number * KIB4 | USED
        words |= {number * KIB4 + 8 * gib: at * 512 + gib << 30 | OPEN | PS for gib in range(512)}
    asked = Prober(SparseWords([(0, 1 << 24)], words), context(maxphyaddr=46))
    gibs = [linear(slot, gib, 0, 0) for slot in slots for gib in range(0, 512, 5)]
    accesses = Accesses.of(read(va | 0x12_3456) for va in gibs)
    lacking = asked.lacking(accesses)
    assert [0] * 206 + [1 + FEATURES.index("wide")] * 206 == lacking.tolist()
    found = asked.probe(accesses.take(lacking == 0))
    expected = [at << 39 | gib << 30 | 0x12_3456 for at in (0, 1) for gib in range(0, 512, 5)]
    assert expected == found.pa.tolist()
