"""Address spaces for accesses that go on in another page: every entry before every other."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from crosswalk.emu.matrix.section import Choice, Section, Shape, Slots
from crosswalk.walker.memory import WORDS

__all__ = ["adjacent_entries", "canonical_borders", "de_bruijn"]

_LAST = WORDS - 1


def de_bruijn(count: int) -> list[int]:
    """Return numbers below `count` in a row in which each stands once before each, itself too.

    The words of a de Bruijn sequence of order 2, in their usual order, and the first again.
    """
    row = []
    for number in range(count):
        row.append(number)
        for other in range(number + 1, count):
            row += [number, other]
    return [*row, 0]


def adjacent_entries(section: Section, choice: Choice) -> list[Shape]:
    """Return the shape in which each entry of the varied level lies before each.

    That level is the one with the most entries. Tables above it have one entry, those below it one
    at either end: the pages on both sides of a border.
    """
    variants = section.variants(choice)
    if not all(len(each.word) for each in variants):
        return []
    varied = max(range(len(variants)), key=lambda at: len(variants[at].word))
    row = de_bruijn(len(variants[varied].word))
    slots = [_slots([0], [0])] * varied
    slots += [_slots(range(len(row)), row), *[_BOTH_ENDS] * (len(variants) - varied - 1)]
    span = np.uint64(1 << (3 + 9 * variants[varied].level))
    va = np.arange(1, len(row), dtype=np.uint64) * span
    return [section.shape(variants, va, slots)]


def canonical_borders(section: Section, choice: Choice) -> list[Shape]:
    """Return shapes for the ends of both canonical halves, one for each pair of PTEs.

    One PTE maps the last page of each half, the other the first. Accesses run from the lower half
    into the non-canonical hole, from there into the upper half, and from the last page to the
    first.
    """
    variants = section.variants(choice)
    if not all(len(each.word) for each in variants):
        return []
    half = 1 << (11 + 9 * section.levels)
    borders = np.array([half, (1 << 64) - half, 0], np.uint64)
    root = _slots([0, WORDS // 2 - 1, WORDS // 2, _LAST], [0] * 4)
    upper = [root, *[_BOTH_ENDS] * (len(variants) - 2)]
    pairs = product(range(len(variants[-1].word)), repeat=2)
    return [section.shape(variants, borders, [*upper, _slots([0, _LAST], pair)]) for pair in pairs]


def _slots(indices: Sequence[int], chosen: Sequence[int]) -> Slots:
    return np.array(indices), np.array(chosen)


_BOTH_ENDS = _slots([0, _LAST], [0, 0])
