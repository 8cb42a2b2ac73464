"""Which slots of a root are lent to the runner, so that no access of a run comes across them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.probe.paths import PagingFormat
from crosswalk.walker.memory import U64

__all__ = ["Loan", "Use", "choose_loans", "use_of"]

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Loan:
    """The slots of the root lent for a run: one for the runner's own pages, one for its user page.

    Outside IA-32e mode they are the same slot.
    """

    alias: int
    user: int


@dataclass(frozen=True, slots=True)
class Use:
    """Which row uses which slot of the root, uint64 columns of one length: pairs, in any order."""

    row: Rows
    slot: Rows


def use_of(form: PagingFormat, root: int, entries: U64, targets: U64) -> Use:
    """Return the slots that n accesses use: as entries of their walks, and as data.

    `entries` uint64[n, k] are the addresses of entries; `targets` uint64[n, m] those of the 8-byte
    words reached. A word of 32-bit paging holds two entries, and is looked at as a whole: the other
    one is used with it.
    """
    per_word = 8 // form.entry_bytes
    words = np.concatenate([entries & ~np.uint64(7), targets], axis=1)
    parts = [words + np.uint64(form.entry_bytes * at) for at in range(per_word)]
    pa = np.concatenate(parts, axis=1)
    first, size = np.uint64(root), np.uint64(form.root_bytes)
    row, place = np.nonzero((pa >= first) & (pa - first < size))
    slot = (pa[row, place] - first) // np.uint64(form.entry_bytes)
    return Use(row, slot.astype(np.intp))


def choose_loans(
    form: PagingFormat, held: U64, use: Use, count: int, most: int = 8
) -> Iterator[tuple[Loan, Rows]]:
    """Yield slots to lend, and the rows, of `count`, that they may be lent for.

    `held` uint64[s] are the entries of the root: empty ones are taken first. Rows that come across
    every choice, of at most `most`, are in none.
    """
    slots = len(held)
    halves = (range(slots // 2, slots), range(slots // 2)) if form.bits == 64 else (range(slots),)
    left = np.ones(count, np.bool_)
    for _ in range(most):
        open_ = left[use.row]
        uses = np.bincount(use.slot[open_], minlength=slots)
        # Few uses first, then empty entries, then the last slots: what images hardly use.
        order = np.lexsort((-np.arange(slots), held != 0, uses))
        chosen = [next(slot for slot in order.tolist() if slot in half) for half in halves]
        hindered = np.zeros(count, np.bool_)
        hindered[use.row[np.isin(use.slot, chosen)]] = True
        rows = np.flatnonzero(left & ~hindered)
        if not len(rows):
            return
        yield Loan(chosen[0], chosen[-1]), rows
        left[rows] = False
        if not left.any():
            return
