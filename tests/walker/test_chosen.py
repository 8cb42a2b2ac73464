from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import Rights, SparseWords, chosen, leaves, mappings, states
from crosswalk.walker.chosen import Spans, chosen_pages
from crosswalk.walker.pages import pages
from crosswalk.walker.spaces import distinct_contexts
from tests.random_tables import address_spaces
from tests.tables import (
    KIB4,
    MIB2,
    ROOT,
    RW,
    TOP,
    USED,
    CountingMemory,
    P,
    PageTables,
    chain,
    context,
)

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])


def condition_of(number):
    """A condition on all that may count, and the same on one mapping."""
    low, mask, rights = number % 2**20 << 12, number >> 20 & 0x1FE, number >> 29 & 63

    def in_bulk(rows, _):
        some = (rows.pa >= np.uint64(low)) | (rows.level > 1)
        return some & ((rows.flags & np.uint64(mask)) == 0) & ((rows.rights & rights) == 0)

    def alone(page):
        large = page.pa >= low or page.level > 1
        return large and not page.flags & mask and not page.rights & rights

    return in_bulk, alone


NUMBERS = st.one_of(st.just(0), st.integers(0, 2**35 - 1))


@st.composite
def questions(draw):
    """Address spaces; a condition or none; spans near their mappings or none; a window."""
    memory, contexts = draw(address_spaces())
    every = [it for each in contexts for it in mappings(memory, each)]
    edges = [0, 1 << 47, TOP, *(edge for it in every for edge in (it.va, it.va + it.size))]
    near = st.sampled_from((-KIB4, -1, 0, 1, KIB4))
    point = st.builds(lambda edge, by: min(max(edge + by, 0), TOP), st.sampled_from(edges), near)
    ranges = draw(st.none() | st.lists(st.tuples(point, point), max_size=4))
    return memory, contexts, draw(st.none() | NUMBERS), ranges, draw(point), draw(point)


def expected_of(memory, contexts, number, ranges, start, end):
    _, alone = condition_of(number or 0)
    found = []
    for each in distinct_contexts(contexts):
        every = mappings(memory, each, start, end)
        some = [it for it in every if number is None or alone(it)]
        if ranges is not None:
            some = [
                it
                for it in some
                if any(low < it.va + it.size and it.va < high for low, high in ranges if low < high)
            ]
        found.append((each, some))
    return found


def found_of(memory, contexts, number, ranges, start, end):
    in_bulk = None if number is None else condition_of(number)[0]
    spans = None if ranges is None else Spans.of(ranges)
    found = [
        (each, list(blocks))
        for each, blocks in chosen_pages(memory, contexts, in_bulk, spans, start, end)
    ]
    assert all(len(block) for _, blocks in found for block in blocks)
    return [(each, [it for block in blocks for it in block]) for each, blocks in found]


@QUICK
@given(asked=questions(), block=st.sampled_from((1, 2, 1024)))
def test_what_is_chosen_is_chosen_from_all_mappings(asked, block):
    with pytest.MonkeyPatch.context() as patch:
        for module in (states, chosen, leaves):
            patch.setattr(module, "BLOCK", block)
        assert expected_of(*asked) == found_of(*asked)


def the_first_way(original):
    return lambda keys, some: original(keys, some) & (np.arange(len(keys)) < 1)


def the_last_span_alone(original):
    def planted(self, first, last):
        return original(Spans(self.first[-1:], self.last[-1:]), first, last)

    return planted


def test_a_rule_that_the_choice_breaks_is_found(monkeypatch):
    def wrong(asked):
        return expected_of(*asked) != found_of(*asked)

    monkeypatch.setattr(chosen, "among", the_first_way(chosen.among))
    asked = find(questions(), wrong, settings=SEARCH)

    monkeypatch.undo()
    assert not wrong(asked)


@pytest.mark.parametrize("planted", [False, True])
def test_a_span_that_is_left_out_is_found(planted, monkeypatch):
    tables = PageTables().map(0x2000, 0x80_0000).map(0x4000, 0x80_1000)
    if planted:
        monkeypatch.setattr(Spans, "touched", the_last_span_alone(Spans.touched))
    ranges = [(0x2000, 0x2001), (0x4000, 0x4001)]
    asked = (tables.memory, [context()], None, ranges, 0, TOP)
    ((_, found),) = expected_of(*asked)
    assert [0x2000, 0x4000] == [it.va for it in found]
    assert planted == (expected_of(*asked) != found_of(*asked))


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], []),
        ([(5, 5), (7, 3)], []),
        ([(0, 5), (5, 9)], [(0, 8)]),
        ([(6, 9), (0, 5)], [(0, 4), (6, 8)]),
        ([(0, 9), (2, 3), (8, 12)], [(0, 11)]),
        ([(TOP - 1, TOP), (-5, 1)], [(0, 0), (TOP - 1, TOP - 1)]),
        ([(0, 2 * TOP)], [(0, TOP - 1)]),
    ],
)
def test_spans_are_the_union_of_ranges(ranges, expected):
    found = Spans.of(ranges)
    assert expected == list(zip(found.first.tolist(), found.last.tolist(), strict=True))
    assert len(expected) == len(found)


def of_level(level):
    return lambda rows, _: rows.level == level


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0x2FFF, 0x2FFF, [0x2000]),
        (0x3000, 0x3000, []),
        (0x1000, 0x1FFF, []),
        (0x1FFF, 0x2000, [0x2000]),
        (0x4FFF, 0x5000, [0x4000]),
        (0x2800, 0x2801, [0x2000]),
        (0x1F_FFFF, 0x1F_FFFF, [0x1F_F000]),
        (0x20_0000, 0x20_0000, []),
        (0, TOP - 1, [0x2000, 0x4000, 0x1F_F000]),
    ],
)
def test_a_page_touches_a_span_by_its_first_and_last_byte(first, last, expected):
    tables = PageTables().map(0x2000, 0x80_0000).map(0x4000, 0x80_1000)
    tables.map(0x1F_F000, 0x80_2000)
    spans = Spans.of([(first, last + 1)])
    ((_, found),) = chosen_pages(tables.memory, context(), None, spans)
    assert expected == [it.va for block in found for it in block]


BOMB = chain(4, 0x5000 | USED)


def test_of_a_bomb_nothing_is_found_at_the_cost_of_its_tables():
    counting = CountingMemory(BOMB)
    ((_, found),) = chosen_pages(counting, context(), of_level(2))

    assert [] == list(found)
    assert counting.read_tables <= 3 * 4


def test_the_first_of_a_bomb_are_found_at_the_cost_of_its_tables():
    counting = CountingMemory(BOMB)
    ((_, found),) = chosen_pages(counting, context(), of_level(1))

    first = next(found)
    assert [0, KIB4, 2 * KIB4] == first.va[:3].tolist()
    assert counting.read_tables <= 2 * 4 + 1 + 3 * leaves.BLOCK


# Without a condition the ways are counted first; there are many, so that all states are looked at.
@pytest.mark.parametrize(("condition", "more"), [(None, 4 + 3 + 4), (of_level(1), 3 + 4)])
def test_a_span_of_a_bomb_costs_the_way_there(condition, more):
    counting = CountingMemory(BOMB)
    spans = Spans.of([(3 << 39, (3 << 39) + 1), (7 << 39, (7 << 39) + KIB4)])
    ((_, found),) = chosen_pages(counting, context(), condition, spans)

    assert [3 << 39, 7 << 39] == [it.va for block in found for it in block]
    assert counting.read_tables <= 1 + 3 * 2 + more


def test_one_page_among_many_is_found_without_the_tables_of_the_others():
    tables = PageTables()
    for at in range(64):
        tables.map(at * MIB2, 0x80_0000 + at * KIB4, P | RW)
    counting = CountingMemory(tables.memory)
    wanted = np.uint64(0x80_0000 + 5 * KIB4)
    ((_, found),) = chosen_pages(counting, context(), lambda rows, _: rows.pa == wanted)

    assert [(5 * MIB2, Rights(7))] == [(it.va, it.rights) for block in found for it in block]
    # Three upper tables to know the others, all of them once, and the way to the one page.
    assert counting.read_tables <= 3 + 67 + 4


def test_roots_of_one_kind_are_looked_at_together():
    words = {ROOT + at * KIB4 + 8 * 256: 0x10_0000 | USED for at in range(50)}
    words |= {0x10_0000: 0x10_1000 | USED, 0x10_1000: 0x10_2000 | USED, 0x10_2000: 0x5000 | USED}
    counting = CountingMemory(SparseWords([(0, 1 << 24)], words))
    contexts = [context(root=ROOT + at * KIB4) for at in range(50)]
    found = [list(blocks) for _, blocks in chosen_pages(counting, contexts, of_level(2))]

    assert [[]] * 50 == found
    assert counting.read_tables <= 2 * 53


def test_without_any_choice_all_are_listed():
    tables = PageTables().map(0, 0x80_0000)
    ((_, found),) = chosen_pages(tables.memory, context(), None)
    assert list(next(pages(tables.memory, context()))) == list(next(found))
    assert [] == list(islice(found, 1))


def test_tables_that_lead_to_no_mapping_are_looked_at_once():
    # 512 ** 4 ways, all of which end in an empty table.
    counting = CountingMemory(chain(5, 0))
    ((_, found),) = chosen_pages(counting, [context(5)], None)
    assert [] == list(found)
    assert counting.read_tables < 100


@QUICK
@given(address_spaces())
def test_without_tables_that_lead_to_no_mapping_all_are_listed(drawn):
    memory, contexts = drawn
    expected = [
        [each for block in found for each in block]
        for _, found in chosen_pages(memory, contexts, None)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "_REACHED", -1)
        pruned = [
            [each for block in found for each in block]
            for _, found in chosen_pages(memory, contexts, None)
        ]
    assert expected == pruned
