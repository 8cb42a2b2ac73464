"""What is in the suite: a selection of the matrix and of generated layouts, by a seed.

Of an address space some accesses are taken, and of its tables the words on their walks. The words
left out are zeros then: what an access comes to is stated for the case as it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from zlib import crc32

import numpy as np

from crosswalk.emu.fuzz.generate.choice import LayoutChoice
from crosswalk.emu.fuzz.generate.layouts import generate
from crosswalk.emu.fuzz.generate.shares import Share
from crosswalk.emu.matrix.section import Section, Shape
from crosswalk.emu.probe.composites import Composites
from crosswalk.emu.report.composites import CompositeCase, composite_case, composite_walks
from crosswalk.walker.access import Access
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.case import Case, Cpu, Probe
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.translate import walk_access

__all__ = ["SEED", "composites_of", "layout_cases", "section_cases"]

SEED = 1
"""The seed of the suite's selection."""

_WIDEST = 52
_FEWEST = 12
"""Accesses of the smallest layout that there is."""


def section_cases(
    section: Section, states: int, probes: int, seed: int = SEED
) -> Iterator[tuple[str, Case]]:
    """Yield cases of a section of single accesses, by name, where machines have RAM.

    So many of its control states, and so many accesses of each, as far as there are.
    """
    chance = np.random.default_rng([seed, crc32(section.name.encode())])
    portable = replace(section, portable=True)
    sizes = portable.sizes()
    chosen = sorted(chance.choice(len(sizes), min(states, len(sizes)), replace=False).tolist())
    for number, space in enumerate(portable.spaces()):
        if number not in chosen or isinstance(space.accesses, Composites):
            continue
        count = len(space.accesses)
        rows = sorted(chance.choice(count, min(probes, count), replace=False).tolist())
        accesses = [space.accesses[row] for row in rows]
        words = _words(space.memory(), space.context, accesses)
        yield (
            f"{section.name}-{chosen.index(number)}",
            _case(space.context, space.ram, words, accesses),
        )


def composites_of(
    section: Section, count: int, seed: int = SEED
) -> Iterator[tuple[str, CompositeCase]]:
    """Yield so many cases of a section of composites, by name."""
    chance = np.random.default_rng([seed, crc32(section.name.encode())])
    portable = replace(section, portable=True)
    sizes = np.array(portable.sizes())
    ends = np.cumsum(sizes)
    chosen = sorted(chance.choice(int(ends[-1]), min(count, int(ends[-1])), replace=False).tolist())
    wanted: dict[int, list[int]] = {}
    for number in chosen:
        at = int(np.searchsorted(ends, number, side="right"))
        wanted.setdefault(at, []).append(number - int(ends[at] - sizes[at]))
    made = 0
    for number, space in enumerate(portable.spaces()):
        for row in wanted.get(number, ()):
            if not isinstance(space.accesses, Composites):
                return
            one = space.accesses.take(slice(row, row + 1))
            whole = composite_case(space.context, space.ram, _all_words(space.shape), one)
            walks = composite_walks(whole)
            words = dict(sorted(word for path in walks for word in path.words if word[1]))
            yield f"{section.name}-{made}", composite_case(space.context, space.ram, words, one)
            made += 1


def _all_words(shape: Shape) -> dict[int, int]:
    row, at = np.nonzero(shape.words)
    where = shape.frames[row] + np.uint64(8) * at.astype(np.uint64)
    return dict(zip(where.tolist(), shape.words[row, at].tolist(), strict=True))


def layout_cases(count: int, probes: int, seed: int = SEED) -> Iterator[tuple[str, Case]]:
    """Yield cases of the first portable layouts of a seed, of each paging mode in turn, by name."""
    modes, choice = tuple(PagingMode), LayoutChoice(portable=True)
    for index in range(count):
        number, mode = divmod(index, len(modes))
        share = Share(modes[mode])
        layout = generate(seed, number, accesses=max(probes, _FEWEST), share=share, choice=choice)
        accesses = [layout.accesses[row] for row in range(min(probes, len(layout.accesses)))]
        words = _words(layout.memory(), layout.context, accesses)
        yield f"layout-{index}", _case(layout.context, layout.ram, words, accesses)


def _words(
    memory: SparseWords, context: PagingContext, accesses: Iterable[Access]
) -> dict[int, int]:
    """Return the words on the walks of accesses, whatever the CPU: by address, without zeros."""
    words: dict[int, int] = {}
    if context.mode is PagingMode.PAE:  # All four PDPTEs are loaded.
        words |= {pa: memory.word(pa) or 0 for pa in range(context.root, context.root + 32, 8)}
    for state in _widest(context):
        for access in accesses:
            words |= dict(walk_access(memory, state, access).words)
    return {pa: word for pa, word in sorted(words.items()) if word}


def _widest(context: PagingContext) -> Iterator[PagingContext]:
    """Yield the context, and the one on the CPU that has the fewest reserved bits."""
    yield context
    try:
        yield replace(context, maxphyaddr=_WIDEST, page1gb=True)
    except BadInput:
        return  # It has registers that only a CPU of its own has.


def _case(
    context: PagingContext,
    ram: tuple[tuple[int, int], ...],
    words: dict[int, int],
    accesses: Iterable[Access],
) -> Case:
    probes = tuple(Probe.of(access) for access in accesses)
    return Case(cpu=Cpu.from_context(context), ram=ram, entries=words, probes=probes)
