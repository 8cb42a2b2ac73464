from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker.symbols import NO_NAMES, Names, Span, SpanKind, Spans

TOP = 1 << 64


def symbols(*spans):
    return Spans.of(SpanKind.SYMBOL, [Span(*each, SpanKind.SYMBOL) for each in spans])


def names(regions=(), of_symbols=(), wider=()):
    return Names(
        Spans.of(SpanKind.REGION, [Span(*each, SpanKind.REGION) for each in regions]),
        NO_NAMES.sections,
        symbols(*of_symbols),
        tuple(Span(*each, SpanKind.REGION) for each in wider),
    )


def naive_row(spans, va):
    """Return the first of the spans that begin last at or before an address, if it reaches it."""
    starts = [span.start for span in spans]
    at = bisect_right(starts, va) - 1
    if at < 0:
        return -1
    row = starts.index(starts[at])
    return row if va < spans[row].end else -1


ADDRESSES = st.one_of(st.integers(0, 40), st.integers(TOP - 40, TOP - 1))
SPANS = st.lists(st.tuples(ADDRESSES, st.integers(1, 20)), max_size=20)


@given(SPANS, st.lists(ADDRESSES, max_size=30))
def test_each_address_lies_in_the_span_that_a_search_one_by_one_finds(spans, addresses):
    held = symbols(*((f"s{n}", at, min(at + size, TOP)) for n, (at, size) in enumerate(spans)))
    found = held.rows_at(np.array(addresses, np.uint64)).tolist()
    assert [naive_row(list(held), va) for va in addresses] == found


@given(SPANS, st.lists(st.tuples(ADDRESSES, st.integers(0, 30)), max_size=12))
def test_ranges_have_the_spans_that_a_search_one_by_one_finds(spans, ranges):
    held = symbols(*((f"s{n}", at, min(at + size, TOP)) for n, (at, size) in enumerate(spans)))
    ranges = [(va, min(va + size, TOP - 1)) for va, size in ranges]
    va, last = (np.array([each[side] for each in ranges], np.uint64) for side in (0, 1))
    found = [rows.tolist() for rows in held.rows_between(va, last)]
    expected = [], []
    for first, end in ranges:
        begun = [row for row, each in enumerate(held) if first <= each.start <= end]
        # Those that an address is called by: the first of each start.
        begun = [row for row in begun if row == naive_row(list(held), held[row].start)]
        inside = naive_row(list(held), first)
        expected[0].append(inside if inside >= 0 else begun[0] if begun else -1)
        expected[1].append(begun[-1] if begun else inside)
    assert list(expected) == found


def test_a_search_that_takes_the_end_for_included_is_told_apart(monkeypatch):
    held = symbols(("one", 0x1000, 0x2000))
    at_the_end = np.array([0x1FFF, 0x2000], np.uint64)
    assert [0, -1] == held.rows_at(at_the_end).tolist()
    held.last = held.last + np.uint64(1)
    assert [0, 0] == held.rows_at(at_the_end).tolist()


def test_the_last_byte_of_the_address_space_has_a_name():
    held = symbols(("last", TOP - 0x1000, TOP))
    assert [0] == held.rows_at(np.array([TOP - 1], np.uint64)).tolist()
    assert Span("last", TOP - 0x1000, TOP, SpanKind.SYMBOL) == held[0]


def test_an_address_is_called_by_its_region_and_symbol():
    here = names([("text", 0x1000, 0x3000)], [("start", 0x1000, 0x1800), ("read", 0x1800, 0x2000)])
    assert "text: start" == here.text(0x1000)
    assert "text: read+0x10" == here.text(0x1810)
    assert "text" == here.text(0x2000)
    assert "" == here.text(0x3000)
    label = here.label(np.array([0x1810, 0x2000, 0x3000], np.uint64))
    assert [0, 0, -1] == label.region.tolist()
    assert [1, -1, -1] == label.symbol.tolist()
    assert [0x10, 0, 0] == label.offset.tolist()


def test_names_are_found_by_kind_regions_first():
    here = names(
        [("text", 0x1000, 0x3000)],
        [("text", 0x1000, 0x1800), ("ext4_read", 0x1800, 0x1900), ("ext4_write", 0x1900, 0x2000)],
        [("kernel", 0x1000, 0x9000)],
    )
    assert [SpanKind.REGION] == [each.kind for each in here.find("text")]
    assert ["text"] == [each.name for each in here.find("text", [SpanKind.SYMBOL])]
    assert ["ext4_read", "ext4_write"] == [each.name for each in here.find("ext4*")]
    assert [(0x1000, 0x9000)] == [(each.start, each.end) for each in here.find("kernel")]
    assert [] == here.find("nothing*")
    assert "ext4_read" == here.near("ext4_red")[0]


def test_a_name_that_looks_like_a_pattern_is_found_as_it_is():
    here = names(of_symbols=[("a[1]", 0x10, 0x20), ("a1", 0x20, 0x30)])
    assert ["a[1]"] == [each.name for each in here.find("a[1]")]
    assert ["a1"] == [each.name for each in here.find("a[1-2]")]


@pytest.mark.parametrize("name", ["\x1b[31mred\n", "a" * 1_000_000, "\udcff", "<script>"])
def test_a_hostile_name_is_shown_on_one_short_line(name):
    here = names(of_symbols=[(name, 0x10, 0x20)])
    shown = here.text(0x10)
    assert shown.isprintable()
    assert len(shown) <= 200
    assert [name] == [each.name for each in here.find(name)] or name == "\udcff"


def test_a_symbol_of_a_module_is_found_without_it_and_shown_with_it():
    here = names(of_symbols=[("ext4_iget\t[ext4]", 0x10, 0x20)])
    assert "ext4_iget [ext4]" == here.text(0x10)
    assert "ext4_iget+0x4 [ext4]" == here.text(0x14)
    for pattern in ("ext4_iget", "ext4*", "[ext4]"):
        assert 1 == len(here.find(pattern))
    assert [] == here.find("*[[]ext4]")


def test_moved_names_go_round_the_end_of_the_address_space():
    moved = symbols(("low", 0x1000, 0x1100)).moved(-0x2000)
    assert (TOP - 0x1000, TOP - 0xF00) == (moved[0].start, moved[0].end)


def test_nothing_is_called_anything_without_names():
    assert not NO_NAMES
    assert "" == NO_NAMES.text(0x1000)
    assert [None] == NO_NAMES.region_texts(np.array([0x1000], np.uint64))
    assert [] == NO_NAMES.find("*")
    assert [] == NO_NAMES.edges.tolist()


def test_regions_change_where_one_begins_or_ends():
    here = names([("a", 0x1000, 0x2000), ("b", 0x2000, 0x3000), ("c", TOP - 0x1000, TOP)])
    assert [0x1000, 0x2000, 0x3000, TOP - 0x1000] == here.edges.tolist()
