"""Generated address spaces with their intended outcomes, and as case files."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case, Cpu, Probe
from crosswalk.walker.memory import FRAME, U64, WORDS, SparseWords

__all__ = ["IntendedKind", "IntendedOutcomes", "Layout", "case_layout", "layout_case"]


class IntendedKind(IntEnum):
    """The intended outcome of an access."""

    UNKNOWN = 0
    """Nothing is claimed: junk, or a path that another path's entries run into."""
    OK = 1
    NOT_PRESENT = 2
    RESERVED = 3
    PROTECTION = 4
    KEY = 5
    NOT_CANONICAL = 6
    OTHER_HALF = 7
    """To the half of the linear addresses that LASS keeps for the other privilege."""
    NOT_LOADED = 8
    """To any address, where MOV to CR3 refuses the PDPTEs of PAE paging."""


@dataclass(frozen=True, slots=True)
class IntendedOutcomes(Rows):
    """The intended outcomes of n accesses: `kind` uint8[n], `pa` uint64[n] (0 unless OK)."""

    kind: NDArray[np.uint8]
    pa: U64

    @classmethod
    def nothing(cls, count: int) -> "IntendedOutcomes":
        """Return n rows that claim nothing."""
        return cls(np.full(count, IntendedKind.UNKNOWN, np.uint8), np.zeros(count, np.uint64))


@dataclass(frozen=True, slots=True)
class Layout:
    """Tables in physical memory, and n accesses under them.

    `ram` are the backed ranges as (start, size) in bytes. `frames` uint64[t] are the frames of
    the tables, ascending, `words` uint64[t, 512] their content. `intended` has n rows.
    """

    context: PagingContext
    ram: tuple[tuple[int, int], ...]
    frames: U64
    words: U64
    accesses: Accesses
    intended: IntendedOutcomes

    def __repr__(self) -> str:
        """Return its size; a case file shows the content better than this would."""
        words = int(np.count_nonzero(self.words))
        return (
            f"<Layout: {self.context.levels} levels, {len(self.frames)} tables, "
            f"{words} entries, {len(self.accesses)} accesses>"
        )

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:  # noqa: FBT001  # IPython's protocol…
        """Print the same: …which Hypothesis follows too, and else would print all fields."""
        printer.text(repr(self))

    def memory(self) -> SparseWords:
        """Return the tables in otherwise empty RAM."""
        return SparseWords.of_tables(self.ram, self.frames, self.words)


def layout_case(layout: Layout, *, rows: slice = slice(None)) -> Case:
    """Return the layout with all its words, and a probe for each of the chosen accesses."""
    row, at = np.nonzero(layout.words)
    addresses = layout.frames[row] + np.uint64(8) * at.astype(np.uint64)
    words = zip(addresses.tolist(), layout.words[row, at].tolist(), strict=True)
    some = layout.accesses.take(rows)
    probes = tuple(Probe.of(some[row]) for row in range(len(some)))
    return Case(
        cpu=Cpu.from_context(layout.context), ram=layout.ram, entries=dict(words), probes=probes
    )


def case_layout(case: Case) -> Layout:
    """Return a case as a layout without intended outcomes; `BadInput` as `Case.context`."""
    pas = np.array(sorted(case.entries), np.uint64)
    frames, row = np.unique(pas // np.uint64(FRAME) * np.uint64(FRAME), return_inverse=True)
    words = np.zeros((len(frames), WORDS), np.uint64)
    values = np.array([case.entries[pa] for pa in pas.tolist()], np.uint64)
    words[row, (pas % np.uint64(FRAME) // np.uint64(8)).astype(np.intp)] = values
    accesses = Accesses.of([probe.asked for probe in case.probes])
    count = len(accesses)
    nothing = IntendedOutcomes.nothing(count)
    return Layout(case.context(), case.ram, frames, words, accesses, nothing)
