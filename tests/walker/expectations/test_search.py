"""Mappings found in ranges by their rights, held to a list of all mappings."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from crosswalk.walker import count_mappings, mappings
from crosswalk.walker.dangling import dangling_spans
from crosswalk.walker.expectations import search as searching
from crosswalk.walker.expectations.search import Search
from crosswalk.walker.spaces import distinct_contexts
from tests.random_tables import address_spaces
from tests.tables import KIB4, MIB2, PS, TOP, USED, P, PageTables, chain, context

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
    indexed = searching._Group._indexed

    def off(self, spans):
        found = indexed(self, spans)
        return found[1:] if wrong == "after" else [(lo, hi + 1) for lo, hi in found]

    monkeypatch.setattr(searching._Group, "_indexed", off)
    with pytest.raises(AssertionError):
        require_found(question)
