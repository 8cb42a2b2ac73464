"""Frames read as bytes, and a source whose tables aren't what its bytes are."""

import numpy as np

from crosswalk.emu.check import check
from crosswalk.emu.probe.frames import has_frames, words_of
from crosswalk.walker.memory import Segments, SparseWords
from tests.tables import OPEN, PageTables, context

VA = 0x40_0000


def test_frames_in_any_order_are_read_and_those_outside_are_zeros():
    memory = SparseWords(
        [(0, 0x3000), (0x8000, 0x1000)], {0x1000: 1, 0x2008: 2, 0x8000 + 8 * 511: 3}
    )
    frames = np.array([0x8000, 0x1000, 0x2000, 0x3000, 0x1000, 1 << 51], np.uint64)
    assert [True, True, True, False, True, False] == has_frames(memory, frames).tolist()
    found = words_of(memory, frames)
    assert (6, 512) == found.shape
    assert [3, 1, 2, 0, 1, 0] == [int(found[at].max()) for at in range(6)]
    assert [511, 0, 1] == [int(found[at].argmax()) for at in range(3)]


def test_a_frame_of_which_memory_has_a_part_is_none():
    memory = Segments([(0x1800, bytes(0x1000)), (0x4000, bytes(0x1800))])
    frames = np.array([0x1000, 0x2000, 0x4000, 0x5000, 0], np.uint64)
    assert [False, False, True, False, False] == has_frames(memory, frames).tolist()


def test_no_memory_has_no_frame():
    assert [False] == has_frames(SparseWords([], {}), np.array([0], np.uint64)).tolist()


def test_tables_that_are_not_what_the_bytes_are_is_a_divergence(monkeypatch):
    memory = PageTables().map(VA, 0x8000, OPEN).map(VA + 0x1000, 0x9000, OPEN).memory
    memory = Segments([(start, memory.read(start, size)) for start, size in memory.ranges])
    assert 0 == check(memory, context()).divergent
    tables = Segments.tables

    def wrong(self, frames):
        found = tables(self, frames).copy()
        found[frames == 0x4000] = 0
        return found

    monkeypatch.setattr(Segments, "tables", wrong)
    assert 0 < check(memory, context()).divergent
