"""Mappings found in ranges by their rights, held to a list of all mappings."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from crosswalk.walker import count_mappings, mappings
from crosswalk.walker.dangling import dangling_spans
from crosswalk.walker.expectations import search as searching
from crosswalk.walker.expectations.search import Search
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.rights import Rights
from crosswalk.walker.spaces import distinct_contexts
from tests.random_tables import address_spaces
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    PS,
    RW,
    TOP,
    US,
    USED,
    XD,
    P,
    PageTables,
    chain,
    context,
    words_of,
)

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def questions(draw):
    """Address spaces with all of their mappings, ranges near their edges, and rights."""
    memory, contexts = draw(address_spaces())
    assume(sum(count_mappings(memory, contexts).values()) < 3000)
    every = list_of(memory, contexts)
    edges = [0, 1 << 47, TOP, *(edge for _, it in every for edge in (it.va, it.va + it.size))]
    near = st.sampled_from((-KIB4, -1, 0, 1, KIB4))
    point = st.builds(lambda edge, by: min(max(edge + by, 0), TOP), st.sampled_from(edges), near)
    points = sorted(draw(st.sets(point, max_size=6)))
    spans = [*zip(points[::2], points[1::2], strict=False)]
    rights = draw(st.sets(st.sampled_from(sorted({int(it.rights) for _, it in every} | {5}))))
    return memory, contexts, spans, rights


def list_of(memory, contexts):
    """All mappings, each with its context."""
    return [(each, it) for each in distinct_contexts(contexts) for it in mappings(memory, each)]


def rule_of(rights):
    rule = np.zeros(64, np.bool_)
    rule[sorted(rights)] = True
    return rule


def touches(page, spans):
    return any(page.va < end and page.va + page.size > start for start, end in spans)


def listed(found):
    return [
        (each.context.root, page.va, page.pa, page.size, page.rights)
        for each in found
        for page in each.pages
    ]


def require_found(question):
    memory, contexts, spans, rights = question
    every = list_of(memory, contexts)
    found = Search(memory, contexts)
    wanted = [
        (each.root, it.va, it.pa, it.size, it.rights)
        for each, it in every
        if touches(it, spans) and it.rights in rights
    ]
    shown = [*found.find(spans, rule_of(rights))]
    assert bool(wanted) == found.any(spans, rule_of(rights))
    assert found.count(spans, rule_of(rights)) == len(listed(shown))
    if len(distinct_contexts(contexts)) == 1:
        assert wanted == listed(shown)
    # What several roots share is found once, with their number.
    assert len(wanted) == sum(each.roots * len(each.pages) for each in shown)
    assert {row[1:] for row in wanted} == {row[1:] for row in listed(shown)}
    assert {*listed(shown)} <= {*wanted}


@given(questions())
@QUICK
def test_mappings_in_ranges_are_those_of_a_list(question):
    require_found(question)


@given(questions())
@QUICK
def test_frames_of_ranges_are_those_of_a_list(question):
    memory, contexts, spans, _ = question
    every = list_of(memory, contexts)
    wanted = []
    for _, page in every:
        for start, end in spans:
            first = max(start & -KIB4, page.va)
            last = min(-(-end // KIB4) * KIB4, page.va + page.size)
            if touches(page, [(start, end)]):
                wanted.append((page.pa + first - page.va, page.pa + last - page.va))
    frames = Search(memory, contexts).frames(spans)
    assert union(wanted) == [(start, start + size) for start, size, _ in frames]


def union(ranges):
    found = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


@given(questions())
@QUICK
def test_holes_of_ranges_are_those_of_a_list(question):
    memory, contexts, spans, _ = question
    every = list_of(memory, contexts)
    found = Search(memory, contexts)
    for start, end in spans:
        holes = []
        for each in distinct_contexts(contexts):
            at = start
            for context_of, page in every:
                if context_of is each and page.va <= at < page.va + page.size:
                    at = page.va + page.size
            holes.append(None if at >= end else at)
        assert (None if None in holes else max(holes)) == found.hole((start, end))


@given(questions())
@QUICK
def test_an_address_is_outside_where_its_table_is(question):
    memory, contexts, spans, _ = question
    lost = [
        (at, at + length)
        for each in distinct_contexts(contexts)
        for blocks in dangling_spans(memory, each)
        for at, length in zip(*(it.tolist() for it in blocks), strict=True)
    ]
    found = Search(memory, contexts).outside(spans)
    if found is None:
        assert not any(lo < end and start < hi for lo, hi in lost for start, end in spans)
    else:
        assert any(lo <= found < hi for lo, hi in lost)
        assert any(start <= found < end for start, end in spans)


def test_more_mappings_than_could_be_listed_are_counted_and_the_first_found():
    memory = chain(4, USED)
    spans = [(0, TOP)]
    found = Search(memory, context(4))
    assert 512**4 == found.count(spans)
    halves = [found.count([half]) for half in ((0, 1 << 47), (1 << 47, TOP))]
    assert [512**4 // 2] * 2 == halves
    first = next(found.find([(0x7F00_0000_0000, TOP)]))
    assert 0x7F00_0000_0000 == first.pages.va[0]
    assert None is found.hole((0, 1 << 47))
    assert 1 << 47 == found.hole((0, TOP))


@pytest.mark.parametrize("wrong", ["after", "edge"])
def test_a_search_that_takes_the_wrong_range_is_noticed(monkeypatch, wrong):
    tables = PageTables().map(0, MIB2, USED | PS, level=2).map(4 * MIB2, 0x8000, P)
    question = tables.memory, [context(4)], [(KIB4, 2 * KIB4), (3 * MIB2, 4 * MIB2)], {5, 63}
    require_found(question)
    indexed = searching.indexed

    def off(paging, spans):
        found = indexed(paging, spans)
        return found[1:] if wrong == "after" else [(lo, hi + 1) for lo, hi in found]

    monkeypatch.setattr(searching, "indexed", off)
    with pytest.raises(AssertionError):
        require_found(question)


def test_frames_below_tables_that_lie_in_a_range_as_a_whole_are_found():
    # Of the range's tables those of level 3 and 2 are looked at as a whole, not cut.
    tables = PageTables().map(0, 0x8000, USED).map(GIB1, 4 * MIB2, USED | PS, level=2)
    found = Search(tables.memory, [context(4)]).frames([(0, TOP)])
    assert [(0x8000, KIB4, 0), (4 * MIB2, MIB2, 0)] == [*found]


@pytest.mark.parametrize("flags", [P | XD, P | RW | XD, P | US | XD, P])
def test_frames_are_found_whatever_their_mappings_grant(flags):
    tables = PageTables().map(0, 0x8000, flags)
    assert [(0x8000, KIB4, 0)] == [*Search(tables.memory, [context(4)]).frames([(0, TOP)])]


MIB4 = 1 << 22


def shared_roots():
    """Two roots of 4 MiB pages: slots 0 and 3 of their own, 1 and 2 of both; table 4 of both."""
    words, contexts = {}, []
    words[0x3000] = 0x8000 | USED
    for row, root in enumerate((0x1000, 0x2000)):
        first = (row + 2) * MIB4
        for slot, pa in enumerate((first, 8 * MIB4, 9 * MIB4, first + 16 * MIB4)):
            words[root + 4 * slot] = pa | USED | PS
        words[root + 16] = 0x3000 | USED
        contexts.append(context("32-bit", root=root))
    return SparseWords(((0, 1 << 24),), words_of(words)), contexts


def test_what_roots_share_is_found_once_with_the_number_of_them():
    memory, contexts = shared_roots()
    found = Search(memory, contexts)
    every = [(0, 1 << 32)]
    expected = [
        (0x1000, 1, [0], [2 * MIB4]),
        (0x1000, 2, [MIB4, 2 * MIB4], [8 * MIB4, 9 * MIB4]),
        (0x1000, 1, [3 * MIB4], [18 * MIB4]),
        (0x1000, 2, [4 * MIB4], [0x8000]),
        (0x2000, 1, [0, 3 * MIB4], [3 * MIB4, 19 * MIB4]),
    ]
    assert expected == [
        (each.context.root, each.roots, each.pages.va.tolist(), each.pages.pa.tolist())
        for each in found.find(every)
    ]
    assert 7 == found.count(every)
    assert [(0x8000, KIB4), (2 * MIB4, 2 * MIB4), (8 * MIB4, 2 * MIB4), (18 * MIB4, 2 * MIB4)] == [
        (start, size) for start, size, _ in found.frames(every)
    ]


def test_a_range_of_slots_that_the_first_root_has_too_is_found_for_it_alone():
    memory, contexts = shared_roots()
    found = Search(memory, contexts)
    shared = [(MIB4, 3 * MIB4)]
    assert [0x1000] == [each.context.root for each in found.find(shared)]
    # The last byte of the range is the first one of a slot of each root's own.
    ends = [each.context.root for each in found.find([(2 * MIB4, 3 * MIB4 + 1)])]
    assert [0x1000, 0x1000, 0x2000] == ends


def test_what_no_way_leads_to_is_known_without_all_ways_being_tried():
    # There are 510 * 512 * 512 * 512 ways to executable pages, and one to a page for data.
    tables = PageTables().map(0, 0x8000, USED, upper=USED).map(KIB4, 0x9000, USED | XD)
    chained = {
        table + 8 * at: entry
        for table, entry in ((0x1000, 0x6000), (0x6000, 0x7000), (0x7000, 0x9000), (0x9000, 0xA000))
        for at in range(512)
    }
    lost = {0x1000 + 8 * 511: 1 << 30}
    entries = {at: entry | USED for at, entry in (chained | lost).items()} | tables.entries
    found = Search(SparseWords(tables.ram, entries), context(4))
    everywhere = [(0, TOP)]
    assert TOP - (1 << 39) == found.outside(everywhere)
    assert None is found.outside([(0, TOP - (1 << 39))])
    read_only = rule_of({Rights.SUPERVISOR_READ})
    assert (False, 0) == (found.any(everywhere, read_only), found.count(everywhere, read_only))
    data = rule_of({Rights(0b11011)})
    assert [(context(4).root, KIB4, 0x9000, KIB4, 0b11011)] == listed(found.find(everywhere, data))


def test_the_first_address_of_a_table_that_is_outside_memory_is_told():
    tables = PageTables().map(0, 0x8000, USED)
    tables.map(GIB1, 1 << 30, USED, level=2).map(GIB1 + 3 * MIB2, 1 << 30, USED, level=2)
    found = Search(tables.memory, context(4))
    second = GIB1 + 3 * MIB2
    for expected, span in [
        (GIB1, (0, TOP)),
        (GIB1 + KIB4, (GIB1 + KIB4, TOP)),
        (second, (GIB1 + MIB2, TOP)),
        (second + 1, (second + 1, second + 2)),
        (None, (0, GIB1)),
        (None, (GIB1 + MIB2, second)),
        (None, (second + MIB2, TOP)),
    ]:
        assert expected == found.outside([span])


def test_tables_of_one_level_with_other_grants_are_told_apart():
    kinds = {0: XD, GIB1: 0, 2 * GIB1: RW | XD, 3 * GIB1: RW}
    tables = PageTables()
    for count, (va, flags) in enumerate(kinds.items(), 1):
        for at in range(count):
            tables.map(va + at * KIB4, 0x8000, P | flags)
    found = Search(tables.memory, context(4))
    for count, (va, rights) in enumerate(zip(kinds, (1, 5, 3, 7), strict=True), 1):
        assert count == found.count([(0, TOP)], rule_of({rights}))
        assert count == found.count([(va, va + GIB1)])
        pages = [page for each in found.find([(0, TOP)], rule_of({rights})) for page in each.pages]
        assert [va + at * KIB4 for at in range(count)] == [page.va for page in pages]


def test_a_table_in_the_first_frame_is_looked_into_for_holes():
    # Its state is 0: neither writable nor executable, and at the physical address 0.
    entries = {0x1000: 0x2000, 0x2000: 0x3000, 0x3000: 0, 0: 0x8000}
    words = {at: entry | P | XD for at, entry in entries.items()}
    found = Search(SparseWords(((0, 1 << 24),), words), context(4))
    assert KIB4 == found.hole((0, MIB2))
    assert None is found.hole((0, KIB4))
