"""A selection of combinations in which each pair of values of two dimensions comes up.

For machines that are too slow for all of them. Whatever depends on two bits, two switches, or one
of each with one kind of access, is in it; what takes three to come about may not be.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_VALUE", "covering"]

NO_VALUE = -1
"""Where a dimension means nothing: a bit of an entry that the walk doesn't come to."""

_TRIED = 64
"""Combinations of which the one with the most new pairs is taken."""

_Values = NDArray[np.int16]


def covering(parts: Sequence[_Values], seed: int) -> list[tuple[int, ...]]:
    """Return combinations, a row of each part, that have each pair of values that there is.

    A part is int16[n, d]: n rows with a value of each of d dimensions, from 0 up, or `NO_VALUE`.
    All rows of one part go with all rows of another. The combinations are sorted, each there once.
    Same parts, same seed: the same combinations.
    """
    if not all(len(part) for part in parts):
        return []
    having = [_having(part) for part in parts]
    starts = np.cumsum([0, *(each.shape[1] for each in having)]).tolist()
    wanted = _pairs(having)
    chance = np.random.default_rng(seed)
    chosen = set()
    while wanted.any():
        pair = np.unravel_index(int(wanted.argmax()), wanted.shape)
        some, numbers = np.zeros((_TRIED, len(wanted)), np.float32), []
        for at, each in enumerate(having):
            own = [int(value) - starts[at] for value in pair]
            own = [value for value in own if 0 <= value < each.shape[1]]
            rows = np.flatnonzero(each[:, own].all(axis=1))
            numbers.append(rows[chance.integers(0, len(rows), _TRIED)])
            some[:, starts[at] : starts[at + 1]] = each[numbers[-1]]
        best = int(((some @ wanted.astype(np.float32)) * some).sum(axis=1).argmax())
        chosen.add(tuple(int(rows[best]) for rows in numbers))
        values = some[best] != 0
        wanted[np.ix_(values, values)] = False
    return sorted(chosen)


def _having(part: _Values) -> NDArray[np.bool_]:
    """Return bool[n, v]: which of the values that come up each row has, dimension by dimension."""
    columns = []
    for values in part.T:
        there = np.unique(values[values != NO_VALUE])
        columns.append(values[:, None] == there[None, :])
    return np.concatenate([np.zeros((len(part), 0), np.bool_), *columns], axis=1)


def _pairs(having: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return bool[v, v]: which two values there are together; with itself, each value."""
    blocks = []
    for at, each in enumerate(having):
        row = [
            np.ones((each.shape[1], other.shape[1]), np.bool_) if at != beside else _within(each)
            for beside, other in enumerate(having)
        ]
        blocks.append(np.concatenate(row, axis=1))
    return np.concatenate(blocks, axis=0)


def _within(having: NDArray[np.bool_]) -> NDArray[np.bool_]:
    counts = having.astype(np.float32)
    found: NDArray[np.bool_] = counts.T @ counts > 0
    return found
