"""What bulk runs are asked, and what they answer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.trampoline import CAPACITY
from crosswalk.walker.columns import Accesses, Rows
from crosswalk.walker.memory import U64

__all__ = ["Found", "Job", "runs_of"]

_BLOCK_PAGES = np.uint64(12)


@dataclass(frozen=True, slots=True)
class Job:
    """n accesses for bulk runs.

    `lent` uint8[n] says which of the arena's slots is lent; `word` int64[n, 5] are the places in
    the space of the words that the walk may touch, NOWHERE for none, `before` uint64[n, 5] their
    values; `target` uint64[n] is the address that it may reach, where a signature may be.
    """

    accesses: Accesses
    lent: NDArray[np.uint8]
    word: NDArray[np.int64]
    before: U64
    target: U64

    def take(self, rows: NDArray[np.intp]) -> "Job":
        """Return the chosen rows."""
        return Job(
            self.accesses.take(rows),
            self.lent[rows],
            self.word[rows],
            self.before[rows],
            self.target[rows],
        )

    def __len__(self) -> int:
        return len(self.accesses)


@dataclass(frozen=True, slots=True)
class Found(Rows):
    """What n accesses of a job came to.

    `decided` bool[n]: the rest is as for `Outcomes`, and `after` uint64[n, 5] are the words
    after the access; where not decided, all of it means nothing.
    """

    decided: NDArray[np.bool_]
    kind: NDArray[np.uint8]
    pa: U64
    error_code: NDArray[np.uint16]
    cr2: U64
    after: U64

    @classmethod
    def nothing(cls, count: int) -> "Found":
        """Return `count` rows that nothing is known of."""
        return cls(
            np.zeros(count, np.bool_),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint16),
            np.zeros(count, np.uint64),
            np.zeros((count, 5), np.uint64),
        )


def runs_of(job: Job) -> list[NDArray[np.intp]]:
    """Return the rows of each run: one privilege and type, no page twice, up to CAPACITY.

    An access that succeeds leaves its translation in the TLB, so a page's second access has to
    wait for the next run, which begins with an empty one.
    """
    accesses = job.accesses
    page = accesses.va >> _BLOCK_PAGES
    group = (
        (job.lent << np.uint8(4))
        | ((accesses.cpl == 3).astype(np.uint8) << np.uint8(3))
        | (accesses.ac.astype(np.uint8) << np.uint8(2))
        | accesses.type
    )
    order = np.lexsort((page, group))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (np.diff(page[order]) != 0) | (np.diff(group[order]) != 0)
    starts = np.flatnonzero(fresh)
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    by_run = np.lexsort((order, turn, group[order]))
    order, turn = order[by_run], turn[by_run]
    bounds = np.flatnonzero((np.diff(group[order]) != 0) | (np.diff(turn) != 0)) + 1
    return [
        rows[at : at + CAPACITY]
        for rows in np.split(order, bounds)
        for at in range(0, len(rows), CAPACITY)
    ]
