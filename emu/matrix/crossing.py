"""Address spaces in which an access goes on in another page: every entry beside every other."""

from itertools import product

import numpy as np

from crosswalk.emu.matrix.composite import Shape
from crosswalk.emu.matrix.section import PAGES, Choice, Section, Variants
from crosswalk.walker.memory import FRAME, U64, WORDS

__all__ = ["at_the_ends", "beside", "neighbours"]

_LAST = WORDS - 1


def neighbours(count: int) -> list[int]:
    """Return a row of numbers below `count` in which each stands once before each, itself too.

    The words of a de Bruijn sequence of order 2, in their usual order, and the first again.
    """
    row = []
    for number in range(count):
        row.append(number)
        for other in range(number + 1, count):
            row += [number, other]
    return [*row, 0]


def beside(base: Section, choice: Choice) -> list[Shape]:
    """Return the shape in which each entry of the varied level lies before each.

    That level is the one with more than one entry. Tables above have one entry, those below
    one at either end: the pages on both sides of a border.
    """
    variants = base.variants(choice)
    if not all(len(each.word) for each in variants):
        return []
    varied = max(range(len(variants)), key=lambda at: len(variants[at].word))
    frames, words = _tables(len(variants))
    row = np.array(neighbours(len(variants[varied].word)))
    for at, each in enumerate(variants):
        places, chosen = [0, _LAST], np.array([0, 0])
        if at == varied:
            places, chosen = list(range(len(row))), row
        elif at < varied:
            places, chosen = [0], np.array([0])
        words[at, places] = _entries(at, each, np.array(places), chosen)
    span = np.uint64(1 << (3 + 9 * variants[varied].level))
    return [Shape(frames, words, np.arange(1, len(row), dtype=np.uint64) * span)]


def at_the_ends(base: Section, choice: Choice) -> list[Shape]:
    """Return shapes for the ends of the address space and of its halves, for each pair of PTEs.

    One PTE maps the last page of both halves, the other the first: accesses run from the lower
    half into what isn't canonical, from there into the upper half, and from the last page to
    the first.
    """
    *upper, pages = base.variants(choice)
    if not all(len(each.word) for each in (*upper, pages)):
        return []
    shapes = []
    half = 1 << (11 + 9 * base.levels)
    borders = np.array([half, (1 << 64) - half, 0], np.uint64)
    for last, first in product(range(len(pages.word)), repeat=2):
        frames, words = _tables(base.levels)
        for at, each in enumerate(upper):
            places = [0, _LAST] if at else [0, WORDS // 2 - 1, WORDS // 2, _LAST]
            words[at, places] = _entries(at, each, np.array(places), np.zeros(len(places), int))
        places = [0, _LAST]
        words[-1, places] = _entries(len(upper), pages, np.array(places), np.array([first, last]))
        shapes.append(Shape(frames, words, borders))
    return shapes


def _tables(count: int) -> tuple[U64, U64]:
    """Return the frames of one table a level, root first, and their words, zeros."""
    frames = FRAME * np.arange(1, count + 1, dtype=np.uint64)
    return frames, np.zeros((count, WORDS), np.uint64)


def _entries(at: int, variants: Variants, places: np.ndarray, chosen: np.ndarray) -> U64:
    """Return the entries for these places of the table number `at`: each page has its own."""
    number = places.astype(np.uint64)
    span = np.uint64(1 << (3 + 9 * variants.level))
    page = np.uint64(PAGES) + number * np.uint64(FRAME)
    if variants.level > 1:
        page = (number % np.uint64(16) + np.uint64(2)) * span
    leaf = variants.leaf[chosen]
    # An absent entry may hold an address as well as any.
    found: U64 = variants.word[chosen] | np.where(leaf, page, np.uint64(FRAME * (at + 2)))
    return found
