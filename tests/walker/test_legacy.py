"""The walk in 32-bit and PAE paging, all of it, against the walk as anybody would write it."""

from collections import Counter
from functools import reduce
from itertools import pairwise
from operator import or_

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Access,
    Accesses,
    AccessType,
    RightsTracker,
    SparseWords,
    bulk,
    coalesce_leaves,
    collective_rights,
    count_mappings,
    leaves,
    mappings,
    mappings_of,
    tracker,
    translate,
    translate_many,
    walk_leaves,
)
from crosswalk.walker.rights import rights_table
from tests.random_tables import random_tables
from tests.tables import LEGACY
from tests.walker import naive

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(
    max_examples=3000, deadline=None, database=None, phases=[Phase.generate], derandomize=True
)
NUMBERS = st.lists(st.integers(0, 2**40 - 1), min_size=4, max_size=8)


def difference(tables, numbers):
    """The first access that the two translations answer differently, or None."""
    accesses = [
        Access(tables.address(number), kind, cpl, bool(number & 1))
        for number in numbers
        for kind in AccessType
        for cpl in (0, 3)
    ]
    many = translate_many(tables.memory, tables.context, Accesses.of(accesses))
    for row, access in enumerate(accesses):
        one = translate(tables.segments, tables.context, access)
        if one != many[row]:
            return access, one, many[row]
    return None


@QUICK
@given(tables=random_tables(LEGACY), numbers=NUMBERS)
def test_many_translations_are_those_of_each_on_its_own(tables, numbers):
    assert None is difference(tables, numbers)


def without_upper_half(original):
    return lambda *where: original(*where) & np.uint64(0xFFFF_FFFF)


def without_folding(original):
    return lambda entries: entries & np.uint64(0xFFC0_0000)


def nothing_is_unloadable(original):
    return lambda memory, context: None


def pdptes_with_rights(original):
    def planted(context, number):
        level = original(context, number)
        return type(level)(**{name: getattr(level, name) for name in FIELDS} | {"restricts": True})

    return planted


FIELDS = ("number", "table", "entry", "shift", "large", "index_bits", "entry_size")


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("read_words", without_upper_half),
        ("addresses_4mib", without_folding),
        ("unloadable", nothing_is_unloadable),
        ("level_of", pdptes_with_rights),
    ],
)
def test_a_rule_that_the_bulk_translation_breaks_is_found(rule, plant, monkeypatch):
    monkeypatch.setattr(bulk, rule, plant(getattr(bulk, rule)))
    find(
        st.tuples(random_tables(LEGACY), NUMBERS),
        lambda found: difference(*found) is not None,
        settings=SEARCH,
    )


def expected_rows(tables):
    table = rights_table(tables.context)
    rows = []
    for page in naive.pages(tables):
        grant = page.writable | page.user << 1 | page.executable << 2
        rows.append((page.va, page.pa, page.size, page.level, page.flags, int(table[grant])))
    return rows


def walked(tables):
    return [
        (each.va, each.pa, each.size, each.level, each.flags, int(each.rights))
        for each in mappings(tables.memory, tables.context)
    ]


@QUICK
@given(tables=random_tables(LEGACY))
def test_the_walk_lists_every_page_with_its_rights(tables):
    assert expected_rows(tables) == walked(tables)


@QUICK
@given(
    tables=random_tables(LEGACY), numbers=st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))
)
def test_a_window_lists_the_pages_that_touch_it(tables, numbers):
    start, end = sorted(map(tables.address, numbers))
    expected = [
        page.va for page in naive.pages(tables) if page.va < end and page.va + page.size > start
    ]
    blocks = walk_leaves(tables.memory, tables.context, start, end)
    found = [va for block in blocks for va in block.va.tolist()]
    assert (expected if start < end else []) == found


def root_without_pages(original):
    def planted(self, level, found):
        pages_, below = original(self, level, found)
        return (pages_.take(slice(0)) if level == 2 else pages_), below

    return planted


@pytest.mark.parametrize("plant", [root_without_pages])
def test_large_pages_left_out_of_the_walk_are_found(plant, monkeypatch):
    monkeypatch.setattr(leaves._Walk, "split", plant(leaves._Walk.split))
    find(
        random_tables(LEGACY),
        lambda tables: expected_rows(tables) != walked(tables),
        settings=SEARCH,
    )


def expected_frames(tables):
    """The stretches that the same pages map, with the union of their rights, folded."""
    rows = walked(tables)
    found = []
    for start, end in pairwise(sorted({row[1] + add for row in rows for add in (0, row[2])})):
        over = [row[5] for row in rows if row[1] <= start and end <= row[1] + row[2]]
        if not over:
            continue
        rights = reduce(or_, over)
        joins = found and (sum(found[-1][:2]), found[-1][2]) == (start, rights)
        first = found.pop()[0] if joins else start
        found.append((first, end - first, rights))
    return found


@QUICK
@given(tables=random_tables(LEGACY))
def test_collective_rights_are_the_union_over_all_pages(tables):
    found = collective_rights(tables.memory, tables.context)
    assert expected_frames(tables) == [(start, size, int(rights)) for start, size, rights in found]


@QUICK
@given(tables=random_tables(LEGACY))
def test_counts_and_aliases_are_those_of_the_list(tables):
    rows = walked(tables)
    counts = count_mappings(tables.memory, tables.context)
    assert {1: 0, 2: 0, 3: 0} | Counter(row[3] for row in rows) == counts
    for va, pa, size, *_ in rows[:3]:
        leads = [each.va for each in mappings_of(tables.memory, tables.context, pa + size - 1, 1)]
        expected = [row[0] for row in rows if row[1] <= pa + size - 1 < row[1] + row[2]]
        assert va in leads
        assert expected == leads


@QUICK
@given(tables=random_tables(LEGACY))
def test_folded_ranges_hold_the_pages_of_the_list(tables):
    blocks = walk_leaves(tables.memory, tables.context)
    folded = [each for ranges in coalesce_leaves(blocks, tables.context) for each in ranges]
    assert sum(row[2] for row in walked(tables)) == sum(each.size for each in folded)


@QUICK
@given(
    tables=random_tables(LEGACY),
    changes=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999))),
)
def test_tracked_rights_are_those_of_a_fresh_look(tables, changes):
    assert not untracked(tables, changes)


def untracked(tables, changes):
    """Whether the tracker's word differs from a fresh look after any of the changes."""
    words = dict(tables.words)
    ranges = [(frame, 0x1000) for frame in tables.frames]
    memory = _Changing(ranges, words)
    followed = RightsTracker(memory, tables.context)
    places, values = sorted(words), [0, *sorted(words.values())]
    for where, what in changes:
        if not places:
            break
        place = places[where % len(places)]
        words[place] = values[what % len(values)]
        followed.update([place])
        fresh = collective_rights(SparseWords(ranges, words), tables.context)
        if list(followed.frames()) != list(fresh):
            return True
    return False


class _Changing:
    def __init__(self, ranges, words):
        self._ranges, self._words = ranges, words

    def __getattr__(self, name):
        return getattr(SparseWords(self._ranges, self._words), name)


def test_a_pdpte_tracked_alone_is_found(monkeypatch):
    monkeypatch.setattr(tracker.RightsTracker, "_joint", lambda self, state: False)
    changes = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), max_size=6)
    cases = st.tuples(random_tables(("PAE",)), changes)
    find(cases, lambda case: untracked(*case), settings=SEARCH)
