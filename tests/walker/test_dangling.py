"""What tables outside memory translate, held to walks of single addresses."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker import StepKind, walk
from crosswalk.walker.dangling import dangling_spans
from tests.tables import GIB1, KIB4, LONG, MIB2, MODES, OPEN, P, PageTables, context

RAM = ((0, 0x40000),)
OUTSIDE = 0x1234_0000


def spans(tables, mode=4, **between):
    """First addresses and sizes of all spans."""
    return [
        span
        for starts, sizes in dangling_spans(tables.memory, context(mode), **between)
        for span in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]


def lacking():
    """A page, and beside it a page table, a directory and a directory pointer outside memory."""
    tables = PageTables(ram=RAM).map(0x40_0000, 0x8000)
    tables.words[tables.entry_pa(0x60_0000, 2)] = OUTSIDE | OPEN
    tables.words[tables.entry_pa(0x20_0000, 2)] = OUTSIDE | OPEN
    tables.words[tables.entry_pa(3 * GIB1, 3)] = OUTSIDE | OPEN
    tables.words[tables.entry_pa(0xFFFF_8000_0000_0000, 4)] = OUTSIDE | OPEN
    return tables


WANTED = [
    (0x20_0000, MIB2),
    (0x60_0000, MIB2),
    (3 * GIB1, GIB1),
    (0xFFFF_8000_0000_0000, 512 * GIB1),
]


def test_spans_come_in_address_order_with_the_size_of_their_entry():
    assert WANTED == spans(lacking())


def test_a_memory_that_has_all_tables_has_none():
    assert [] == spans(PageTables(ram=RAM).map(0x40_0000, 0x8000))


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0, 0x20_0000, []),
        (0, 0x20_1000, WANTED[:1]),
        (0x40_0000, 0x60_0000, []),
        (0x40_0000, 1 << 64, WANTED[1:]),
        (1 << 63, 1 << 64, WANTED[3:]),
        (5, 5, []),
    ],
)
def test_only_those_that_touch_a_range_are_told(start, end, wanted):
    assert wanted == spans(lacking(), start=start, end=end)


@given(st.data(), st.sampled_from(sorted(MODES, key=str)))
def test_an_address_is_in_a_span_where_its_walk_leaves_memory(data, mode):
    top = (1 << 64) - (1 << MODES[mode].va_bits - 1) if mode in LONG else 0x8000_0000
    places = [base + by for base in (0, top) for by in (0, KIB4, MIB2, 4 * MIB2, GIB1)]
    tables = PageTables(mode, ram=RAM)
    for place in places:
        if data.draw(st.booleans()):
            tables.map(place, 0x8000)
    upper = [each for each in MODES[mode].shifts if each > 1]
    for place in data.draw(st.lists(st.sampled_from(places), max_size=4)):
        with suppress(KeyError):  # Tables above it may be missing, or outside already.
            entry = tables.entry_pa(place, data.draw(st.sampled_from(upper)))
            if entry < OUTSIDE:
                tables.entries[entry] = OUTSIDE | (P if mode == "PAE" else OPEN)
    found = spans(tables, mode)
    assert sorted(found) == found
    for place in places:
        steps = walk(tables.memory, context(mode), place).steps
        lost = bool(steps) and steps[-1].kind is StepKind.OUTSIDE
        assert lost == any(start <= place < start + size for start, size in found)
