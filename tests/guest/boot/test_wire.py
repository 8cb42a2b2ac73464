"""Runs as the runner takes them, read back by a reading of their own."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.guest.boot import wire
from crosswalk.guest.boot.programs import Op, Program, Run, Step
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput

WORD = st.integers(0, (1 << 64) - 1)
AT = st.integers(0, (1 << 12) - 1).map(lambda at: at * 8) | st.integers(0, (1 << 49) - 1).map(
    lambda at: at * 8
)
FRAME = st.integers(0, 64).map(lambda at: (1 << 30) - 0x20000 + at * 0x1000)
STEPS = st.builds(Step, st.sampled_from(Op), WORD, WORD, WORD, st.sampled_from([0, 3]))
PROGRAMS = st.builds(
    Program,
    st.lists(STEPS, max_size=3).map(tuple),
    st.lists(AT, max_size=3).map(tuple),
    st.lists(st.tuples(AT, WORD), max_size=3).map(tuple),
)


def make_run(words=(), clear=(), programs=(), **more):
    state = {"cr0": 1, "cr3": 2, "cr4": 3, "efer": 4, **more}
    return Run(
        mode=PagingMode.LEVEL5,
        clear=np.array(clear, np.uint64),
        words=np.array(words, np.uint64).reshape(-1, 2),
        programs=tuple(programs),
        **state,
    )


def taken(data):
    """What the runner makes of it: the head, frames cleared, words written, programs."""
    words = iter(struct.unpack(f"<{len(data) // 8}Q", data))
    head = [next(words) for _ in range(16)]
    frames, written, programs = [], [], []
    for _ in range(head[9]):
        block = next(words)
        frames += [block % (1 << 52) + 0x1000 * at for at in range(block >> 52)]
    for _ in range(head[10]):
        block = next(words)
        assert block % (1 << 30) % (1 << 52) + 8 * (block >> 52) <= 1 << 30
        written += [(block % (1 << 52) + 8 * at, next(words)) for at in range(block >> 52)]
    for _ in range(head[11]):
        counts = next(words)
        steps = [[next(words) for _ in range(4)] for _ in range(counts & 0xFFFF)]
        watched = [next(words) for _ in range(counts >> 16 & 0xFFFF)]
        signed = [(next(words), next(words)) for _ in range(counts >> 32 & 0xFFFF)]
        programs.append((steps, watched, signed, counts >> 48))
    assert not list(words)
    return head, frames, written, programs


@given(
    st.lists(st.tuples(AT, WORD), max_size=40),
    st.lists(FRAME, max_size=40),
    st.lists(PROGRAMS, max_size=3),
)
def test_a_run_arrives_as_it_was_given(words, clear, programs):
    data = wire.encoded(make_run(words, clear, programs))
    head, frames, written, found = taken(data)
    assert len(data) == head[0]
    assert sorted(set(clear)) == frames
    assert sorted(dict(words).items()) == written
    for given_one, (steps, watched, signed, _) in zip(programs, found, strict=True):
        assert [
            [step.op | step.cpl << 8 | step.ac << 16, step.va, step.value, step.more]
            for step in given_one.steps
        ] == steps
        assert (list(given_one.watched), list(given_one.signed)) == (watched, signed)


def test_registers_have_their_places():
    registers = {
        "pkru": 5,
        "pkrs": 6,
        "alias": 7,
        "user": 8,
        "alias_key": 9,
        "tag": 10,
        "maxphyaddr": 11,
        "needs": ("nx", "la57"),
    }
    head, *_ = taken(wire.encoded(make_run(**registers)))
    needs = 5 * 128 + 3 * 32 + 20 | (2 * 128 + 2 * 32 + 16) << 16
    assert [
        128,
        3 | 9 << 8 | 11 << 16,
        1,
        2,
        3,
        4,
        5 | 6 << 32,
        7,
        8,
        0,
        0,
        0,
        10,
        needs,
        0,
        0,
    ] == head


def test_neighbours_go_together_but_not_across_a_gib():
    words = [((1 << 30) - 8 + 8 * at, at) for at in range(3)]
    data = wire.encoded(make_run(words))
    assert (16 + 2 + 3) * 8 == len(data)


def test_registers_are_loaded_again_after_what_changes_them():
    found = [taken(wire.encoded(make_run(programs=[Program((Step(op),))])))[3][0][3] for op in Op]
    changing = (Op.LOAD_FS, Op.MOV_CR0, Op.MOV_CR3, Op.MOV_CR4, Op.WRPKRU)
    assert [int(op in changing) for op in Op] == found


@pytest.mark.parametrize(
    "run",
    [
        make_run(words=[(4, 1)]),
        make_run(words=[(1 << 52, 1)]),
        make_run(clear=[0x800]),
        make_run(programs=[Program((), (4,))]),
        make_run(programs=[Program((), (), ((1 << 52, 1),))]),
        make_run(programs=[Program((Step(Op.READ),) * 21_845)]),
        make_run(programs=[Program((), (8,) * 32_768)]),
        make_run(programs=[Program((), (), ((8, 1),) * 65_536)]),
    ],
)
def test_what_the_runner_cannot_take_is_bad_input(run):
    with pytest.raises(BadInput, match=r"is no address of a|is too long"):
        wire.encoded(run)
