"""The families that are counted by tricks, against plain counting of one access at a time."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.fuzz.coverage import CoverageMap, draw_targets
from crosswalk.emu.fuzz.coverage.conditions import ENTRIES
from crosswalk.emu.fuzz.coverage.family import NAMES, OK, REGISTERS
from crosswalk.emu.fuzz.coverage.pairs import PAIRS
from crosswalk.emu.fuzz.coverage.walks import walks_of
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.target import BITS, End
from crosswalk.walker.bulk import translate_many

LEVELS = range(1, 6)
CONTROL = ("wp", "nxe", "smep", "smap", "pke", "pge", "la57")


@pytest.fixture(scope="module")
def seen():
    found = []
    for index in range(6):
        targets = draw_targets(CoverageMap().pack(), np.random.default_rng([2, index]), 30)
        layout = generate(2, index, targets, accesses=480)
        memory = layout.memory()
        outcomes = translate_many(memory, layout.context, layout.accesses)
        found.append(walks_of(memory, layout.context, layout.accesses, outcomes))
    return found


def has(entry, name):
    return int(any(entry >> bit & 1 for bit in BITS[name]))


def entries_of(shown, row):
    """(level, entry, whether the walk ends there) of one access, where the entry says something."""
    page = int(shown.page[row])
    for level in LEVELS:
        if not shown.used[page, level]:
            continue
        last = int(shown.end[page]) == level
        if last and shown.how[page] in (End.ABSENT, End.OUTSIDE):
            continue
        yield level, int(shown.entry[page, level]), last


def plain_entries(shown):
    found = set()
    for row in range(len(shown.page)):
        how = int(shown.how[shown.page[row]])
        about = (int(shown.type[row]), int(shown.user[row]), int(shown.answer[row]))
        for level, entry, last in entries_of(shown, row):
            broken_page = how == End.RESERVED and (level == 1 or (entry >> 7 & 1 and level < 4))
            role = int(last and (how == End.LEAF or broken_page))
            for at, name in enumerate(NAMES):
                found.add((level - 1, role, at, has(entry, name), *about))
    return found


def plain_pairs(shown):
    ones = [(level, name, value) for level in LEVELS for name in NAMES for value in (0, 1)]
    number = {one: at for at, one in enumerate(ones)}
    found = set()
    for row in range(len(shown.page)):
        group = (int(shown.type[row]) * 2 + int(shown.user[row])) * 2
        group += int(shown.answer[row] != OK)
        held = [
            (level, at, number[level, name, has(entry, name)])
            for level, entry, _ in entries_of(shown, row)
            for at, name in enumerate(NAMES)
        ]
        for level, at, one in held:
            for lower, other_at, other in held:
                if level > lower or (level == lower and at < other_at):
                    for register, value in enumerate(shown.control):
                        found.add((register, int(value), group, one, other))
    return found


def cells(family, touched):
    return {family.values(cell) for cell in np.flatnonzero(touched).tolist()}


@pytest.mark.parametrize("layout", range(6))
def test_bits_of_entries_are_those_that_plain_counting_finds(seen, layout):
    assert plain_entries(seen[layout]) == cells(ENTRIES, ENTRIES.touch(seen[layout]))


@pytest.mark.parametrize("layout", range(2))
def test_pairs_are_those_that_plain_counting_finds(seen, layout):
    assert plain_pairs(seen[layout]) == cells(PAIRS, PAIRS.touch(seen[layout]))


def test_the_control_bits_of_a_layout_are_in_the_order_of_their_names():
    assert CONTROL == REGISTERS


def test_another_answer_is_another_cell(seen):

    wrong = replace(seen[0], answer=(seen[0].answer + 1).astype(np.uint8) % np.uint8(5))
    assert plain_entries(seen[0]) != cells(ENTRIES, ENTRIES.touch(wrong))
    assert plain_pairs(seen[0]) != cells(PAIRS, PAIRS.touch(wrong))
