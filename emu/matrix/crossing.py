"""Address spaces for accesses that go on in another page: every entry before every other."""

from itertools import product

import numpy as np

from crosswalk.emu.matrix.section import PAGES, Choice, Section, Shape, Variants
from crosswalk.walker.memory import FRAME, U64, WORDS

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
    frames, words = _tables(len(variants))
    row = np.array(de_bruijn(len(variants[varied].word)))
    for at, each in enumerate(variants):
        indices, chosen = [0, _LAST], np.array([0, 0])
        if at == varied:
            indices, chosen = list(range(len(row))), row
        elif at < varied:
            indices, chosen = [0], np.array([0])
        words[at, indices] = _entries(at, each, np.array(indices), chosen)
    span = np.uint64(1 << (3 + 9 * variants[varied].level))
    return [Shape(frames, words, np.arange(1, len(row), dtype=np.uint64) * span)]


def canonical_borders(section: Section, choice: Choice) -> list[Shape]:
    """Return shapes for the ends of both canonical halves, one for each pair of PTEs.

    One PTE maps the last page of each half, the other the first. Accesses run from the lower half
    into the non-canonical hole, from there into the upper half, and from the last page to the
    first.
    """
    *upper, pages = section.variants(choice)
    if not all(len(each.word) for each in (*upper, pages)):
        return []
    shapes = []
    half = 1 << (11 + 9 * section.levels)
    borders = np.array([half, (1 << 64) - half, 0], np.uint64)
    for last, first in product(range(len(pages.word)), repeat=2):
        frames, words = _tables(section.levels)
        for at, each in enumerate(upper):
            indices = [0, _LAST] if at else [0, WORDS // 2 - 1, WORDS // 2, _LAST]
            words[at, indices] = _entries(at, each, np.array(indices), np.zeros(len(indices), int))
        ends = [0, _LAST]
        words[-1, ends] = _entries(len(upper), pages, np.array(ends), np.array([first, last]))
        shapes.append(Shape(frames, words, borders))
    return shapes


def _tables(count: int) -> tuple[U64, U64]:
    """Return the frames of one table a level, root first, and their words, zeros."""
    frames = FRAME * np.arange(1, count + 1, dtype=np.uint64)
    return frames, np.zeros((count, WORDS), np.uint64)


def _entries(at: int, variants: Variants, indices: np.ndarray, chosen: np.ndarray) -> U64:
    """Return the entries at these indices of table number `at`: each leads to its own page."""
    number = indices.astype(np.uint64)
    span = np.uint64(1 << (3 + 9 * variants.level))
    page = np.uint64(PAGES) + number * np.uint64(FRAME)
    if variants.level > 1:
        page = (number % np.uint64(16) + np.uint64(2)) * span
    leaf = variants.leaf[chosen]
    # Absent entries hold an address, too.
    found: U64 = variants.word[chosen] | np.where(leaf, page, np.uint64(FRAME * (at + 2)))
    return found
