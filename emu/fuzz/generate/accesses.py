"""The accesses of a layout: every kind, along its paths and beside them."""

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.generate.build_tables import Grown
from crosswalk.emu.fuzz.generate.intended_outcomes import Plans
from crosswalk.emu.fuzz.generate.path_plan import Draft
from crosswalk.emu.fuzz.generate.pointers import ignores_bits, linear_of
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64, WORDS

__all__ = ["draw_accesses"]

_OFFSETS = np.array([0, 0xFF0, 0x7F0, 0, 1, 8, 0xFF8, 0xFFF], np.uint64)
_PAGE = np.uint64(4096)
_KINDS = 12  # Types × privileges × AC.
_BESIDE = 0.12
_WRONG = 0.02
_TAGGED = 0.3
_LEFT = 0.8
_ODD_FETCHES = 0.1


def draw_accesses(
    chance: np.random.Generator,
    context: PagingContext,
    draft: Draft,
    grown: Grown,
    plans: Plans,
    count: int,
) -> tuple[Accesses, NDArray[np.intp]]:
    """Return `count` accesses at the most, no two the same, and the path that each follows.

    -1 for those that follow none. A target's path is asked what the target asks for first.
    """
    base = _addresses(context, draft, grown)
    # Every path gets all kinds on a page, then all kinds on another, and so on.
    number = np.arange(count)
    # AC decides nothing but with SMAP; without, one value does for a layout.
    kinds = _KINDS if context.smap else _KINDS // 2
    path = number // kinds % len(base)
    turn = number // (kinds * len(base))
    kind = number % kinds
    group = turn * len(base) + path
    pages = plans.size[path] // _PAGE
    page = chance.integers(0, 1 << 30, int(group[-1]) + 1).astype(np.uint64)[group] % pages
    page[(turn == 0) & (path % 3 == 0)] = 0
    last = (turn == 0) & (path % 3 == 1)
    page[last] = pages[last] - np.uint64(1)
    offset = chance.choice(_OFFSETS, count)
    anywhere = chance.random(count) < 0.2
    offset[anywhere] = chance.integers(0, 4096, int(anywhere.sum())).astype(np.uint64)
    # What is executed begins at a multiple of 16, but in a few layouts: see
    # `crosswalk.emu.probe.prober`.
    if chance.random() > _ODD_FETCHES:
        offset[kind % 3 == AccessType.EXECUTE] &= ~np.uint64(15)
    va = (base[path] & ~(plans.size[path] - np.uint64(1))) | page * _PAGE | offset
    beside = chance.random(count) < _BESIDE
    step = chance.choice(np.array([1, -1, WORDS, -WORDS]), count).view(np.uint64) * plans.size[path]
    va = np.where(beside, va + step, va)
    follows = np.where(beside, -1, path)
    wrong = chance.random(count) < (_TAGGED if ignores_bits(context) else _WRONG)
    accesses = Accesses(
        np.where(wrong, va ^ _wrong_bits(chance, context, count), va),
        (kind % 3).astype(np.uint8),
        np.where(kind // 3 % 2 == 1, 3, 0).astype(np.uint8),
        (kind // 6 == 1) if context.smap else np.full(count, chance.random() < 0.5),
    )
    # What is left of an address with wrong bits may be another address.
    moved = (linear_of(context, accesses)[0] ^ va) << np.uint64(64 - context.va_bits) != 0
    return _without_twins(accesses, np.where(moved, -1, follows))


def _addresses(context: PagingContext, draft: Draft, grown: Grown) -> U64:
    """Return the address of each path, from the entries that it has got."""
    va = np.zeros(len(draft), np.uint64)
    for level in range(context.levels, 0, -1):
        index = np.where(
            grown.step[:, level] >= 0, grown.step[:, level] % WORDS, draft.index[:, level]
        )
        va |= index.astype(np.uint64) << np.uint64(3 + 9 * level)
    unused = np.int64(64 - context.va_bits)
    extended: U64 = (va.astype(np.int64) << unused >> unused).view(np.uint64)
    return extended


def _wrong_bits(chance: np.random.Generator, context: PagingContext, count: int) -> U64:
    """Return what makes an address not canonical: one high bit, or all of them.

    Where the processor ignores some, mostly anything that leaves bit 63.
    """
    one = np.uint64(1) << chance.integers(context.va_bits - 1, 64, count).astype(np.uint64)
    every = np.uint64((1 << 64) - (1 << context.va_bits))
    found = np.where(chance.random(count) < 0.3, every, one)
    if not ignores_bits(context):
        return found
    lowest = chance.choice(np.array([47, 48, 56, 57, 57, 57]), count).astype(np.uint64)
    tags = chance.integers(0, 1 << 63, count).astype(np.uint64) >> lowest << lowest
    return np.where(chance.random(count) < _LEFT, tags, found)


def _without_twins(accesses: Accesses, path: NDArray[np.intp]) -> tuple[Accesses, NDArray[np.intp]]:
    kind = accesses.type + np.uint8(4) * accesses.cpl + np.uint8(16) * accesses.ac
    order = np.lexsort((kind, accesses.va))
    va, kind = accesses.va[order], kind[order]
    twin = np.zeros(len(order), np.bool_)
    twin[1:] = (va[1:] == va[:-1]) & (kind[1:] == kind[:-1])
    rows = np.sort(order[~twin])
    return accesses.take(rows), path[rows].astype(np.intp)
