"""Hostile tables cost what is asked for, not what they claim to map."""

from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings

from crosswalk.walker import Rights, SparseWords, Vendor, malformed_entries, mappings, walk_leaves
from crosswalk.walker.leaves import table_frames
from tests.random_tables import extended_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    ROOT,
    TOP,
    USED,
    XD,
    CountingMemory,
    G,
    PageTables,
    chain,
    context,
    linear,
)
from tests.walker import naive

LEAF = 0x5000 | USED
BOMBS = pytest.mark.parametrize(
    "memory",
    [
        pytest.param(chain(4, LEAF), id="four shared tables"),
        pytest.param(chain(1, ROOT | USED), id="one table, all entries itself"),
    ],
)


@BOMBS
def test_the_first_leaves_of_a_bomb_need_few_tables(memory):
    counting = CountingMemory(memory)
    first = list(islice(mappings(counting, context()), 1000))

    assert [at * KIB4 for at in range(1000)] == [page.va for page in first]
    # The root, and no more than two roots' worth of tables on each of the levels below.
    assert counting.read_tables <= 1 + 3 * 1024


@BOMBS
def test_a_walk_that_isnt_begun_reads_nothing(memory):
    counting = CountingMemory(memory)
    walk_leaves(counting, context())
    assert 0 == counting.read_tables


@BOMBS
@pytest.mark.parametrize(
    ("start", "pages"),
    [
        (0, 1),
        (linear(255, 511, 511, 511), 1),
        (linear(256, 0, 0, 0), 1),
        (linear(300, 7, 8, 9, offset=1), 2),
        (linear(300, 7, 511, 511, offset=5), 2),
        (TOP - KIB4, 1),
    ],
)
def test_a_narrow_window_reads_only_the_tables_on_its_way(memory, start, pages):
    counting = CountingMemory(memory)
    found = list(mappings(counting, context(), start, start + KIB4))

    assert [start // KIB4 * KIB4 + at * KIB4 for at in range(pages)] == [page.va for page in found]
    assert counting.read_tables <= 1 + 3 * 2


def test_a_bomb_of_five_levels_can_be_left_after_its_first_leaves():
    counting = CountingMemory(chain(5, LEAF))
    first = next(walk_leaves(counting, context(5)))

    assert (0, 0x5000) == (int(first.va[0]), int(first.pa[0]))
    assert counting.read_tables <= 1 + 4 * 1024


def test_blocks_stay_bounded_and_go_on_where_the_last_ended():
    blocks = list(islice(walk_leaves(chain(4, LEAF), context()), 3))

    assert [0, *(int(block.va[-1]) + KIB4 for block in blocks[:2])] == [
        int(block.va[0]) for block in blocks
    ]
    assert max(len(block) for block in blocks) <= 1024 * 512


def malformed(memory, found):
    rows = malformed_entries(memory, found)
    return list(zip(rows.va.tolist(), rows.level.tolist(), rows.entry.tolist(), strict=True))


def test_entries_full_of_something_that_map_nothing_are_malformed():
    tables = PageTables().map(0, 0x5000)
    low, high = 1 << 51 | 0x5000 | OPEN, 0x20_0000 | 1 << 13 | OPEN | PS
    tables.words[tables.entry_pa(KIB4, 1)] = low
    tables.words[tables.entry_pa(2 * KIB4, 1)] = 0xDEAD_BEEE
    tables.words[tables.entry_pa(MIB2, 2)] = high
    tables.words[tables.entry_pa(GIB1, 3)] = 2
    tables.words[ROOT + 8 * 511] = 0x3000 | OPEN | PS

    assert [
        (KIB4, 1, low),
        (2 * KIB4, 1, 0xDEAD_BEEE),
        (MIB2, 2, high),
        (GIB1, 3, 2),
        (linear(511, 0, 0, 0), 4, 0x3000 | OPEN | PS),
    ] == malformed(tables.memory, context())


@pytest.mark.parametrize(
    ("level", "bits", "switches"),
    [
        (1, XD, {"nxe": False}),
        (3, PS, {"page1gb": False}),
        (4, G, {"vendor": Vendor.AMD}),
        (2, 1 << 36, {"maxphyaddr": 36}),
    ],
)
def test_which_entries_are_malformed_follows_the_context(level, bits, switches):
    tables = PageTables().map(0, 0x5000)
    entry = tables.change(0, level, add=bits).words[tables.entry_pa(0, level)]

    assert [(0, level, entry)] == malformed(tables.memory, context(**switches))
    assert [] == malformed(PageTables().map(0, 0x5000).memory, context(**switches))


def test_a_shared_table_is_malformed_once_at_its_lowest_address():
    tables = PageTables().map(linear(1, 2, 3, 4), 0x5000).change(linear(1, 2, 3, 4), 1, drop=1)
    entry = tables.words[tables.entry_pa(linear(1, 2, 3, 4), 1)]
    tables.words[ROOT] = tables.words[ROOT + 8]
    tables.words[ROOT + 8 * 400] = tables.words[ROOT + 8]

    assert [(linear(0, 2, 3, 4), 1, entry)] == malformed(tables.memory, context())


def test_the_malformed_entries_of_a_bomb_need_each_table_once():
    counting = CountingMemory(chain(4, 0x5000))
    assert 512 == len(malformed_entries(counting, context()))
    assert 4 == counting.read_tables


def test_the_malformed_entries_of_a_recursive_table_count_on_each_level():
    words = {ROOT: ROOT | USED, ROOT + 8: 0x5000}
    memory = SparseWords([(ROOT, KIB4)], words)
    assert [
        (linear(0, 0, 0, 1), 1, 0x5000),
        (linear(0, 0, 1, 0), 2, 0x5000),
        (linear(0, 1, 0, 0), 3, 0x5000),
        (linear(1, 0, 0, 0), 4, 0x5000),
    ] == malformed(memory, context())


def test_nothing_is_malformed_where_there_is_nothing():
    assert [] == malformed(SparseWords([(ROOT, KIB4)], {}), context())
    assert [] == malformed(SparseWords([(0, KIB4)], {}), context())


@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables=extended_tables(most=6))
def test_malformed_entries_are_those_that_a_naive_search_finds(tables):
    assert naive.malformed(tables) == sorted(malformed(tables.memory, tables.context))


def test_the_rights_of_a_bomb_are_those_of_its_tables():
    first = next(mappings(chain(4, LEAF | XD), context()))
    assert Rights(63 - 4 - 32) == first.rights


@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables=extended_tables(most=6))
def test_the_table_frames_are_those_that_a_naive_search_visits(tables):
    assert naive.table_frames(tables) == table_frames(tables.memory, tables.context).tolist()


def test_a_bomb_has_as_many_table_frames_as_tables():
    counting = CountingMemory(chain(4, LEAF))
    assert [ROOT + at * KIB4 for at in range(4)] == table_frames(counting, context()).tolist()
    assert counting.read_tables <= 4
