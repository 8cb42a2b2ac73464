"""Which words accesses changed: computed here, and by the walker for itself."""

import numpy as np

from crosswalk.emu.probe.paths import MAX_LEVELS
from crosswalk.walker.memory import U64

__all__ = ["changed_words"]


def changed_words(pa: U64, before: U64, after: U64) -> tuple[U64, U64]:
    """Return (address, value) uint64[n, 5] of the words that n accesses changed.

    In ascending order of their addresses, zeros behind. `pa`, `before` and `after` are
    uint64[n, k]: words that each access may have changed, and their values. Where one appears more
    than once, because it was used on two levels or has two entries, it has the bits of all.
    """
    address, value = (np.zeros((len(pa), MAX_LEVELS), np.uint64) for _ in range(2))
    row, place = np.nonzero(before != after)
    if not len(row):
        return address, value
    words, values = pa[row, place], after[row, place]
    order = np.lexsort((words, row))
    row, words, values = row[order], words[order], values[order]
    fresh = np.ones(len(row), np.bool_)
    fresh[1:] = (row[1:] != row[:-1]) | (words[1:] != words[:-1])
    starts = np.flatnonzero(fresh)
    row, words = row[starts], words[starts]
    first = np.searchsorted(row, row)
    column = np.arange(len(row)) - first
    address[row, column] = words
    value[row, column] = np.bitwise_or.reduceat(values, starts)
    return address, value
