"""What walkers under test say: of accesses one by one, and as lists of mappings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Accesses, Kind, Outcomes, Rows
from crosswalk.walker.memory import U64
from crosswalk.walker.outcome import Outcome, PageFault, Translation

__all__ = ["Answers", "Listed", "Listing", "Ranges", "fill_row", "nothing_said"]


@dataclass(frozen=True, slots=True)
class Ranges(Rows):
    """r disjoint ranges of linear addresses, ascending, of which the mappings are asked for.

    `first` and `last` uint64[r]: the last byte is included. `whole` bool[r]: the range begins
    and ends where a root entry's does, so that no mapping reaches out of it; the others are
    single pages.
    """

    first: U64
    last: U64
    whole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, slots=True)
class Listed(Rows):
    """m mappings: `size` bytes from `va` are those from `pa`; `flags` as the walker gives them.

    All uint64[m].
    """

    va: U64
    pa: U64
    size: U64
    flags: U64

    def __len__(self) -> int:
        return len(self.va)


@dataclass(frozen=True, slots=True)
class Listing:
    """The mappings that a walker lists for ranges.

    `at` int64[m] is the range that each mapping was listed for, and touches. They are in the
    order of the range and of the address where they begin, and of no range do two overlap.
    """

    ranges: Ranges
    mappings: Listed
    at: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a walker says of n accesses.

    `outcomes`: kind OK means mapped, at `pa`; where rights are claimed, that the access is
    allowed too. Columns that it doesn't claim are zeros. `silent` bool[n]: it says nothing of
    this access, which isn't held against it. `listing` is there where leaves are claimed.
    """

    outcomes: Outcomes
    silent: NDArray[np.bool_]
    listing: Listing | None = None


def nothing_said(accesses: Accesses) -> Answers:
    """Return answers that say nothing of any of these accesses, to be filled in."""
    count = len(accesses)
    return Answers(Outcomes.empty(count), np.ones(count, np.bool_))


def fill_row(answers: Answers, row: int, said: Outcome) -> None:
    """Let the answer to one access be this outcome."""
    out = answers.outcomes
    answers.silent[row] = False
    if isinstance(said, Translation):
        out.kind[row], out.pa[row] = Kind.OK, said.pa
    elif isinstance(said, PageFault):
        out.kind[row] = Kind.PAGE_FAULT
        out.error_code[row], out.cr2[row] = said.error_code, said.cr2
    else:
        out.kind[row] = Kind.GENERAL_PROTECTION
    for at, (pa, value) in enumerate(sorted(said.entries)):
        out.entry_pa[row, at], out.entry_value[row, at] = pa, value
