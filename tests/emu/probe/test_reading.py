"""The probe's own list of pages, against a reading of the same words by hand, one at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.emu.probe import paths, reading
from crosswalk.emu.probe.reading import Reading, mapped
from crosswalk.walker.memory import SparseWords
from tests.random_tables import random_tables
from tests.tables import GIB1, KIB4, LEGACY, MIB2, OPEN, PS, ROOT, TOP, XD, P, PageTables, context

SHIFTS = {5: (48, 39, 30, 21, 12), 4: (39, 30, 21, 12)}
FIELD = 0x000F_FFFF_FFFF_F000


def by_hand(words, frames, context, start=0, end=TOP):  # noqa: C901  # All modes, from the manual.
    """The pages that touch [start, end), each as (va, shift), found one entry at a time."""
    pae = context.cr4 & 0x20
    mask = getattr(context, "encryption_mask", 0)
    found = []
    if start >= end:
        return found

    def visit(table, shifts, base, first=512):
        if table & -KIB4 not in frames:
            return
        for at in range(first):
            if pae:
                entry = words.get(table + 8 * at, 0)
            else:
                entry = words.get((table + 4 * at) & -8, 0) >> (at % 2 * 32) & 0xFFFF_FFFF
            va = base + (at << shifts[0])
            if shifts[0] >= 39 and len(shifts) == context_levels and at >= 256:
                va += TOP - (512 << shifts[0])
            if va + (1 << shifts[0]) <= start or va >= end or not entry & P:
                continue
            if len(shifts) == 1 or (entry & PS and shifts[0] in large):
                found.append((va, shifts[0]))
            else:
                visit(entry & (FIELD & ~mask if pae else 0xFFFF_F000), shifts[1:], va, below)

    below = 512 if pae else 1024
    large = (21, 30) if pae else (22,) * bool(context.cr4 & 0x10)
    if context.efer & 0x400:
        context_levels = 5 if context.cr4 & 0x1000 else 4
        visit(context.cr3 & FIELD & ~mask, SHIFTS[context_levels], 0)
    elif pae:
        large, context_levels = (21,), 3
        visit(context.cr3 & 0xFFFF_FFE0 & ~mask, (30, 21, 12), 0, 4)
    else:
        context_levels = 2
        visit(context.cr3 & 0xFFFF_F000, (22, 12), 0, 1024)
    return found


def listed(blocks):
    return [
        (va, shift)
        for vas, shifts in blocks
        for va, shift in zip(vas.tolist(), shifts.tolist(), strict=True)
    ]


RANGES = st.tuples(
    st.sampled_from((0, 1, KIB4, GIB1 + 5, 1 << 39, 1 << 47, TOP - (1 << 39), TOP - MIB2)),
    st.sampled_from((1, KIB4, 3 << 21, 1 << 31, 1 << 40, TOP - (1 << 47) + 1, TOP)),
)


@given(st.one_of(random_tables(most=3), random_tables(LEGACY)), RANGES)
def test_the_reading_lists_what_is_present_in_address_order(tables, span):
    frames = set(tables.frames)
    expected = by_hand(tables.words, frames, tables.context, *span)
    assert expected == listed(mapped(tables.memory, tables.context, *span))
    every = Reading(tables.memory, tables.context)
    assert len(by_hand(tables.words, frames, tables.context)) == every.count
    assert expected[:5] == listed(every.mapped(*span, limit=5))


def _pages(builder, **options):
    return listed(mapped(builder.memory, context(builder.mode, **options)))


def test_pages_of_all_sizes_in_both_halves_are_listed_whatever_their_rights_are():
    high = TOP - (1 << 46)
    builder = PageTables().map(0x1000, 0x9000, P).map(MIB2, 0, OPEN | PS, level=2)
    builder.map(4 * MIB2, 0x9000, P | XD).map(GIB1, 1 << 45, OPEN | PS, level=3)
    builder.map(high, 0x9000, P | 1 << 51)
    expected = [(0x1000, 12), (MIB2, 21), (4 * MIB2, 12), (GIB1, 30), (high, 12)]
    assert expected == _pages(builder)


def test_more_tables_than_a_block_has_keep_the_order_and_the_size_of_blocks():
    builder = PageTables(ram=((0, 1 << 26),))
    expected = []
    for at in range(200):
        va = at * MIB2
        if at % 3:
            builder.map(va + KIB4 * (at % 512), 0, OPEN)
            expected.append((va + KIB4 * (at % 512), 12))
        else:
            builder.map(va, 0, OPEN | PS, level=2)
            expected.append((va, 21))
    assert expected == _pages(builder)


def test_a_word_of_32_bit_paging_has_two_entries():
    words = {0x1000: 0x2001 | 0x8000_0083 << 32, 0x2000: 0x7001 << 32}
    memory = SparseWords(((0, 1 << 16),), words)
    assert [(0x1000, 12), (0x40_0000, 22)] == listed(mapped(memory, context("32-bit")))
    # Without CR4.PSE bit 7 of a PDE means nothing, and there is no table at 0x80000000.
    assert [(0x1000, 12)] == listed(mapped(memory, context("32-bit", pse=False)))


def test_an_encryption_mask_is_no_part_of_an_address():
    c_bit = 1 << 47
    builder = PageTables().map(0x1000, 0x9000)
    for place in builder.words:
        builder.words[place] |= c_bit
    bare = context(root=ROOT)
    assert [] == listed(mapped(builder.memory, bare))

    class Masked:
        cr0, cr3, cr4, efer = bare.cr0, ROOT | c_bit, bare.cr4, bare.efer
        pkru, rflags_ac, maxphyaddr, encryption_mask = 0, False, 48, c_bit

    assert [(0x1000, 12)] == listed(mapped(builder.memory, Masked()))


def test_a_table_that_refers_to_itself_costs_no_more_than_what_is_asked():
    memory = SparseWords(((ROOT, KIB4),), {ROOT + 8 * at: ROOT | OPEN for at in range(512)})
    every = Reading(memory, context())
    assert 512**4 == every.count
    first = listed(every.mapped(limit=1000))
    assert [(at * KIB4, 12) for at in range(1000)] == first
    high = TOP - 3 * KIB4
    assert [(high + at * KIB4, 12) for at in range(3)] == listed(every.mapped(high))


def test_tables_shared_by_2_to_the_27_walks_that_map_nothing_are_not_gone_through():
    words = {}
    for level in range(3):
        table, below = ROOT + level * KIB4, ROOT + (level + 1) * KIB4
        words |= {table + 8 * at: below | OPEN for at in range(512)}
    memory = SparseWords(((ROOT, 4 * KIB4),), words)
    assert [] == listed(mapped(memory, context()))
    words[ROOT + 3 * KIB4 + 8 * 7] = 0x9000 | OPEN
    memory = SparseWords(((ROOT, 4 * KIB4),), words)
    found = listed(mapped(memory, context(), limit=3))
    assert [(at * MIB2 + 7 * KIB4, 12) for at in range(3)] == found


def test_a_root_outside_memory_maps_nothing():
    assert [] == listed(mapped(SparseWords(((0, KIB4),), {}), context(root=0x8000)))


def _rich():
    """Memory and context in which every line of the reading counts."""
    builder = PageTables(ram=((0, 1 << 26),)).map(0x1000, 0x9000).map(0x2000, 0x9000)
    builder.map(MIB2, 0, OPEN | PS, level=2).map(4 * MIB2, 0x9000).map(TOP - KIB4, 0x9000)
    builder.map(GIB1, GIB1, OPEN | PS, level=3)
    builder.words[builder.entry_pa(0x3000, 1)] = 0x9000 | OPEN & ~P
    return builder


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (reading, "_PRESENT", np.uint64(2)),
        (paths, "_PAGE_SIZE", np.uint64(0x100)),
        (paths, "_FOUR_LEVELS", replace(paths._FOUR_LEVELS, address=FIELD & ~0x2000)),
        (reading, "_TOP", 1 << 60),
    ],
)
def test_a_bug_planted_in_the_reading_is_seen(monkeypatch, module, name, value):
    builder = _rich()
    expected = by_hand(builder.words, range(0, 1 << 26, KIB4), context())
    assert expected == _pages(builder)
    monkeypatch.setattr(module, name, value)
    assert expected != _pages(builder)


def test_a_page_dropped_invented_or_moved_by_the_reading_is_seen(monkeypatch):
    builder, present = _rich(), Reading._present
    expected = by_hand(builder.words, range(0, 1 << 26, KIB4), context())
    for change in (
        lambda va, entry: (va[1:], entry[1:]),
        lambda va, entry: (np.append(va, va[-1:] + np.uint64(KIB4)), np.append(entry, entry[-1:])),
        lambda va, entry: (va + np.uint64(KIB4), entry),
    ):

        def planted(self, level, *rest, change=change):
            found = present(self, level, *rest)
            return change(*found) if level == 3 else found

        monkeypatch.setattr(Reading, "_present", planted)
        assert expected != _pages(builder)
