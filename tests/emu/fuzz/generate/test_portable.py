"""Portable layouts: what they reach lies where machines have RAM."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.fuzz.generate.portable import PORTABLE_RAM, in_portable_ram, portable_pages
from crosswalk.emu.fuzz.generate.restrict import walked_entries
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind
from crosswalk.walker.context import PagingMode

PORTABLE = LayoutChoice(portable=True)
RUNNER = range(0x800_0000, 0xC00_0000)
"""What is left to the code that asks."""


def layouts_of(plan, count):
    seen = CoverageMap().pack()
    return [plan.layout(index, seen) for index in range(count)]


@pytest.fixture(scope="module")
def layouts():
    return layouts_of(Plan(seed=7, accesses=1024, choice=PORTABLE), 64)


def beyond(layout):
    """Which accesses read an entry, or reach a page, without RAM; which change a table."""
    memory, context, accesses = layout.memory(), layout.context, layout.accesses
    walked = walked_entries(memory, context, accesses)
    words = walked.pa & ~np.uint64(7)
    inside = in_portable_ram(words.ravel(), np.full(words.size, 8, np.uint64))
    outside = (walked.read & ~inside.reshape(words.shape)).any(axis=1)
    truth = translate_many(memory, context, accesses)
    reached = truth.kind == Kind.OK
    outside |= reached & ~in_portable_ram(truth.pa, np.ones(len(truth.pa), np.uint64))
    tables = np.isin(truth.pa & ~np.uint64(4095), layout.frames)
    return outside | reached & tables & (accesses.type != AccessType.READ)


@pytest.mark.parametrize("mode", list(PagingMode))
def test_of_each_mode_nearly_all_accesses_can_be_judged(layouts, mode):
    some = [layout for layout in layouts if layout.context.mode is mode]
    if not mode.long:
        some = layouts_of(Plan(seed=7, choice=replace(PORTABLE, modes=(mode,))), 16)
    lost = np.concatenate([beyond(layout) for layout in some])
    assert len(lost) > 4000
    assert lost.mean() < 0.04


def test_other_layouts_are_mostly_elsewhere():
    lost = [beyond(layout) for layout in layouts_of(Plan(seed=7, accesses=1024), 64)]
    assert np.concatenate(lost).mean() > 0.04


def test_all_tables_and_ram_leave_the_runner_its_place(layouts):
    for layout in layouts:
        assert PORTABLE_RAM == layout.ram
        assert in_portable_ram(layout.frames, np.full(len(layout.frames), 4096, np.uint64)).all()
        assert not ((layout.frames >= RUNNER.start) & (layout.frames < RUNNER.stop)).any()


@pytest.mark.parametrize("size", [1 << 12, 1 << 21, 1 << 22, 1 << 30])
def test_pages_of_each_size_are_in_ram_as_a_whole(size):
    numbers = np.arange(100_000, dtype=np.uint64)
    sizes = np.full(len(numbers), size, np.uint64)
    pages = portable_pages(numbers, sizes)
    assert in_portable_ram(pages, sizes).all()
    assert (pages % np.uint64(size) == 0).all()
    clear = (pages + np.uint64(size) <= RUNNER.start) | (pages >= RUNNER.stop)
    assert clear.all()
    assert len(np.unique(pages)) == (1 if size == 1 << 30 else min(len(numbers), len(set(pages))))


def test_what_is_in_ram_as_a_whole_doesnt_end_behind_it():
    starts = np.array([0, 0xF_F000, 0x10_0000, 0x7FF_F000, 0x800_0000, 0x7FFF_F000], np.uint64)
    inside = [
        in_portable_ram(starts, np.full(6, size, np.uint64)).tolist() for size in (4096, 8192)
    ]
    assert [[False, False, True, True, False, True], [False, False, True, False, False, False]] == (
        inside
    )


def test_the_last_byte_of_all_is_fetched_from_pages_that_allow_it(layouts):
    fetched = allowed = 0
    for layout in layouts:
        accesses = layout.accesses
        last = (accesses.va == ~np.uint64(0)) & (accesses.type == AccessType.EXECUTE)
        truth = translate_many(layout.memory(), layout.context, accesses)
        fetched += int(last.any())
        allowed += int((last & (truth.kind == Kind.OK)).any())
    assert fetched > 8
    assert allowed > 3


def test_the_emulated_cpu_agrees_on_portable_layouts():
    executor = Executor()
    probes = 0
    for layout in layouts_of(Plan(seed=3, accesses=512, choice=PORTABLE), 16):
        result = executor.run(lambda layout=layout: layout, cross=True)
        assert 0 == result.divergent
        assert () == result.findings
        probes += result.probes
    assert probes > 5000
