"""A layout from a seed and an index: control state, tables, accesses, intended outcomes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.generate.build_tables import (
    LEGACY_RAM,
    RAM,
    WIDE_RAM,
    BuiltTables,
    build_tables,
    clear_of_probe,
)
from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.fuzz.generate.control import draw_context
from crosswalk.emu.fuzz.generate.formats import format_of, packed
from crosswalk.emu.fuzz.generate.intended import (
    IntendedPaths,
    ignores_bits,
    intended_of,
    intended_paths,
    linear_of,
    sign_extended,
)
from crosswalk.emu.fuzz.generate.path_plan import PathPlan, plan_paths
from crosswalk.emu.fuzz.generate.portable import PORTABLE_RAM, made_portable
from crosswalk.emu.fuzz.generate.restrict import restricted
from crosswalk.emu.fuzz.generate.shares import Share
from crosswalk.emu.fuzz.target import CoverageTarget
from crosswalk.walker.access import AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.memory import U64

__all__ = ["distinct", "generate"]

_PER_PATH = 12  # Accesses.
_FEWEST = 4  # Paths.
_UNIFORM = 0.25
"""Probability that a table of one entry gets that entry everywhere."""
_ONE_KEY = 0.7
"""Probability that all bits of an encryption mask are set together."""
_OFFSETS = np.array([0, 0xFF0, 0x7F0, 0, 1, 8, 0xFF8, 0xFFF], np.uint64)
_PAGE = np.uint64(4096)
_LAST_BYTE = ~np.uint64(0)
_KINDS = 12  # Types × privileges × AC.
_OFF_PATH = 0.12
"""Probability of an access next to its path's page."""
_NON_CANONICAL, _TAGGED = 0.02, 0.3
"""Probabilities of changed upper address bits; the second where some are ignored."""
_METADATA = 0.8
"""Probability that changed bits leave bit 63 alone, where the processor ignores some."""
_UNALIGNED_FETCHES = 0.1
_SLOW, _FEWER = (PagingMode.BIT32, PagingMode.PAE), 4
_ANY, _EVERYTHING = Share(), LayoutChoice()
_EMULATED = 40
"""MAXPHYADDR of the emulated CPU."""


def generate(
    seed: int,
    index: int,
    targets: Sequence[CoverageTarget] = (),
    *,
    accesses: int = 4096,
    share: Share = _ANY,
    choice: LayoutChoice = _EVERYTHING,
) -> Layout:
    """Return the layout of this seed and index among those of a share, with about so many accesses.

    Equal arguments give equal layouts. Targets are met as far as they fit one control state and
    two thirds of the paths. In 32-bit and PAE paging every access is made alone, which takes the
    emulated CPU much longer, so that there are fewer of them.
    """
    chance = np.random.default_rng([seed, index, *share.stream])
    if share.mode in _SLOW:
        accesses = max(_FEWEST * _PER_PATH, accesses // _FEWER)
    count = max(_FEWEST, accesses // _PER_PATH)
    portable = choice.portable
    context, kept = draw_context(
        chance, targets, seed, index, share, choice.select, portable=portable
    )
    plan = plan_paths(chance, context, count, kept[: 2 * count // 3])
    if portable:
        made_portable(chance, plan, format_of(context))
    wide = share.wide and context.maxphyaddr > _EMULATED and not portable
    built = build_tables(chance, context, plan, wide=wide, portable=portable)
    root = int(built.frames[0]) | int(chance.choice([0, 0, 8, 0x10, 0x18]))
    context = replace(context, cr3=context.cr3 | root)
    if context.encryption_mask:
        context = _encrypt(chance.spawn(1)[0], context, built)
    corrupted = _corrupt(chance, built)
    intended = intended_paths(context, built, corrupted)
    asked, path = _draw_accesses(chance, context, plan, built, intended, accesses, choice=choice)
    intentions = intended_of(context, intended, path, asked)
    if built.form.plain:
        context = _placed_pdpt(chance, context, built)
    order = np.argsort(built.frames[: built.count])
    words = clear_of_probe(packed(built.form, built.words[: built.count]))
    ram: tuple[tuple[int, int], ...] = RAM if built.form.long else LEGACY_RAM
    if portable:
        ram = PORTABLE_RAM
    layout = Layout(
        context,
        (*ram, *WIDE_RAM) if wide else ram,
        built.frames[: built.count][order],
        words[order],
        asked,
        intentions,
    )
    return restricted(layout, choice)


def _placed_pdpt(
    chance: np.random.Generator, context: PagingContext, built: BuiltTables
) -> PagingContext:
    """Move the PDPT of PAE paging, the first four entries of the root's frame, within the frame."""
    at = 4 * int(chance.integers(0, built.form.width // 4))
    built.words[0] = np.roll(built.words[0], at)
    return replace(context, cr3=context.cr3 + 8 * at)


def _encrypt(
    chance: np.random.Generator, context: PagingContext, built: BuiltTables
) -> PagingContext:
    """Set bits of the encryption mask in most present entries, and in CR3."""
    mask = np.uint64(context.encryption_mask)
    used = (built.words & np.uint64(1)) != 0
    used &= chance.random(built.words.shape) < chance.choice([0.5, 0.9])
    some = chance.integers(0, 1 << 63, built.words.shape).astype(np.uint64)
    all_ = chance.random() < _ONE_KEY
    bits = np.where(all_, mask, some & mask)
    built.words[used] |= np.broadcast_to(bits, used.shape)[used]
    return replace(context, cr3=context.cr3 | int(mask) * int(chance.random() < _ONE_KEY))


def _corrupt(chance: np.random.Generator, built: BuiltTables) -> NDArray[np.bool_]:
    """Change some words, and fill some tables; return bool[t * 512], the changed words."""
    corrupted = np.zeros(built.words.size, np.bool_)
    draw = chance.random()
    # Not the PDPT of PAE paging, of which one malformed entry refuses all.
    first = 1 if built.form.plain else 0
    used = first * built.form.width + np.flatnonzero(built.words[first : built.count].reshape(-1))
    if draw < 0.3:
        at = chance.choice(used, min(len(used), int(chance.integers(1, 16))), replace=False)
        bits = np.uint64(1) << chance.integers(0, 8 * built.form.entry_bytes, len(at)).astype(
            np.uint64
        )
        built.words.reshape(-1)[at] ^= bits
        corrupted[at] = True
    elif draw < 0.5:
        _fill(chance, built)
    # A stream of its own leaves all other draws as they are.
    own = chance.spawn(1)[0]
    if own.random() < _UNIFORM:
        _fill_uniformly(own, built)
    return corrupted


def _fill(chance: np.random.Generator, built: BuiltTables) -> None:
    """Fill empty slots of one table with one of its entries, like a dense run of mappings."""
    width = built.form.width
    first = 1 if built.form.plain else 0
    if built.count <= first:
        return
    row = int(chance.integers(first, built.count))
    used = np.flatnonzero(built.words[row])
    if not len(used):
        return
    like = int(chance.choice(used))
    start = int(chance.integers(0, width))
    run = np.arange(start, min(width, start + int(chance.choice([8, 64, width]))))
    empty = run[(built.words[row, run] == 0) & (built.kind[row, run] < 0)]
    built.words[row, empty] = built.words[row, like]


def _fill_uniformly(chance: np.random.Generator, built: BuiltTables) -> None:
    """Fill a table that has one entry with that entry, like tables of zero pages."""
    used = built.words[1 : built.count] != 0
    planned = built.kind[1 : built.count] >= 0
    rows = 1 + np.flatnonzero((used.sum(axis=1) == 1) & (used == planned).all(axis=1))
    if len(rows):
        row = int(chance.choice(rows))
        built.words[row] = built.words[row].max()


def _draw_accesses(
    chance: np.random.Generator,
    context: PagingContext,
    plan: PathPlan,
    built: BuiltTables,
    intended: IntendedPaths,
    count: int,
    *,
    choice: LayoutChoice,
) -> tuple[Accesses, NDArray[np.intp]]:
    """Return at most `count` distinct accesses, and the path that each follows, -1 for none.

    AC has one of the values that are chosen, where there are any.
    """
    base = _addresses(plan, built)
    # Every path gets all kinds of access on one page, then all kinds on another, and so on.
    number = np.arange(count)
    # AC matters with SMAP alone; without it, a layout has one value of AC.
    kinds = _KINDS if context.smap else _KINDS // 2
    path = number // kinds % len(base)
    turn = number // (kinds * len(base))
    kind = number % kinds
    group = turn * len(base) + path
    pages = intended.size[path] // _PAGE
    page = chance.integers(0, 1 << 30, int(group[-1]) + 1).astype(np.uint64)[group] % pages
    page[(turn == 0) & (path % 3 == 0)] = 0
    last = (turn == 0) & (path % 3 == 1)
    page[last] = pages[last] - np.uint64(1)
    offset = chance.choice(_OFFSETS, count)
    anywhere = chance.random(count) < 0.2
    offset[anywhere] = chance.integers(0, 4096, int(anywhere.sum())).astype(np.uint64)
    # Fetches are from multiples of 16, except in a few layouts: see `crosswalk.emu.probe.prober`.
    if chance.random() > _UNALIGNED_FETCHES:
        offset[kind % 3 == AccessType.EXECUTE] &= ~np.uint64(15)
    va = (base[path] & ~(intended.size[path] - np.uint64(1))) | page * _PAGE | offset
    if choice.portable:
        last_page = (va | _PAGE - np.uint64(1)) == _LAST_BYTE
        va[last_page & (kind % 3 == AccessType.EXECUTE)] = _LAST_BYTE
    aside = chance.random(count) < _OFF_PATH
    form = built.form
    far = form.width
    step = chance.choice(np.array([1, -1, far, -far]), count).view(np.uint64) * intended.size[path]
    va = np.where(aside, va + step, va)
    if not form.long:
        va &= np.uint64((1 << form.va_bits) - 1)
    follows = np.where(aside, -1, path)
    wrong = chance.random(count) < (_TAGGED if ignores_bits(context) else _NON_CANONICAL)
    wrong &= form.long
    accesses = Accesses(
        np.where(wrong, va ^ _wrong_bits(chance, context, count), va),
        (kind % 3).astype(np.uint8),
        np.where(kind // 3 % 2 == 1, 3, 0).astype(np.uint8),
        (kind // 6 == 1) if context.smap else np.full(count, _one_of(chance, choice.select.acs)),
    )
    # An address whose changed bits are ignored in part may be that of another page.
    moved = (linear_of(context, accesses)[0] ^ va) << np.uint64(64 - form.va_bits) != 0
    rows = distinct(accesses)
    return accesses.take(rows), np.where(moved, -1, follows)[rows].astype(np.intp)


def _one_of(chance: np.random.Generator, acs: Sequence[bool]) -> bool:
    drawn = bool(chance.random() < 0.5)
    return acs[0] if len(acs) == 1 else drawn


def _addresses(plan: PathPlan, built: BuiltTables) -> U64:
    """Return the address of each path, from the entries allocated to it."""
    form, va = built.form, np.zeros(len(plan), np.uint64)
    for level, shift in form.shifts.items():
        step = built.step[:, level]
        index = np.where(step >= 0, step % form.width, plan.index[:, level])
        va |= index.astype(np.uint64) << np.uint64(shift)
    return sign_extended(va, form.va_bits, 64) if form.long else va


def _wrong_bits(chance: np.random.Generator, context: PagingContext, count: int) -> U64:
    """Return masks that make addresses non-canonical: one high bit, or all of them.

    Where the processor ignores some, mostly random ones below bit 63.
    """
    one = np.uint64(1) << chance.integers(context.va_bits - 1, 64, count).astype(np.uint64)
    every = np.uint64((1 << 64) - (1 << context.va_bits))
    found = np.where(chance.random(count) < 0.3, every, one)
    if not ignores_bits(context):
        return found
    lowest = chance.choice(np.array([47, 48, 56, 57, 57, 57]), count).astype(np.uint64)
    tags = chance.integers(0, 1 << 63, count).astype(np.uint64) >> lowest << lowest
    return np.where(chance.random(count) < _METADATA, tags, found)


def distinct(accesses: Accesses) -> NDArray[np.intp]:
    """Return the rows of the first of equal accesses, ascending."""
    kind = accesses.type + np.uint8(4) * accesses.cpl + np.uint8(16) * accesses.ac
    order = np.lexsort((kind, accesses.va))
    va, kind = accesses.va[order], kind[order]
    again = np.zeros(len(order), np.bool_)
    again[1:] = (va[1:] == va[:-1]) & (kind[1:] == kind[:-1])
    return np.sort(order[~again])
