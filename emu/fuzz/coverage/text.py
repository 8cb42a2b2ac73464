"""Coverage for people, and for machines."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from crosswalk.emu.fuzz.coverage.cells import CELLS, CoverageMap

__all__ = ["coverage_lines", "coverage_record"]

_SHOWN = 6


def coverage_lines(seen: CoverageMap) -> Iterator[str]:
    """Yield what has been seen of each family, and what has not, by the values that lack most."""
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
