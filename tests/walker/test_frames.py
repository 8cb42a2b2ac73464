from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Rights,
    SparseWords,
    collective_rights,
    count_mappings,
    frames,
    mappings,
    states,
)
from tests.random_tables import extended_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    ROOT,
    RW,
    SIZES,
    US,
    USED,
    XD,
    CountingMemory,
    P,
    PageTables,
    chain,
    context,
)
from tests.walker import naive, unions

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])


def expected_frames(tables):
    return unions.united(list(mappings(tables.memory, tables.context)))


def expected_counts(tables):
    counts = Counter(page.level for page in naive.pages(tables))
    return {level: counts[level] for level in (1, 2, 3)}


def collective(tables, **switches):
    found = collective_rights(tables.memory, context(tables.mode, **switches))
    return [(start, size, rights.supervisor, rights.user) for start, size, rights in found]


@QUICK
@given(tables=extended_tables())
def test_collective_rights_are_the_union_over_all_mappings(tables):
    assert expected_frames(tables) == list(collective_rights(tables.memory, tables.context))


@QUICK
@given(tables=extended_tables())
def test_the_count_of_mappings_is_that_of_a_naive_walk(tables):
    assert expected_counts(tables) == count_mappings(tables.memory, tables.context)


@QUICK
@given(tables=extended_tables(most=3), block=st.integers(1, 3))
def test_the_seams_between_blocks_of_tables_dont_show(tables, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "BLOCK", block)
        patch.setattr(frames, "_MERGED", block)
        assert expected_frames(tables) == list(collective_rights(tables.memory, tables.context))
        assert expected_counts(tables) == count_mappings(tables.memory, tables.context)


@QUICK
@given(tables=extended_tables())
def test_ranges_are_sorted_disjoint_and_as_long_as_can_be(tables):
    found = collective_rights(tables.memory, tables.context)
    for (start, size, rights), (following, _, others) in pairwise(found):
        assert start + size < following or (start + size == following and rights != others)
    assert all(size > 0 and size % KIB4 == start % KIB4 == 0 for start, size, _ in found)


def one_alias_alone(original):
    """A union that forgets the rights of all but one mapping of each page."""

    def planted(leaves):
        _, first = np.unique(leaves.pa, return_index=True)
        return original(leaves.take(first))

    return planted


def last_part_alone(original):
    return lambda parts: original(list(parts)[-1:])


def ways_forgotten(original):
    def planted(keys, ways):
        found, total = original(keys, ways)
        return found, np.ones_like(total)

    return planted


@pytest.mark.parametrize(
    ("module", "rule", "plant"),
    [
        (frames, "page_keys", one_alias_alone),
        (frames, "_distinct_pages", last_part_alone),
        (states, "_distinct", ways_forgotten),
    ],
    ids=["one alias alone", "last part alone", "ways forgotten"],
)
def test_a_rule_that_the_union_breaks_is_found(module, rule, plant, monkeypatch):
    def wrong(tables):
        counts = count_mappings(tables.memory, tables.context)
        union = list(collective_rights(tables.memory, tables.context))
        return (expected_counts(tables), expected_frames(tables)) != (counts, union)

    monkeypatch.setattr(module, rule, plant(getattr(module, rule)))
    tables = find(extended_tables(most=3), wrong, settings=SEARCH)

    monkeypatch.undo()
    assert not wrong(tables)


def test_the_rights_of_two_aliases_add_up():
    tables = PageTables().map(0, 0x5000, P | RW | XD).map(KIB4, 0x5000, P)
    tables.map(2 * KIB4, 0x6000, P | XD).map(3 * KIB4, 0x6000, P | US)

    assert [(0x5000, KIB4, "rwx", "---"), (0x6000, KIB4, "r--", "r-x")] == collective(
        tables, smep=True
    )


def test_neighbouring_frames_with_equal_rights_are_one_range():
    tables = PageTables().map(0, 0x5000).map(0x9000, 0x6000).map(0x4000, 0x8000)
    assert [(0x5000, 2 * KIB4, "rwx", "rwx"), (0x8000, KIB4, "rwx", "rwx")] == collective(tables)


def test_neighbouring_frames_with_different_rights_are_two():
    tables = PageTables().map(0, 0x5000, P).map(KIB4, 0x6000, P | XD)
    assert [(0x5000, KIB4, "r-x", "---"), (0x6000, KIB4, "r--", "---")] == collective(tables)


def test_a_small_page_in_a_large_one_splits_it_where_it_adds_rights():
    tables = PageTables().map(0, 0x4000_0000, P | XD | PS, level=3)
    tables.map(GIB1, 0x4020_0000, P | XD | RW | PS, level=2)
    tables.map(2 * GIB1, 0x4020_5000, P)
    tables.map(3 * GIB1, 0x4000_0000, P | XD)

    assert [
        (0x4000_0000, MIB2, "r--", "---"),
        (0x4020_0000, 5 * KIB4, "rw-", "---"),
        (0x4020_5000, KIB4, "rwx", "---"),
        (0x4020_6000, MIB2 - 6 * KIB4, "rw-", "---"),
        (0x4040_0000, GIB1 - 2 * MIB2, "r--", "---"),
    ] == collective(tables)


def test_the_topmost_physical_page_has_its_range():
    tables = PageTables().map(0, (1 << 52) - GIB1, OPEN | PS, level=3)
    assert [((1 << 52) - GIB1, GIB1, "rwx", "rwx")] == collective(tables, maxphyaddr=52)


def test_rights_are_those_that_all_levels_leave_on_each_way():
    # One PT by two ways, of which one is read-only, the other not executable.
    tables = PageTables().map(0, 0x5000)
    tables.words[tables.entry_pa(MIB2, 2)] = tables.words[tables.entry_pa(0, 2)] & ~RW & ~US
    tables.change(0, 2, add=XD)

    assert [(0x5000, KIB4, "rwx", "rw-")] == collective(tables)
    assert {1: 2, 2: 0, 3: 0} == count_mappings(tables.memory, context())


def test_an_address_space_without_mappings_has_no_frames():
    empty = SparseWords([(ROOT, KIB4)], {})

    assert [] == list(collective_rights(empty, context()))
    assert {1: 0, 2: 0, 3: 0} == count_mappings(empty, context())


BOMBS = pytest.mark.parametrize(
    ("levels", "memory", "frame"),
    [
        pytest.param(4, chain(4, 0x5000 | USED), 0x5000, id="four shared tables"),
        pytest.param(5, chain(5, 0x5000 | USED), 0x5000, id="five shared tables"),
        pytest.param(4, chain(1, ROOT | USED), ROOT, id="one table, all entries itself"),
        pytest.param(5, chain(1, ROOT | USED), ROOT, id="the same with five levels"),
    ],
)


@BOMBS
def test_a_bomb_is_counted_and_united_at_the_cost_of_its_tables(levels, memory, frame):
    counting, found = CountingMemory(memory), context(levels)

    assert {1: 512**levels, 2: 0, 3: 0} == count_mappings(counting, found)
    assert [(frame, KIB4, Rights(63))] == list(collective_rights(counting, found))
    assert 2 * levels == counting.read_tables


@pytest.mark.parametrize(("level", "count"), [(2, 512**3), (3, 512**2)])
def test_a_bomb_of_large_pages_is_counted_by_level(level, count):
    memory = chain(5 - level, 0x4000_0000 | USED | PS)

    assert {1: 0, 2: 0, 3: 0} | {level: count} == count_mappings(memory, context())
    expected = [(0x4000_0000, SIZES[level], Rights(63))]
    assert expected == list(collective_rights(memory, context()))


def test_a_bomb_with_all_kinds_of_rights_costs_a_visit_for_each_kind():
    kinds = (USED, P | RW, P | US, P, USED | XD, P | RW | XD, P | US | XD, P | XD)
    words = {ROOT + 8 * at: ROOT | kinds[at % 8] for at in range(512)}
    counting = CountingMemory(SparseWords([(ROOT, KIB4)], words))

    assert {1: 512**4, 2: 0, 3: 0} == count_mappings(counting, context())
    assert counting.read_tables <= 1 + 3 * 8
