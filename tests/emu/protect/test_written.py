"""Frames that a monitor's guest has written, by the words of its EPT."""

import numpy as np

from crosswalk.emu.protect.written import copies, note_written, runs, without_flags
from crosswalk.walker.nested import EptEntry

BASE = 0x1000_0000
FLAGS = EptEntry.R | EptEntry.W | EptEntry.A


def test_what_has_d_counts_by_the_size_of_its_page():
    words = np.array(
        [
            BASE + 0x3000 | FLAGS | EptEntry.D,
            BASE + 0x5000 | FLAGS,
            BASE + 0x20_0000 | FLAGS | EptEntry.D | EptEntry.PS,
            0,
        ],
        np.uint64,
    )
    written = np.zeros(2048, np.bool_)
    written[7] = True
    note_written(written, words, BASE)
    assert [3, 7, *range(512, 1024)] == np.flatnonzero(written).tolist()
    assert [(3, 4), (7, 8), (512, 1024)] == runs(written)
    assert [(0x4000_3000, 0x3000, 512), (0x4000_7000, 0x7000, 512)] == [
        each.payload for each in copies(written[:512], 0x4000_0000, 0)
    ]


def test_without_flags_an_entry_is_as_it_was_written():
    words = np.array([0x7 | EptEntry.A | EptEntry.D, 0x1000 | 5], np.uint64)
    assert [0x7, 0x1005] == without_flags(words).tolist()
