"""Marks: words that name their place, present in no format, and code that does no harm."""

import numpy as np
import pytest
import unicorn
from hypothesis import given
from hypothesis import strategies as st
from unicorn import x86_const as x86

from crosswalk.emu.judges.nested.marks import MOST_FRAMES, mark, mark_words, marked
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, WORDS

FRAMES, PLACES = st.integers(0, MOST_FRAMES - 1), st.integers(0, WORDS - 1)
_CODE = 0x1000
_ALL = mark_words(MOST_FRAMES)


def test_no_two_words_have_the_same_mark():
    assert MOST_FRAMES * WORDS == len(np.unique(_ALL))


@given(FRAMES, PLACES)
def test_all_marks_are_what_each_is(frame, word):
    assert mark(frame, word) == int(_ALL[frame, word])


@given(FRAMES, PLACES)
def test_no_mark_is_a_present_entry(frame, word):
    # P; R, W, X; XU under mode-based execute control.
    assert 0 == mark(frame, word) & (7 | 1 << 10)


def test_the_first_half_tells_the_frame():
    words = _ALL >> np.uint64(8) & np.uint64(0xFFFF_FFFF)
    for word in (0, 7, 300, 511):
        assert MOST_FRAMES == len(np.unique(words[:, word]))


def test_more_frames_than_can_be_told_apart_are_refused():
    with pytest.raises(BadInput, match="told apart in 512"):
        mark_words(MOST_FRAMES + 1)


@pytest.mark.parametrize("start", range(8))
@pytest.mark.parametrize(("frame", "word"), [(0, 0), (1, 8), (170, 341), (511, 511)])
def test_one_instruction_of_a_mark_changes_registers_alone(start, frame, word):
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    engine.mem_map(_CODE, FRAME)
    engine.mem_write(_CODE, mark(frame, word).to_bytes(8, "little"))
    raised, touched = [], []
    engine.hook_add(unicorn.UC_HOOK_INTR, lambda _engine, number, _data: raised.append(number))
    for kinds in (
        unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE,
        unicorn.UC_HOOK_MEM_READ_UNMAPPED | unicorn.UC_HOOK_MEM_WRITE_UNMAPPED,
    ):
        engine.hook_add(kinds, lambda *event: touched.append(event))
    engine.emu_start(_CODE + start, 0, count=1)
    assert [] == touched
    assert [3] * (start == 7) == raised
    rip = engine.reg_read(x86.UC_X86_REG_RIP)
    assert _CODE + (5 if start == 0 else start + 1) == rip
    if start == 0:
        assert mark(frame, word) >> 8 & 0xFFFF_FFFF == engine.reg_read(x86.UC_X86_REG_EAX)


def test_marks_take_the_place_of_all_but_what_tables_hold():
    starts = np.array([0x1000, 0x5000], np.uint64)
    words = np.zeros((2, WORDS), np.uint64)
    words[:, 3] = 0x67
    kept = np.zeros((2, WORDS), np.bool_)
    kept[0] = True
    found, where = marked(starts, words, kept)
    assert 0x67 == found[0, 3]
    assert mark(1, 3) == found[1, 3]
    assert mark(0, 4) == found[0, 4]
    assert [(0, 3)] == list(zip(*np.nonzero(~where), strict=True))
