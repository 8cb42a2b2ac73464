"""Windows of an image's pieces: together they are all of the address space, once."""

from itertools import pairwise

import numpy as np
import pytest

from crosswalk.emu.check.survey import Survey
from crosswalk.emu.findings.image import ImageAsker, Part, pieces_of, tables_alone
from crosswalk.emu.targets.registry import BUILTIN
from crosswalk.walker.leaves import walk_leaves
from tests.emu.targets.walkers import LARGE, PAGE, READ_ONLY, space
from tests.tables import LEGACY, LONG, OPEN, TOP, PageTables, context

EVERYTHING = {
    "32-bit": [(0, 1 << 32)],
    "PAE": [(0, 1 << 32)],
    4: [(0, 1 << 47), (TOP - (1 << 47), TOP)],
    5: [(0, 1 << 56), (TOP - (1 << 56), TOP)],
}
KIB4 = 1 << 12


def pages(mode, count):
    """So many pages in a row, each with a hole behind it."""
    tables = PageTables(mode, ram=((0, 1 << 24),))
    for at in range(count):
        tables.map(PAGE + 2 * at * KIB4, 0x10_0000, OPEN)
    return tables.memory


def pieces(memory, under, between=(0, TOP), *, whole=True):
    survey = Survey(memory, under, ranges=(between,))
    return list(pieces_of(under, survey.pieces(), between, whole=whole))


@pytest.mark.parametrize("mode", [*LEGACY, *LONG])
@pytest.mark.parametrize("count", [1, 3, 700])
def test_windows_are_every_canonical_address_once(mode, count):
    found = pieces(pages(mode, count), context(mode))
    windows = [window for piece in found for window in piece.windows]
    assert all(last + 1 == first for (_, last), (first, _) in pairwise(windows)
               if first not in {begin for begin, _ in EVERYTHING[mode]})  # fmt: skip
    joined = []
    for first, last in windows:
        if joined and joined[-1][1] == first:
            joined[-1][1] = last + 1
        else:
            joined.append([first, last + 1])
    assert EVERYTHING[mode] == [tuple(each) for each in joined]


def test_a_window_has_no_more_mappings_than_its_piece_has_targets():
    memory, under = pages(4, 900), context()
    counts = []
    for piece in pieces(memory, under):
        for first, last in piece.windows:
            counts.append(sum(len(part) for part in walk_leaves(memory, under, first, last + 1)))
            assert counts[-1] <= len(piece.targets)
    assert (900, True) == (sum(counts), max(counts) > 100)


def test_windows_keep_to_the_part_that_is_checked():
    between = PAGE + 4 * KIB4, PAGE + 7 * KIB4
    windows = [each for piece in pieces(pages(4, 9), context(), between) for each in piece.windows]
    assert (between[0], between[1] - 1) == (windows[0][0], windows[-1][1])


@pytest.mark.parametrize("between", [(LARGE + 0x1234, LARGE + 0x1235), (LARGE, LARGE + 1)])
def test_a_window_has_all_of_a_page_that_is_touched(between):
    (piece, *_) = pieces(space().memory, context(), between)
    assert ((LARGE, LARGE + (1 << 21) - 1),) == piece.windows


def test_without_the_whole_there_are_no_windows():
    assert not any(piece.windows for piece in pieces(pages(4, 9), context(), whole=False))


def test_tables_alone_map_the_same_as_the_image():
    memory, under = space().memory, context()
    words = tables_alone(memory, under)
    assert list(memory.ranges) == list(words.ranges)
    listed = [va for part in walk_leaves(words, under) for va in part.va.tolist()]
    assert [PAGE, READ_ONLY, LARGE] == listed


class Counting:
    """The built-in list, which notes the ranges that it was asked for as a whole."""

    name, claims = "counting", BUILTIN["walk"].claims

    def __init__(self):
        self.asked = []

    def answer(self, memory, context, accesses, ranges=None):
        whole = ranges.take(np.flatnonzero(ranges.whole))
        self.asked += zip(whole.first.tolist(), whole.last.tolist(), strict=True)
        return BUILTIN["walk"].answer(memory, context, accesses, ranges)


@pytest.mark.parametrize("mode", [*LEGACY, *LONG])
def test_a_walker_is_asked_for_every_window_and_every_access(mode):
    memory, under = pages(mode, 600), context(mode)
    target, part, probes = Counting(), Part(), 0
    asker = ImageAsker(memory, tables_alone(memory, under), under, target)
    for piece in pieces(memory, under):
        verdict, answers = asker.check(piece)
        part += answers
        probes += verdict.probes
    assert {} == part.counts
    total = sum(last + 1 - first for first, last in target.asked)
    assert sum(end - begin for begin, end in EVERYTHING[mode]) == total
    asked, answered, declined = part.tally.total
    # Of addresses that aren't canonical no list is asked.
    assert (asked, 0) == (answered, declined)
    assert probes - (18 if mode in LONG else 0) == asked > 600 * 14
