"""A layout: control state, tables, accesses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.generate.accesses import draw_accesses
from crosswalk.emu.fuzz.generate.build_tables import Grown, grow
from crosswalk.emu.fuzz.generate.control import draw_context
from crosswalk.emu.fuzz.generate.frame_allocator import RAM, clear_of_probe
from crosswalk.emu.fuzz.generate.intended_outcomes import intended_of, plans_of
from crosswalk.emu.fuzz.generate.path_plan import draw_paths
from crosswalk.emu.fuzz.target import CoverageTarget
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import WORDS

__all__ = ["generate"]

_PER_PATH = 12
_FEWEST = 4
_EVEN = 0.25
_ONE_KEY = 0.7
"""How often all bits of an encryption mask are set together."""


def generate(
    seed: int, index: int, targets: Sequence[CoverageTarget] = (), *, accesses: int = 4096
) -> Layout:
    """Return the layout of this seed and index, with about so many accesses.

    Equal arguments give equal layouts. Targets are met as far as they fit one control state and
    two thirds of the paths.
    """
    chance = np.random.default_rng([seed, index])
    count = max(_FEWEST, accesses // _PER_PATH)
    context, kept = draw_context(chance, targets, seed, index)
    draft = draw_paths(chance, context, count, kept[: 2 * count // 3])
    grown = grow(chance, context, draft)
    root = int(grown.frames[0]) | int(chance.choice([0, 0, 8, 0x10, 0x18]))
    context = replace(context, cr3=context.cr3 | root)
    if context.encryption_mask:
        context = _encrypt(chance.spawn(1)[0], context, grown)
    tainted = _spoil(chance, grown)
    plans = plans_of(context, grown, tainted)
    asked, path = draw_accesses(chance, context, draft, grown, plans, accesses)
    order = np.argsort(grown.frames[: grown.count])
    words = clear_of_probe(grown.words[: grown.count])
    return Layout(
        context,
        RAM,
        grown.frames[: grown.count][order],
        words[order],
        asked,
        intended_of(context, plans, path, asked),
    )


def _encrypt(chance: np.random.Generator, context: PagingContext, grown: Grown) -> PagingContext:
    """Set bits of the encryption mask in most present entries, and in CR3, each as it comes."""
    mask = np.uint64(context.encryption_mask)
    used = (grown.words & np.uint64(1)) != 0
    used &= chance.random(grown.words.shape) < chance.choice([0.5, 0.9])
    some = chance.integers(0, 1 << 63, grown.words.shape).astype(np.uint64)
    all_ = chance.random() < _ONE_KEY
    bits = np.where(all_, mask, some & mask)
    grown.words[used] |= np.broadcast_to(bits, used.shape)[used]
    return replace(context, cr3=context.cr3 | int(mask) * int(chance.random() < _ONE_KEY))


def _spoil(chance: np.random.Generator, grown: Grown) -> NDArray[np.bool_]:
    """Change some words at random, and fill some tables; return bool[t * 512], which words."""
    tainted = np.zeros(grown.words.size, np.bool_)
    mood = chance.random()
    used = np.flatnonzero(grown.words[: grown.count].reshape(-1))
    if mood < 0.3:
        at = chance.choice(used, min(len(used), int(chance.integers(1, 16))), replace=False)
        bits = np.uint64(1) << chance.integers(0, 64, len(at)).astype(np.uint64)
        grown.words.reshape(-1)[at] ^= bits
        tainted[at] = True
    elif mood < 0.5:
        _fill(chance, grown)
    # Drawn from a stream of its own, so that all else stays what it was.
    own = chance.spawn(1)[0]
    if own.random() < _EVEN:
        _even(own, grown)
    return tainted


def _fill(chance: np.random.Generator, grown: Grown) -> None:
    """Fill what is empty of one table with one of its entries, as a dense run has them."""
    row = int(chance.integers(grown.count))
    used = np.flatnonzero(grown.words[row])
    if not len(used):
        return
    like = int(chance.choice(used))
    start = int(chance.integers(0, WORDS))
    run = np.arange(start, min(WORDS, start + int(chance.choice([8, 64, WORDS]))))
    empty = run[(grown.words[row, run] == 0) & (grown.kind[row, run] < 0)]
    grown.words[row, empty] = grown.words[row, like]


def _even(chance: np.random.Generator, grown: Grown) -> None:
    """Let a table that has one entry hold that entry everywhere, as tables of zero pages do."""
    used = grown.words[1 : grown.count] != 0
    meant_there = grown.kind[1 : grown.count] >= 0
    rows = 1 + np.flatnonzero((used.sum(axis=1) == 1) & (used == meant_there).all(axis=1))
    if len(rows):
        row = int(chance.choice(rows))
        grown.words[row] = grown.words[row].max()
