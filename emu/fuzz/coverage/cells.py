"""All cells in one numbering: the map of those reached, and targets for the rest."""

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.allowed_outcomes import parts_of
from crosswalk.emu.fuzz.coverage.composites import COMPOSITES, composite_cells
from crosswalk.emu.fuzz.coverage.conditions import (
    ADDRESSES,
    CONTROL,
    END,
    ENTRIES,
    KEYS,
    RESERVED_BITS,
    RIGHTS,
)
from crosswalk.emu.fuzz.coverage.departure_pairs import DEPARTURE_PAIRS, departure_pair_cells
from crosswalk.emu.fuzz.coverage.family import Bools, Family
from crosswalk.emu.fuzz.coverage.pairs import PAIRS
from crosswalk.emu.fuzz.coverage.walks import walks_of
from crosswalk.emu.fuzz.target import CoverageTarget
from crosswalk.emu.probe.composites import CompositeOutcomes as Made
from crosswalk.emu.probe.composites import Composites
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import PhysicalMemory

__all__ = [
    "CELLS",
    "Cells",
    "CoverageMap",
    "composite_coverage_of",
    "coverage_lines",
    "coverage_of",
    "coverage_record",
    "departure_coverage_of",
    "draw_targets",
    "unseen_in",
]

_SHOWN = 6  # Values of a family that are printed.
_TRIES = 4  # The most targets for one cell in a layout.
_EMULATED = (40, True, 0)
"""MAXPHYADDR, 1-GiB pages and encryption mask of the emulated CPU."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The families in a row: `first` are the numbers of their first cells.

    `possible` bool[count] are the cells that there can be, `reachable` their number.
    """

    families: tuple[Family, ...]
    first: tuple[int, ...]
    count: int
    possible: Bools
    reachable: int

    @classmethod
    def of(cls, *families: Family) -> "Cells":
        """Return these families, their cells numbered."""
        sizes = [family.size for family in families]
        first = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        possible = np.concatenate([family.reachable() for family in families])
        return cls(families, tuple(first[:-1]), first[-1], possible, int(possible.sum()))

    def first_of(self, name: str) -> int:
        """Return the number of the first cell of the family of this name."""
        return self.first[[family.name for family in self.families].index(name)]

    def split(self, cell: int) -> tuple[Family, int]:
        """Return the family of a cell, and its number there."""
        at = bisect_right(self.first, cell) - 1
        return self.families[at], cell - self.first[at]

    def describe(self, cell: int) -> str:
        """Return a cell in words."""
        family, number = self.split(cell)
        return f"{family.name}: {family.describe(number)}"


CELLS = Cells.of(
    END,
    ENTRIES,
    CONTROL,
    RIGHTS,
    RESERVED_BITS,
    KEYS,
    ADDRESSES,
    PAIRS,
    COMPOSITES,
    DEPARTURE_PAIRS,
)


def coverage_of(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, outcomes: Outcomes
) -> Bools:
    """Return bool[CELLS.count]: the cells that accesses with these outcomes touch.

    None outside IA-32e mode, or for a CPU with other features than the emulated one.
    """
    touched = np.zeros(CELLS.count, np.bool_)
    if _emulated(context) and len(accesses):
        walks = walks_of(memory, context, accesses, outcomes)
        for family, first in zip(CELLS.families, CELLS.first, strict=True):
            cells = np.zeros(0, np.int64) if family.touch is None else family.touch(walks)
            if cells.dtype == np.bool_:
                touched[first : first + family.size] = cells.ravel()
            else:
                touched[first + cells] = True
    return touched


def composite_coverage_of(
    memory: PhysicalMemory, context: PagingContext, composites: Composites, made: Made
) -> Bools:
    """Return bool[CELLS.count]: the cells that composites with these outcomes touch.

    None for a CPU with other features than the emulated one; none that is impossible by the
    manuals, even where the emulator departs from them.
    """
    touched = np.zeros(CELLS.count, np.bool_)
    if _emulated(context):
        parts = parts_of(memory, context, composites)
        first = CELLS.first_of(COMPOSITES.name)
        touched[first + composite_cells(composites, parts, made)] = True
    return touched & CELLS.possible


def departure_coverage_of(names: Iterable[str]) -> Bools:
    """Return bool[CELLS.count]: the cells that known divergences of these names touch."""
    touched = np.zeros(CELLS.count, np.bool_)
    touched[CELLS.first_of(DEPARTURE_PAIRS.name) + departure_pair_cells(names)] = True
    return touched


def _emulated(context: PagingContext) -> bool:
    """Return whether this control state has exactly the features of the emulated CPU."""
    features = (context.maxphyaddr, context.page1gb, context.encryption_mask)
    more = context.lam_user or context.lam_supervisor or context.uai or context.lass or context.pks
    return context.mode.long and features == _EMULATED and not more


class CoverageMap:
    """The cells seen so far: `bits` bool[CELLS.count]."""

    def __init__(self, bits: Bools | None = None) -> None:
        self.bits: Bools = np.zeros(CELLS.count, np.bool_) if bits is None else bits

    def add(self, bits: Bools) -> None:
        """Add what a layout touched."""
        self.bits |= bits

    def pack(self) -> bytes:
        """Return the map compressed: equal bytes for equal maps."""
        return zlib.compress(np.packbits(self.bits).tobytes(), 1)

    @classmethod
    def unpack(cls, data: bytes) -> "CoverageMap":
        """Return what was packed; `BadInput` for anything else."""
        size = (CELLS.count + 7) // 8
        try:
            # A byte more at the most: what is read may be anything, and unpack to gigabytes.
            raw = np.frombuffer(zlib.decompressobj().decompress(data, size + 1), np.uint8)
        except zlib.error as error:
            raise BadInput(f"coverage: {error}") from error
        if len(raw) != size:
            raise BadInput(f"coverage: not the {size:,} bytes of this version")
        return cls(np.unpackbits(raw, count=CELLS.count).astype(np.bool_))

    def counts(self) -> list[tuple[str, int, int]]:
        """Return each family's name, the number of its cells reached, and of those possible."""
        rows = []
        for family, first in zip(CELLS.families, CELLS.first, strict=True):
            part = slice(first, first + family.size)
            possible = CELLS.possible[part]
            rows.append((family.name, int((self.bits[part] & possible).sum()), int(possible.sum())))
        return rows


@lru_cache(4)
def unseen_in(packed: bytes) -> tuple[NDArray[np.int32], ...]:
    """Return the cells of each family that have targets and are not in this packed map.

    Complete families are left out. Cached, as a round of layouts has one map.
    """
    open_ = CELLS.possible & ~CoverageMap.unpack(packed).bits
    families = [
        (first + np.flatnonzero(open_[first : first + family.size])).astype(np.int32)
        for family, first in zip(CELLS.families, CELLS.first, strict=True)
        if family.target is not None
    ]
    return tuple(cells for cells in families if len(cells))


def draw_targets(packed: bytes, chance: np.random.Generator, count: int) -> list[CoverageTarget]:
    """Return targets for possible cells not yet reached, at random, each family alike.

    `packed` is the map as `CoverageMap.pack` returns it. Few cells get few targets: the other paths
    are better drawn freely.
    """
    unseen = unseen_in(packed)
    if not unseen:
        return []
    count = min(count, _TRIES * sum(len(cells) for cells in unseen))
    targets = []
    for pick, at in zip(
        chance.integers(0, len(unseen), count).tolist(), chance.random(count).tolist(), strict=True
    ):
        cells = unseen[pick]
        family, number = CELLS.split(int(cells[int(at * len(cells))]))
        if family.target is not None:
            targets.append(family.target(family.values(number)))
    return targets


def coverage_lines(seen: CoverageMap) -> Iterator[str]:
    """Yield each family's cells reached, and the values with the most cells missing."""
    for (name, got, possible), family, first in zip(
        seen.counts(), CELLS.families, CELLS.first, strict=True
    ):
        yield f"{name:<22}{got:>9,} of {possible:>9,} cells seen, {got / possible:.1%}"
        reachable = CELLS.possible[first : first + family.size].reshape(family.shape)
        missing = reachable & ~seen.bits[first : first + family.size].reshape(family.shape)
        lacking = []
        for at, axis in enumerate(family.axes):
            others = tuple(other for other in range(len(family.axes)) if other != at)
            unseen, can = missing.sum(axis=others), reachable.sum(axis=others)
            lacking += [
                (int(unseen[value]), int(can[value]), f"{axis.name} {axis.labels[value]}")
                for value in np.flatnonzero(unseen).tolist()
            ]
        lacking.sort(key=lambda each: (-each[0] / each[1], -each[0], each[2]))
        for count, can, label in lacking[:_SHOWN]:
            yield f"    unseen: {label}: {count:,} of {can:,}"


def coverage_record(seen: CoverageMap) -> dict[str, Any]:
    """Return the counts of each family."""
    return {name: {"seen": got, "possible": possible} for name, got, possible in seen.counts()}
