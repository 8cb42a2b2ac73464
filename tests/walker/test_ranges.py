"""Mappings of one page at equal distances as one range; page directories of it as one row."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import Mapping, Range, Rights, coalesce, ranges, repeats
from crosswalk.walker.chosen import Spans, chosen_pages
from crosswalk.walker.mappings import Ranges, coalesce_pages
from crosswalk.walker.pages import Pages, pages, pages_of
from crosswalk.walker.repeats import Runs, pages_and_runs
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    SIZES,
    US,
    USED,
    XD,
    A,
    D,
    P,
    PageTables,
    context,
)

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])
ALL = Rights(63)


def page(va, pa, *, level=1, rights=ALL):
    return Mapping(va, pa, SIZES[level], level, OPEN | (PS if level == 2 else 0), rights)


STEPS = st.tuples(
    st.sampled_from((0, 0, 0, KIB4, KIB4, 3 * KIB4)),  # What lies between two pages.
    st.sampled_from((None, None, None, 0, 1, 2)),  # The frame; None for the one before.
    st.sampled_from((1, 1, 1, 1, 1, 1, 1, 2)),
    st.sampled_from((63, 63, 63, 63, 63, 1)),
)


@st.composite
def layouts(draw):
    found, va, frame = [], 0, 0
    for gap, chosen, level, rights in draw(st.lists(STEPS, max_size=24)):
        size = SIZES[level]
        frame = frame if chosen is None else chosen
        va = -(-(va + gap) // size) * size
        found.append(page(va, frame * size, level=level, rights=Rights(rights)))
        va += size
    return found


def expanded(folded):
    """The pages of ranges, in units of 4 KiB, as (va, pa, rights)."""
    found = []
    for it in folded:
        if it.stride:
            page_size = it.size - (it.count - 1) * it.stride
            for at in range(it.count):
                found += [
                    (it.va + at * it.stride + offset, it.pa + offset, it.rights)
                    for offset in range(0, page_size, KIB4)
                ]
        else:
            found += [(it.va + at, it.pa + at, it.rights) for at in range(0, it.size, KIB4)]
    return found


def units(listed):
    return [(it.va + at, it.pa + at, it.rights) for it in listed for at in range(0, it.size, KIB4)]


def in_blocks(listed, cuts):
    bounds = [0, *sorted(cut % (len(listed) + 1) for cut in cuts), len(listed)]
    return [it for first, end in pairwise(bounds) for it in pages_of(listed[first:end])]


def folded(listed, cuts=()):
    return [it for each in coalesce_pages(in_blocks(listed, cuts), repeats=True) for it in each]


@QUICK
@given(layouts())
def test_ranges_expand_to_the_plain_list_and_are_never_more(listed):
    found = list(coalesce(listed, repeats=True))
    assert units(listed) == expanded(found)
    assert len(found) <= len(list(coalesce(listed))) <= len(listed)
    assert len(listed) == sum(it.count for it in found)


@QUICK
@given(layouts(), st.lists(st.integers(0, 24), max_size=8))
def test_the_seams_between_blocks_dont_show(listed, cuts):
    assert folded(listed) == folded(listed, cuts)
    assert folded(listed) == folded(listed, range(len(listed)))


@QUICK
@given(layouts())
def test_no_three_mappings_of_one_page_at_equal_distances_are_left(listed):
    found = folded(listed)
    for one, two, three in zip(found, found[1:], found[2:], strict=False):
        if 1 == one.count == two.count == three.count:
            assert not (
                one.pa == two.pa == three.pa
                and one.size == two.size == three.size
                and one.rights == two.rights == three.rights
                and two.va - one.va == three.va - two.va
            )


def all_segments(begins, pairs):
    """A rule that takes any two mappings of one page for a row, and one mapping twice."""
    return np.ones(len(begins), np.bool_), begins


def one_step(run, rows):
    """A rule by which everything goes on from a run."""
    return len(rows)


@pytest.mark.parametrize(
    ("rule", "plant"), [("_segments", all_segments), ("_continuing", one_step)]
)
def test_a_rule_that_the_folding_breaks_is_found(rule, plant, monkeypatch):
    def wrong(chosen):
        listed, cuts = chosen
        found = folded(listed, cuts)
        return units(listed) != expanded(found) or len(found) > len(list(coalesce(listed)))

    monkeypatch.setattr(ranges, rule, plant)
    chosen = find(st.tuples(layouts(), st.lists(st.integers(0, 24))), wrong, settings=SEARCH)
    monkeypatch.undo()
    assert not wrong(chosen)


def rows(*listed):
    return [(it.va, it.size, it.count, it.stride) for it in coalesce(listed, repeats=True)]


def test_three_mappings_of_one_page_are_a_range_and_two_are_not():
    three = [page(0x1000 * at, 0x5000) for at in range(3)]
    assert [Range(0, 0x5000, 3 * KIB4, OPEN, ALL, 3, KIB4)] == list(coalesce(three, repeats=True))
    assert [(0, KIB4, 1, 0), (0x1000, KIB4, 1, 0)] == rows(*three[:2])
    assert 3 == len(list(coalesce(three)))


def test_mappings_of_one_page_at_equal_distances_are_a_range_with_a_stride():
    listed = [page(0xA000 + 0x10000 * at, 0x5000) for at in range(5)]
    assert [(0xA000, 0x41000, 5, 0x10000)] == rows(*listed)
    assert 2 == len(rows(*listed[:3], page(0x3B000, 0x5000)))


def test_a_page_before_and_behind_that_goes_on_in_pa_stays_by_itself():
    listed = [page(0x1000, 0x4000), *(page(0x1000 * at, 0x5000) for at in (2, 3, 4))]
    listed.append(page(0x5000, 0x6000))
    assert [(0x1000, KIB4, 1, 0), (0x2000, 3 * KIB4, 3, KIB4), (0x5000, KIB4, 1, 0)] == rows(
        *listed
    )


def test_large_pages_repeat_as_well():
    listed = [page(MIB2 * at, 4 * MIB2, level=2) for at in range(4)]
    assert [(0, 4 * MIB2, 4, MIB2)] == rows(*listed)


CONTEXT = context()
SHADOW = 0xFFFF_EC00_0000_0000
PAGE, DIRECTORY, TABLE = 0x90_0000, 0xA0_0000, 0xB0_0000
RUNS = [SHADOW + at * GIB1 for at in (2, 3, 4)]
NO_EDGES = np.zeros(0, np.uint64)
CHANGES = {
    "nothing": ({}, 3),
    "accessed and dirty": ({TABLE + 8: PAGE | USED | XD | A | D, DIRECTORY: TABLE | P | US | 2}, 3),
    "a page": ({TABLE + 8 * 511: (PAGE + KIB4) | USED | XD}, 0),
    "a page's rights": ({TABLE: PAGE | USED}, 0),
    "an absent page": ({TABLE + 8 * 7: 0}, 0),
    "a table": ({DIRECTORY + 8 * 511: 0xC0_0000 | USED}, 0),
    "a table's rights": ({DIRECTORY + 8 * 3: TABLE | P | US | A}, 0),
    "all pages absent": ({TABLE + 8 * at: PAGE | 2 for at in range(512)}, 0),
    "all pages malformed": ({TABLE + 8 * at: PAGE | USED | 1 << 51 for at in range(512)}, 0),
    "large pages": ({DIRECTORY + 8 * at: 0x40_0000 | USED | PS for at in range(512)}, 3),
    "no tables": ({DIRECTORY + 8 * at: (1 << 30) | USED for at in range(512)}, 0),
}


def shadow(change=()):
    """Memory in which three page directories in a row are one that maps one page all over.

    Before and behind them are pages of their own. `change` has words that are otherwise.
    """
    tables = PageTables()
    for at in (0, 1, 5):
        tables.map(SHADOW + at * GIB1 + KIB4, 0x20_0000 + at * KIB4, USED)
    slots = tables.entry_pa(SHADOW, 3)
    tables.entries |= {slots + 8 * at: DIRECTORY | USED for at in (2, 3, 4)}
    tables.entries |= {DIRECTORY + 8 * at: TABLE | USED for at in range(512)}
    tables.entries |= {TABLE + 8 * at: PAGE | USED | XD for at in range(512)}
    tables.entries |= dict(change)
    return tables.memory


def listed_pages(blocks):
    """All mappings of blocks, runs page by page, without A and D: columns."""
    parts = []
    for it in blocks:
        count = it.count.astype(np.intp) if isinstance(it, Runs) else np.ones(len(it), np.intp)
        row = np.repeat(np.arange(len(it)), count)
        ordinal = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        va = it.va[row] + it.size[row] * ordinal.astype(np.uint64)
        flags = it.flags[row] & ~np.uint64(A | D)
        parts.append(Pages(va, it.pa[row], flags, it.rights[row], it.shift[row]))
    return [getattr(Pages.join(parts), name).tolist() for name in Pages.__slots__]


def runs_of(blocks):
    return [
        (it.va[row].item(), it.count[row].item())
        for it in blocks
        if isinstance(it, Runs)
        for row in np.flatnonzero(it.count > 1)
    ]


@pytest.mark.parametrize(("change", "runs"), CHANGES.values(), ids=list(CHANGES))
def test_a_directory_of_one_page_is_a_row_and_stands_for_its_mappings(change, runs):
    memory = shadow(change)
    found = list(pages_and_runs(memory, CONTEXT, edges=NO_EDGES))
    assert runs == len(runs_of(found))
    assert listed_pages(pages(memory, CONTEXT)) == listed_pages(found)


@pytest.mark.parametrize("change", ["a page", "a table's rights", "an absent page"])
def test_a_rule_by_which_all_tables_are_alike_is_found(change, monkeypatch):
    def plant(memory, context, level, frames, ignore):
        words = memory.tables(frames)
        return np.ones(len(frames), np.bool_), words[:, 1].copy()

    memory = shadow(CHANGES[change][0])
    monkeypatch.setattr(repeats, "_alike", plant)
    found = pages_and_runs(memory, CONTEXT, edges=NO_EDGES)
    assert listed_pages(pages(memory, CONTEXT)) != listed_pages(found)


@pytest.mark.parametrize(
    ("start", "end", "edges", "expected"),
    [
        (0, 1 << 64, [], RUNS),
        (RUNS[0] + 1, 1 << 64, [], RUNS[1:]),
        (RUNS[0], RUNS[2] + GIB1 - 1, [], RUNS[:2]),
        (RUNS[0] + 5 * KIB4, RUNS[0] + 9 * KIB4, [], []),
        (0, 1 << 64, [RUNS[1] + KIB4], [RUNS[0], RUNS[2]]),
        (0, 1 << 64, [RUNS[1]], RUNS),
    ],
)
def test_a_run_lies_in_what_is_asked_for_and_over_no_edge(start, end, edges, expected):
    memory = shadow()
    found = list(pages_and_runs(memory, CONTEXT, start, end, edges=np.array(edges, np.uint64)))
    assert expected == [va for va, _ in runs_of(found)]
    assert listed_pages(pages(memory, CONTEXT, start, end)) == listed_pages(found)


@pytest.mark.parametrize("waiting", [0, 1])
def test_runs_that_wait_are_listed_page_by_page_before_they_are_too_many(waiting, monkeypatch):
    monkeypatch.setattr(repeats, "_WAITING", waiting)
    memory = shadow()
    found = list(pages_and_runs(memory, CONTEXT, edges=NO_EDGES))
    assert listed_pages(pages(memory, CONTEXT)) == listed_pages(found)


def test_mappings_are_chosen_of_runs_as_of_pages():
    memory = shadow()
    spans = Spans.of([(SHADOW, RUNS[0] + KIB4), (RUNS[1], RUNS[2])])
    for condition, runs in (
        (None, 3),
        (lambda rows, _: rows.pa == PAGE, 3),
        (lambda rows, _: rows.pa != PAGE, 0),
    ):
        for chosen in (None, spans):
            (_, plain), (_, found) = (
                next(chosen_pages(memory, CONTEXT, condition, chosen, edges=edges))
                for edges in (None, NO_EDGES)
            )
            found = list(found)
            assert listed_pages(plain) == listed_pages(found)
            assert (runs if chosen is None else runs // 3) == len(runs_of(found))


def test_a_shadow_of_the_whole_address_space_is_one_range():
    memory = shadow()
    found = Ranges.join(
        coalesce_pages(pages_and_runs(memory, CONTEXT, edges=NO_EDGES), repeats=True)
    )
    assert [3 * GIB1 // KIB4] == found.count[found.stride != 0].tolist()
    assert [RUNS[0]] == found.va[found.stride != 0].tolist()
    assert list(found) == list(Ranges.join(coalesce_pages(pages(memory, CONTEXT), repeats=True)))


@pytest.mark.parametrize("most", [-1, 0, 1, 1 << 20])
def test_no_page_is_lost_where_many_runs_wait(monkeypatch, most):
    monkeypatch.setattr(repeats, "_WAITING", most)
    tables = PageTables()
    for at in range(4):
        for slot in range(512):
            tables.map(at * GIB1 + slot * MIB2, 0x20_0000, OPEN | PS, level=2)
    none = np.zeros(0, np.uint64)
    blocks = pages_and_runs(tables.memory, context(4), edges=none)
    counts = [int(getattr(block, "count", np.ones(len(block))).sum()) for block in blocks]
    assert 4 * 512 == sum(counts)
