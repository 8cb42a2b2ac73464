"""Cells: the texts of many rows at once, as matrices of bytes, and lines put together of them.

A text that is shorter than the cell of its column is filled up with NULs, which no text has, and
which are left out when lines are put together. A line costs a few array operations this way, not
calls of its own.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.memory import U64

__all__ = [
    "Cell",
    "Texts",
    "encoded",
    "hexadecimal",
    "joined",
    "lengths",
    "padded_hexadecimal",
    "spaces",
]

Cell = bytes | NDArray[np.uint8]
"""A text that all rows have, or those of n rows, uint8[n, width]."""

_PIECE = 1 << 16
"""Four hexadecimal digits are looked up at once."""
_DISTINCT = 1 << 16


def _digits() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the four digits of each number of 16 bits, as one word each; in three ways.

    With leading zeros; then all that without them, and that with the zero of 0.
    """
    numbers = np.arange(_PIECE)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    whole = np.stack([digits[numbers >> shift & 15] for shift in (12, 8, 4, 0)], axis=1)
    bare = whole * (numbers[:, None] >= np.array([1 << 12, 1 << 8, 1 << 4, 1]))
    last = whole * (numbers[:, None] >= np.array([1 << 12, 1 << 8, 1 << 4, 0]))
    words = [each.astype(np.uint8).view(np.uint32).reshape(-1) for each in (whole, bare, last)]
    return words[0], np.concatenate(words)


_WHOLE, _LEADING = _digits()


def padded_hexadecimal(values: U64, digits: int) -> NDArray[np.uint8]:
    """Return n numbers with so many hexadecimal digits, up to 16, uint8[n, digits]."""
    found = np.empty((len(values), 4), np.uint32)
    for at in range(-(-digits // 4)):
        piece = values >> np.uint64(16 * at) & np.uint64(_PIECE - 1)
        found[:, 3 - at] = _WHOLE.take(piece.view(np.intp))
    return found.view(np.uint8)[:, 16 - digits :]


def hexadecimal(values: U64) -> NDArray[np.uint8]:
    """Return n numbers in hexadecimal, without leading zeros, uint8[n, 16]."""
    found = np.empty((len(values), 4), np.uint32)
    for at in range(4):
        shift = 48 - 16 * at
        piece = values >> np.uint64(shift) & np.uint64(_PIECE - 1)
        leads = values < np.uint64(1) << np.uint64(shift + 16) if at else np.True_
        piece += leads * np.uint64(_PIECE * (2 if at == 3 else 1))
        found[:, at] = _LEADING.take(piece.view(np.intp))
    return found.view(np.uint8)


def spaces(counts: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return so many spaces for each of n rows, uint8[n, the most of them]."""
    most = int(counts.max(initial=0))
    table = np.tri(most + 1, most, -1, np.uint8) * np.uint8(ord(" "))
    found: NDArray[np.uint8] = table.take(counts, axis=0)
    return found


def lengths(cell: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return how many bytes of each row are text, intp[n]."""
    found: NDArray[np.intp] = np.count_nonzero(cell, axis=1)
    return found


def joined(cells: Sequence[Cell], count: int) -> NDArray[np.uint8]:
    """Return the bytes of `count` lines, each of its part of all cells, one after the other."""
    widths = [len(cell) if isinstance(cell, bytes) else cell.shape[1] for cell in cells]
    found = np.empty((count, sum(widths)), np.uint8)
    at = 0
    for cell, width in zip(cells, widths, strict=True):
        place = found[:, at : at + width]
        place[:] = np.frombuffer(cell, np.uint8) if isinstance(cell, bytes) else cell
        at += width
    flat = found.reshape(-1)
    text: NDArray[np.uint8] = flat[flat != 0]
    return text


class Texts:
    """The texts of numbers, each made once, when it is first needed.

    Those of numbers up to a few ten thousand are kept; there may be any number of others.
    """

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text = text
        self._codes = np.full(0, -1, np.intp)
        self._texts: list[str] = []
        self._table = encoded([])

    def cell(self, numbers: U64 | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the texts of n numbers, uint8[n, width]."""
        if not len(numbers):
            return self._table[:0]
        most = int(numbers.max())
        if most >= _DISTINCT:
            values, rows = np.unique(numbers, return_inverse=True)
            table = encoded([self._text(each) for each in values.tolist()])
            return table[rows]
        if most >= len(self._codes):
            codes = np.full(min(2 * most + 2, _DISTINCT), -1, np.intp)
            codes[: len(self._codes)] = self._codes
            self._codes = codes
        index = numbers.astype(np.intp)
        codes = self._codes.take(index)
        if codes.min() < 0:
            for number in np.unique(numbers[codes < 0]).tolist():
                self._codes[number] = len(self._texts)
                self._texts.append(self._text(number))
            self._table = encoded(self._texts)
            codes = self._codes.take(index)
        return self._table.take(codes, axis=0)


def encoded(texts: Sequence[str], encoding: str = "utf-8") -> NDArray[np.uint8]:
    """Return texts as the rows of a matrix; what `encoding` has no character for is escaped."""
    rows = [text.encode(encoding, "backslashreplace") for text in texts]
    width = max(map(len, rows), default=0)
    if not width:
        return np.zeros((len(rows), 0), np.uint8)
    return np.array(rows, f"S{width}").view(np.uint8).reshape(len(rows), width)
