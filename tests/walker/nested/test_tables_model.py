"""`NestedTables` against a plain list of frames, and against the walker's own reading of them."""

import time
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswalk.walker.nested import NestedTables
from crosswalk.walker.nested.formats import TableFormat
from crosswalk.walker.protection import TableKind
from tests.tables import GIB1, KIB4, MIB2
from tests.walker.nested.nested_memory import EXPRESSIBLE, GRANTS, NONE, NPT, PA, pool, read_back

KINDS = pytest.mark.parametrize("kind", TableKind)
FRAMES = 3 << 18
"""Three GiB of them: what sequences below play on."""


def folded(frames, kind=NPT):
    """Fold an array of permissions, by frame, into (start, size, permission)."""
    rights = type(GRANTS[kind][0])
    cuts = [0, *(np.flatnonzero(np.diff(frames)) + 1).tolist(), len(frames)]
    return [
        (first * KIB4, (last - first) * KIB4, rights(int(frames[first])))
        for first, last in pairwise(cuts)
        if frames[first]
    ]


EDGES = (0, 1, 511, 512, 513, 1024, (1 << 18) - 1, 1 << 18, (1 << 18) + 512, 2 << 18)
COUNTS = (1, 2, 511, 512, 1024, 1 << 18)


@st.composite
def changes_and_settings(draw):
    """Changes of permissions, and the settings of tables that are to follow them."""
    kind = draw(st.sampled_from(TableKind))
    change = st.tuples(
        st.one_of(st.sampled_from(EDGES), st.integers(0, 2 << 18)),
        st.one_of(st.sampled_from(COUNTS), st.integers(1, 1 << 12)),
        st.sampled_from(GRANTS[kind]),
    )
    return draw(st.lists(change, max_size=12)), {"kind": kind, **draw(SETTINGS)}


SETTINGS = st.fixed_dictionaries(
    {
        "offset": st.sampled_from((0, 0, KIB4, MIB2, GIB1, 5 * MIB2)),
        "page1gb": st.booleans(),
        "levels": st.sampled_from((4, 5)),
    }
)


def holds(changes, options):
    """Return whether tables that follow changes are what a list of frames says."""
    words = pool(1600)
    tables = NestedTables(words, PA, **options)
    frames = np.zeros(FRAMES, np.uint8)
    for start, count, permission in changes:
        before = words.copy()
        tables.set(start * KIB4, count * KIB4, permission)
        frames[start : start + count] = permission
        changed = np.flatnonzero(words != before)
        expected = tuple((PA + 8 * int(at), int(words[at])) for at in changed)
        if expected != tables.touched:
            return False
    kind, levels = options["kind"], options["levels"]
    fresh_words = pool(1600)
    fresh = NestedTables(fresh_words, PA, **options)
    fresh.update(folded(frames, kind))
    mapped = read_back(words, kind, levels)
    again = np.zeros(FRAMES, np.uint8)
    for gpa, size, pa, permission in mapped:
        again[gpa // KIB4 : (gpa + size) // KIB4] = permission
        if pa != gpa + options["offset"]:
            return False
    return (
        (again == frames).all()
        and folded(frames, kind) == list(tables.ranges())
        and mapped == read_back(fresh_words, kind, levels)
        and tables.tables == fresh.tables
        and np.count_nonzero(words) == np.count_nonzero(fresh_words)
    )


@settings(max_examples=60)
@given(changes_and_settings())
def test_changes_come_to_what_a_list_of_frames_and_a_fresh_build_say(case):
    assert holds(*case)


def no_merge(self, place, at):
    return None


def merge_all_alike_but_the_last(self, place, at):
    table, *_ = place
    child = self._child_number(table, at)
    found = self._format.grants_of(self._tables[child])
    if (found[:-1] == found[0]).all():
        self._put_leaves(place, slice(at, at + 1), found[:1])


def right_too_many(self, pa, level, grants):
    return GOOD_LEAVES(self, pa, level, grants | 2 * (grants & 7 == 1).astype(np.uint8))


def right_too_few(self, pa, level, grants):
    return GOOD_LEAVES(self, pa, level, grants & ~np.uint8(4))


def never_released(self, table, level):
    return 0


def split_at_the_region(self, table, level, at, base):
    return GOOD_CHILD(self, table, level, at, base + (MIB2 if level == 3 and at else 0))


GOOD_CHILD = NestedTables._child
GOOD_LEAVES = TableFormat.leaves
PLANTED = {
    "never merged": (NestedTables, "_merge", no_merge),
    "merged too soon": (NestedTables, "_merge", merge_all_alike_but_the_last),
    "a right too many": (TableFormat, "leaves", right_too_many),
    "a right too few": (TableFormat, "leaves", right_too_few),
    "split at the wrong address": (NestedTables, "_child", split_at_the_region),
    "tables lost": (NestedTables, "_release", never_released),
}


def hold_all(kind):
    """Return whether changes that share edges, the same each time, come out as they should."""
    random = Random(7)
    # Of few permissions at a time, so that neighbours come to be equal.
    sequences = [
        [
            (random.choice(EDGES), random.choice((1, 511, 512, 1 << 18)), permission)
            for permission in random.choices(random.sample(GRANTS[kind], 3), k=8)
        ]
        for _ in range(24)
    ]
    options = {"kind": kind, "offset": 0, "page1gb": True, "levels": 4}
    return all(holds(changes, options) for changes in sequences)


@KINDS
def test_changes_that_share_edges_come_out_as_they_should(kind):
    assert hold_all(kind)


@KINDS
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug, kind, monkeypatch):
    where, name, value = PLANTED[bug]
    monkeypatch.setattr(where, name, value)
    assert not hold_all(kind)


def test_seven_thousand_ranges_are_built_at_once():
    random = Random(3)
    cuts = [0, *sorted(random.sample(range(1, 1 << 15), 6_999)), 1 << 15]
    ranges, last = [], NONE
    for first, end in pairwise(cuts):
        last = random.choice([each for each in EXPRESSIBLE[1:] if each != last])
        ranges.append((first * KIB4, (end - first) * KIB4, last))
    once, often = NestedTables(pool(80), PA), NestedTables(pool(80), PA)
    start = time.process_time()
    once.update(ranges)
    middle = time.process_time()
    for each in ranges:
        often.set(*each)
    end = time.process_time()
    assert ranges == list(once.ranges()) == list(often.ranges())
    # A table is written once, not once a range of it.
    assert 3 * (middle - start) < end - middle
