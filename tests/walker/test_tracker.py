from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import Frames, PagingContext, Segments, SparseWords, collective_rights
from crosswalk.walker.tracker import RightsTracker
from tests.random_tables import random_tables
from tests.tables import MODES

QUICK = settings(max_examples=90, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, database=None, phases=[Phase.generate])

TABLES = 6
INDICES = (0, 1, 5, 256, 511)


class Edited:
    """A few tables full of entries that lead to each other, and random edits of them."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.words = np.zeros(TABLES * 512, np.uint64)
        self.memory = Segments([(0, self.words.view(np.uint8))])
        la57 = (seed % 3 == 0) << 12
        smep = (seed % 2) << 20
        self.mask = 1 << 47 if seed % 2 else 0
        self.context = PagingContext(
            cr3=0, cr4=0x20 | la57 | smep, encryption_mask=self.mask, maxphyaddr=48
        )
        for table in range(TABLES):
            for index in INDICES:
                self.words[table * 512 + index] = self.entry()

    def entry(self):
        random = self.random
        if random.random() < 0.15:
            return 0
        odds = ((0, 0.85), (1, 0.6), (2, 0.6), (7, 0.2), (63, 0.2), (51, 0.02))
        bits = sum(1 << bit for bit, chance in odds if random.random() < chance)
        bits |= self.mask if random.random() < 0.5 else 0
        address = random.choice(
            [int(random.integers(0, TABLES + 1)) << 12] * 8
            + [int(random.integers(0, 3)) << 21, int(random.integers(0, 2)) << 30]
        )
        return bits | int(address)

    def edit(self):
        """Change up to three words and return their addresses."""
        count = int(self.random.integers(1, 4))
        tables = self.random.integers(0, TABLES, count)
        places = [int(t) * 512 + int(self.random.choice(INDICES)) for t in tables]
        for place in places:
            self.words[place] = self.entry()
        return [8 * place for place in places]


def rows(frames: Frames):
    return list(frames)


def disagreements(seed, edits):
    """Return how often the tracker, or what it says was touched, isn't what it should be."""
    space = Edited(seed)
    tracker = RightsTracker(space.memory, space.context)
    wrong = int(rows(collective_rights(space.memory, space.context)) != rows(tracker.frames()))
    for _ in range(edits):
        before = by_frame(tracker.frames())
        touched = tracker.update(space.edit())
        fresh = collective_rights(space.memory, space.context)
        wrong += rows(fresh) != rows(tracker.frames())
        after = by_frame(fresh)
        changed = {frame for frame in before | after if before.get(frame) != after.get(frame)}
        wrong += any(not covers(touched, *frame) for frame in changed)
    return wrong


def by_frame(frames):
    """Return rights by stretch, cut at every edge that a page of these tests can have."""
    starts = {*range(0, 1 << 15, 4096), *(n << 21 for n in range(5)), 1 << 30, 2 << 30}
    edges = sorted({0, *(start + size for start in starts for size in (0, 1 << 12, 1 << 21))})
    stretches = list(pairwise(edges))
    return {
        stretch: rights
        for start, size, rights in frames
        for stretch in stretches
        if start <= stretch[0] and stretch[1] <= start + size
    }


def covers(touched, start, end):
    return any(pa <= start and end <= pa + size for pa, size in touched)


@pytest.mark.parametrize("seed", range(6))
def test_the_tracker_equals_a_fresh_computation_after_every_edit(seed):
    assert 0 == disagreements(seed, 20)


@pytest.mark.fuzz
def test_the_tracker_equals_a_fresh_computation_after_every_edit_at_length(fresh_seed):
    for seed in range(fresh_seed, fresh_seed + 100):
        assert 0 == disagreements(seed, 100), f"seed {seed}"


def test_a_tracker_that_forgets_a_removal_is_found(monkeypatch):
    real = RightsTracker._count

    def adding_only(self, state, words, sign):
        if sign > 0:
            real(self, state, words, sign)

    monkeypatch.setattr(RightsTracker, "_count", adding_only)

    assert any(disagreements(seed, 30) for seed in range(3))


def test_a_tracker_that_touches_nothing_is_found(monkeypatch):
    real = RightsTracker.update
    monkeypatch.setattr(RightsTracker, "update", lambda *given: real(*given)[:0])

    assert any(disagreements(seed, 30) for seed in range(3))


def test_rights_within_a_range_are_those_of_the_whole_cut_to_it():
    for seed in range(6):
        space = Edited(seed)
        tracker = RightsTracker(space.memory, space.context)
        start, end = 0x1000, 0x201000
        expected = [
            (max(pa, start), min(pa + size, end) - max(pa, start), rights)
            for pa, size, rights in tracker.frames()
            if pa < end and pa + size > start
        ]
        assert expected == rows(tracker.rights_within(start, end - start))


def test_words_that_are_in_no_table_or_have_not_changed_touch_nothing():
    space = Edited(1)
    tracker = RightsTracker(space.memory, space.context)

    assert [] == tracker.update(range(0, TABLES * 4096, 8))
    assert [] == tracker.update([1 << 40])


def test_an_update_reads_no_table_that_the_change_does_not_reach():
    words = np.zeros(8 * 512, np.uint64)
    for table in range(3):
        words[table * 512] = (table + 1) * 4096 | 7
    words[3 * 512 : 3 * 512 + 100] = np.arange(100, dtype=np.uint64) * 4096 + 0x10_0007
    memory = Counting(words)
    tracker = RightsTracker(memory, PagingContext(cr3=0))
    memory.read_tables = 0

    words[3 * 512] = 0
    assert [(0x10_0000, 4096)] == tracker.update([3 * 4096])
    assert 0 == memory.read_tables

    words[2 * 512 + 1] = 4 * 4096 | 7
    tracker.update([2 * 4096 + 8])
    assert 1 == memory.read_tables


class Counting(Segments):
    def __init__(self, words):
        super().__init__([(0, words.view(np.uint8))])
        self.read_tables = 0

    def tables(self, frames):
        self.read_tables += len(frames)
        return super().tables(frames)


@QUICK
@given(
    tables=random_tables(MODES),
    changes=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999))),
)
def test_tracked_rights_of_random_tables_equal_a_fresh_computation(tables, changes):
    assert not untracked(tables, changes)


def untracked(tables, changes):
    """Whether tracked and freshly computed rights differ after any of the changes."""
    words, ranges = dict(tables.words), tables.ram
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
    monkeypatch.setattr(RightsTracker, "_joint", lambda self, state: False)
    changes = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), max_size=6)
    cases = st.tuples(random_tables(("PAE",)), changes)
    find(cases, lambda case: untracked(*case), settings=SEARCH)
