"""Answers of walkers under test: to accesses one by one, and as lists of mappings."""

from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.workers.sandbox import Failure, NoAnswer
from crosswalk.walker.columns import Accesses, Kind, Outcomes, Rows
from crosswalk.walker.memory import FRAME, U64, PhysicalMemory
from crosswalk.walker.outcome import Outcome, PageFault, Translation

__all__ = [
    "Answers",
    "Given",
    "Listed",
    "Listing",
    "Ranges",
    "Refused",
    "Unanswered",
    "Unplaced",
    "refused_of",
]


def _no_rows() -> NDArray[np.intp]:
    return np.zeros(0, np.intp)


@dataclass(frozen=True, slots=True)
class Ranges(Rows):
    """r disjoint ranges of linear addresses, ascending, whose mappings a walker is to list.

    `first` and `last` uint64[r]: the last byte is included. `whole` bool[r]: the range consists of
    whole root entries, so that no mapping crosses its ends; the others are single pages.
    """

    first: U64
    last: U64
    whole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)


class Given(IntFlag):
    """Which parts of a mapping a walker gives, beside its linear address and its size."""

    PA = 1
    FLAGS = 2
    RIGHTS = 4


@dataclass(frozen=True, slots=True)
class Listed(Rows):
    """m mappings of `size` bytes from `va` to `pa`, with `flags` as the walker gives them.

    uint64[m]; `rights` uint8[m], effective rights as `Grant` bits; `given` uint8[m], the `Given`
    bits of the parts that there are: the others are 0 and say nothing.
    """

    va: U64
    pa: U64
    size: U64
    flags: U64
    rights: NDArray[np.uint8]
    given: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.va)


@dataclass(frozen=True, slots=True)
class Unplaced(Translation):
    """The answer that an address is mapped, of a list that doesn't give where to.

    Its physical address is that of the truth, or 0: it isn't shown.
    """


@dataclass(frozen=True, slots=True)
class Listing:
    """The mappings that a walker lists for ranges.

    `at` int64[m] is the range that each mapping was listed for, and touches. They are in the
    order of the range and of the address where they begin, and of no range do two overlap.
    `silent` bool[r]: the walker declines to list this range, which is no empty list. `aside` int
    are the ranges that it neither lists nor declines: it failed, or wasn't asked any more.
    """

    ranges: Ranges
    mappings: Listed
    at: NDArray[np.int64]
    silent: NDArray[np.bool_]
    aside: NDArray[np.intp] = field(default_factory=_no_rows)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question that a walker failed to answer, or all whose answers are nonsense of one kind.

    `accesses` show the failure when nothing else is asked, one where one does. `rows` int[m] are
    the accesses concerned, by their places among those asked; there are none for a list in whose
    range none of them lies, which a read of its first byte stands for.
    """

    failure: NoAnswer
    accesses: Accesses
    rows: NDArray[np.intp]

    @property
    def count(self) -> int:
        """How often it failed so: once for each access of which one shows it."""
        return max(1, len(self.rows)) if len(self.accesses) == 1 else 1


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a walker to n accesses.

    `outcomes`: kind OK means mapped, at `pa`; where rights are claimed, that the access is
    allowed too. Columns that it doesn't claim are zeros. `silent` bool[n]: it doesn't answer for
    this access, which is no error. `listing` is present where leaves are claimed.

    `failures` are the questions that it failed to answer. `aside` int are the accesses that it
    neither answers nor declines: it failed, or wasn't asked after too many failures.
    """

    outcomes: Outcomes
    silent: NDArray[np.bool_]
    listing: Listing | None = None
    failures: tuple[Unanswered, ...] = ()
    aside: NDArray[np.intp] = field(default_factory=_no_rows)

    @classmethod
    def none(cls, count: int) -> "Answers":
        """Return answers to `count` accesses, all of them silent, to be filled in."""
        return cls(Outcomes.empty(count), np.ones(count, np.bool_))

    def fill(self, row: int, outcome: Outcome) -> None:
        """Let this outcome be the answer to one access."""
        out = self.outcomes
        self.silent[row] = False
        if isinstance(outcome, Translation):
            out.kind[row], out.pa[row] = Kind.OK, outcome.pa
        elif isinstance(outcome, PageFault):
            out.kind[row] = Kind.PAGE_FAULT
            out.error_code[row], out.cr2[row] = outcome.error_code, outcome.cr2
        else:
            out.kind[row] = Kind.GENERAL_PROTECTION
        for at, (pa, value) in enumerate(sorted(outcome.entries)):
            out.entry_pa[row, at], out.entry_value[row, at] = pa, value


_PHYSICAL_BITS = np.uint64(52)


Refused = dict[int, NoAnswer]
"""Answers that no walker can mean, by the number of the question: accesses first, then ranges."""


def refused_of(answers: Answers, memory: PhysicalMemory) -> Refused:
    """Return the answers that no walker can mean.

    That is a physical address of more than 52 bits, or a changed word that isn't one of RAM's.
    """
    out, listing, found = answers.outcomes, answers.listing, Refused()
    kind = "a physical address of more than 52 bits"
    beyond = (out.kind == Kind.OK) & (out.pa >> _PHYSICAL_BITS != 0)
    _refuse(found, kind, out.pa[beyond], np.flatnonzero(beyond))
    if listing is not None:
        mappings = listing.mappings
        last = mappings.pa + (mappings.size - np.uint64(1))
        beyond = (last >> _PHYSICAL_BITS != 0) | (last < mappings.pa)
        beyond &= (mappings.given & Given.PA) != 0
        _refuse(found, kind, last[beyond], listing.at[beyond] + len(out))
    changed = (out.entry_pa != 0) | (out.entry_value != 0)
    rows, _ = np.nonzero(changed)
    words = out.entry_pa[changed]
    stray = (words % np.uint64(8) != 0) | ~memory.backed(words & ~np.uint64(FRAME - 1))
    _refuse(found, "a change of what is no word of RAM", words[stray], rows[stray])
    return found


def _refuse(found: Refused, kind: str, addresses: U64, numbers: NDArray[np.intp]) -> None:
    for address, number in zip(addresses.tolist(), numbers.tolist(), strict=True):
        failure = NoAnswer(Failure.NONSENSE, kind, f"{kind}: {address:#x}")
        found.setdefault(number, failure)
