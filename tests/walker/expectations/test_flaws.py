"""Entries with a flaw in ranges, each once: as a walk of every way by hand finds them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosswalk.walker.entry import is_leaf, level_of, reserved_bits
from crosswalk.walker.expectations import flaws
from crosswalk.walker.expectations.flaws import flawed_entries
from crosswalk.walker.expectations.sentences import Flaw
from crosswalk.walker.memory import FRAME
from crosswalk.walker.tables import invalid_pdpte
from tests.random_tables import address_spaces
from tests.tables import (
    KIB4,
    MIB2,
    MODES,
    OPEN,
    PS,
    RW,
    TOP,
    US,
    XD,
    A,
    P,
    PageTables,
    context,
    linear,
)
from tests.walker.expectations.layouts import (
    DATA,
    REGISTERS,
    RODATA,
    STACK,
    TEXT,
    UDATA,
    UPPER,
    UTEXT,
    kernel,
)

RESERVED, TABLE, PAGE = Flaw
EVERYWHERE = [(0, TOP)]
OUTSIDE = 0x7F00_0000
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def found(tables, flaw, spans=EVERYWHERE, contexts=REGISTERS):
    return [
        (each.level, each.pa, each.va, each.reserved)
        for each in flawed_entries(tables.memory, contexts, spans, flaw)
    ]


def test_each_flaw_is_found_alone():
    tables = kernel().change(TEXT, add=1 << 51)
    tables.entries[tables.entry_pa(DATA, 2)] = MIB2 | 1 << 13 | PS | UPPER
    tables.map(UDATA + KIB4, OUTSIDE, OPEN)
    tables.entries[tables.entry_pa(STACK, 3)] = OUTSIDE | OPEN
    # Bit 13 is one of a large page's own.
    assert [
        (1, tables.entry_pa(TEXT), TEXT, 1 << 51),
        (2, tables.entry_pa(DATA, 2), DATA, 1 << 13),
    ] == found(tables, RESERVED, contexts=context(4, maxphyaddr=40))
    assert [(3, tables.entry_pa(STACK, 3), STACK & -(1 << 30), 0)] == found(tables, TABLE)
    assert [(1, tables.entry_pa(UDATA + KIB4), UDATA + KIB4, 0)] == found(tables, PAGE)


@pytest.mark.parametrize(
    ("span", "count"),
    [
        ((TEXT, TEXT + KIB4), 1),
        ((TEXT + KIB4, TEXT + 2 * KIB4), 0),
        ((TEXT, TEXT + 2 * MIB2), 2),
        ((TEXT + KIB4, RODATA + 1), 1),
        ((0, UTEXT), 0),
        ((0, TOP), 2),
    ],
)
def test_of_entries_those_in_the_ranges_count(span, count):
    tables = kernel().change(TEXT, add=1 << 51).change(RODATA, add=1 << 50)
    assert count == len(found(tables, RESERVED, [span], context(4, maxphyaddr=40)))


def test_a_page_that_is_outside_in_part_lies_outside():
    tables = PageTables(ram=((0, 3 * MIB2 // 2),)).map(0, MIB2, OPEN | PS, level=2)
    tables.map(MIB2, 0, OPEN | PS, level=2)
    assert [(2, tables.entry_pa(0, 2), 0, 0)] == found(tables, PAGE)
    tables = PageTables(ram=((0, MIB2), (MIB2 + KIB4, MIB2))).map(0, 0, OPEN | PS, level=2)
    tables.map(MIB2, MIB2, OPEN | PS, level=2)
    assert [MIB2] == [va for _, _, va, _ in found(tables, PAGE)]


def test_an_entry_that_many_ways_lead_to_is_found_once_at_its_lowest_address():
    tables = PageTables().map(linear(3, 1, 1, 1), 0, P | A | RW | XD | 1 << 51)
    for slot in range(3, 500):
        tables.entries[tables.root + 8 * slot] = tables.entries[
            tables.entry_pa(linear(3, 1, 1, 1), 4)
        ]
    both = [context(4, root=root, maxphyaddr=40) for root in (tables.root, 0x80_0000)]
    tables.entries[0x80_0000] = tables.entries[tables.root + 24]
    every = list(flawed_entries(tables.memory, both, EVERYWHERE, RESERVED))
    assert [(tables.root, linear(3, 1, 1, 1))] == [(it.context.root, it.va) for it in every]
    # A range that cuts the table of another way names that one.
    there = linear(9, 1, 1, 1)
    every = flawed_entries(tables.memory, both, [(there, there + 1)], RESERVED)
    assert [there] == [it.va for it in every]


@pytest.mark.parametrize(
    ("spans", "vas"),
    [
        # The first way is cut behind the entry, the other way's table is in the range as a whole.
        ([(KIB4, 2 * MIB2)], [MIB2]),
        # Both ways have it, one of them cut.
        ([(0, 2 * MIB2 - KIB4)], [0]),
        # Both are cut, and the entry is in what is left of the second.
        ([(KIB4, 2 * KIB4), (MIB2, MIB2 + KIB4)], [MIB2]),
        ([(0, KIB4), (MIB2 + KIB4, MIB2 + 2 * KIB4)], [0]),
        ([(KIB4, 2 * KIB4), (MIB2 + KIB4, MIB2 + 2 * KIB4)], []),
    ],
)
def test_a_table_that_ranges_cut_is_looked_at_for_each_way(spans, vas):
    tables = PageTables().map(0, 0, P | A | 1 << 51).map(KIB4, 0, P | A)
    tables.entries[tables.entry_pa(MIB2, 2)] = tables.entries[tables.entry_pa(0, 2)]
    every = flawed_entries(tables.memory, context(4, maxphyaddr=40), spans, RESERVED)
    assert vas == [it.va for it in every]


def test_below_a_root_that_cannot_be_loaded_nothing_is_looked_at():
    tables = PageTables("PAE").map(0, OUTSIDE, OPEN).map(1 << 30, OUTSIDE, OPEN)
    tables.change(1 << 30, 3, add=US)  # Reserved in a PDPTE.
    pae = context("PAE")
    assert [(3, tables.root + 8, 1 << 30, US)] == found(tables, RESERVED, contexts=pae)
    assert [] == found(tables, PAGE, contexts=pae)
    assert 1 == len(found(tables.change(1 << 30, 3, drop=US | P), PAGE, contexts=pae))


def flaw_of(memory, paging, level, entry):
    """The flaw of a present entry; None where it has none."""
    leaf, size = is_leaf(paging, level, entry), level_of(paging, level).span
    if entry & reserved_bits(paging, level, leaf=leaf):
        return RESERVED
    start = entry & paging.address_mask
    if not leaf:
        return None if memory.backed(frame_of(start))[0] else TABLE
    start &= -size
    if level == 2 and size == 2 * MIB2:  # PSE-36: bits 39:32 of the address are bits 20:13.
        start |= (entry >> 13 & 0xFF) << 32
    return None if any(lo <= start and start + size <= lo + n for lo, n in memory.ranges) else PAGE


def by_hand(memory, paging, span, flaw):
    """The (level, address) of entries with a flaw, by a walk of every way, an entry at a time."""
    wrong = set()
    barred = invalid_pdpte(memory, paging) is not None

    def go(table, level, base):
        form = level_of(paging, level)
        width = MODES["32-bit"].entry_size if form.entry_size == 4 else 8
        words = memory.tables(frame_of(table))[0].tobytes()
        for index in range(form.entries):
            pa, va = table + index * width, base + index * form.span
            if paging.mode.long and va >> paging.va_bits - 1:
                va |= TOP - (1 << paging.va_bits)
            at = pa % FRAME
            entry = int.from_bytes(words[at : at + width], "little")
            if not entry & P or va >= span[1] or va + form.span <= span[0]:
                continue
            its = flaw_of(memory, paging, level, entry)
            if its is flaw:
                wrong.add((level, pa))
            if its is None and not barred and not is_leaf(paging, level, entry):
                go(entry & paging.address_mask, level - 1, va)

    if memory.backed(frame_of(paging.root))[0]:
        go(paging.root, paging.levels, 0)
    return wrong


def frame_of(address):
    return np.array([address & -FRAME], np.uint64)


@st.composite
def questions(draw):
    """Address spaces, a range, and a flaw."""
    memory, contexts = draw(address_spaces())
    ends = [draw(st.integers(0, 2**48)) << draw(st.sampled_from((0, 12, 16))) for _ in range(2)]
    low, high = sorted(end % TOP for end in ends)
    span = draw(st.sampled_from([(0, TOP), (low, high + 1)]))
    return memory, contexts, span, draw(st.sampled_from([*Flaw]))


def require_as_by_hand(question):
    memory, contexts, span, flaw = question
    for paging in contexts:
        every = list(flawed_entries(memory, paging, [span], flaw))
        places = [(it.level, it.pa) for it in every]
        assert by_hand(memory, paging, span, flaw) == set(places)
        assert len(set(places)) == len(places)
        # The address named is one that the entry translates, and in the range.
        for it in every:
            size = level_of(paging, it.level).span
            assert it.va < span[1]
            assert it.va + size > span[0]


@given(questions())
@QUICK
def test_entries_are_those_of_a_walk_by_hand(question):
    require_as_by_hand(question)


@pytest.mark.parametrize("flaw", Flaw)
def test_a_search_that_leaves_ranges_out_of_account_is_noticed(flaw, monkeypatch):
    tables = kernel().change(TEXT, add=1 << 51).map(TEXT + MIB2 // 2, OUTSIDE, P | A, upper=UPPER)
    tables.entries[tables.entry_pa(TEXT, 2) + 16 * 8] = OUTSIDE | OPEN
    question = tables.memory, [context(4, maxphyaddr=40)], (UTEXT, UTEXT + 1), flaw
    require_as_by_hand(question)
    monkeypatch.setattr(flaws, "indexed", lambda *_: [(0, 1 << 48)])
    with pytest.raises(AssertionError):
        require_as_by_hand(question)
