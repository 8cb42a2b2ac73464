"""Tables grown path by path, with what every entry is meant to be noted beside it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.fuzz.generate.draft import LEVELS, PS, RW, US, XD, Draft, P
from emu.fuzz.generate.places import Places
from emu.fuzz.goal import End
from walker.context import PagingContext
from walker.memory import U64, WORDS

__all__ = ["MAX_TABLES", "Grown", "grow"]

MAX_TABLES = 192

TABLE = 4
"""An entry that leads on; the other values are those of `End`."""
WILD = 5
"""An entry that leads to some table, of whatever level: nothing is meant behind it."""

_WRITE, _USER, _EXECUTE = 1, 2, 4


@dataclass(slots=True)
class Grown:
    """t tables: their `frames` uint64[t] and `words` uint64[t, 512], the root first.

    Beside the words, of the same shape: `grant`, what an entry was meant to let through (1
    write, 2 user, 4 execute); `kind`, `End`, TABLE or WILD, and -1 where there is no entry. For
    each of n paths `step` int64[n, 6] is the entry used at a level, as row * 512 + index, -1 for
    none; `leaf_pa` uint64[t, 512] is where a leaf leads.
    """

    frames: U64
    words: U64
    grant: NDArray[np.uint8]
    kind: NDArray[np.int8]
    leaf_pa: U64
    step: NDArray[np.int64]
    count: int


def grow(chance: np.random.Generator, context: PagingContext, draft: Draft) -> Grown:
    """Give every path its entries; where two meet, the first one's count."""
    places = Places(chance, context, MAX_TABLES)
    placing = _Placing(chance, context, draft)
    for path in range(len(draft)):
        placing.place(path)
    grown = Grown(
        places.tables,
        np.zeros((MAX_TABLES, WORDS), np.uint64),
        np.zeros((MAX_TABLES, WORDS), np.uint8),
        np.full((MAX_TABLES, WORDS), -1, np.int8),
        np.zeros((MAX_TABLES, WORDS), np.uint64),
        placing.step,
        placing.count,
    )
    _write_tables(grown, draft, np.array(placing.leads, np.intp).reshape(-1, 5))
    _write_ends(grown, places, context, draft, np.array(placing.ends, np.intp).reshape(-1, 3))
    return grown


class _Placing:
    """Finds each path its entries. An entry is numbered row * 512 + index.

    `leads` are (entry, path, level, child's row, kind) of those that lead on, `ends` (entry,
    path, level) of the others.
    """

    def __init__(self, chance: np.random.Generator, context: PagingContext, draft: Draft) -> None:
        count = len(draft)
        self.step = np.full((count, LEVELS), -1, np.int64)
        self.count = 1
        self.leads: list[tuple[int, int, int, int, int]] = []
        self.ends: list[tuple[int, int, int]] = []
        self._levels = context.levels
        self._index: list[list[int]] = draft.index.tolist()
        self._last: list[int] = draft.level.tolist()
        self._goals = len(draft.goals)
        self._share = float(chance.choice([0.0, 0.1, 0.25]))
        self._wild = float(chance.choice([0.0, 0.0, 0.05, 0.15]))
        self._draws: list[list[float]] = chance.random((count, LEVELS)).tolist()
        self._picks: list[list[int]] = chance.integers(0, 1 << 30, (count, LEVELS)).tolist()
        # The tables of each level; where each entry leads, -1 for one that ends a path.
        self._tables: dict[int, list[int]] = {level: [] for level in range(LEVELS)}
        self._child: dict[int, int] = {}

    def place(self, path: int) -> None:
        """Find one path its entries, from the root down to where it ends."""
        row = 0
        for level in range(self._levels, 0, -1):
            at = row * WORDS + self._index[path][level]
            if path < self._goals and level == self._levels:
                at = self._fresh(at)
            self.step[path, level] = at
            child = self._child.get(at)
            if child is None:
                child = self._new(path, level, at)
            if child < 0:
                break
            row = child

    def _new(self, path: int, level: int, at: int) -> int:
        """Make an entry; return the row that it leads to, or -1 where the path ends."""
        if level in (self._last[path], 1):
            self._child[at] = -1
            self.ends.append((at, path, level))
            return -1
        below = self._tables[level - 1]
        draw, pick = self._draws[path][level], self._picks[path][level]
        own = path < self._goals
        if draw < self._wild and not own:
            self._child[at] = -1
            self.leads.append((at, path, level, pick % self.count, WILD))
            return -1
        full = self.count == MAX_TABLES
        if below and (full or (draw < self._wild + self._share and not own)):
            child = below[pick % len(below)]
        elif full:
            self.step[path, level] = self._child[at] = -1
            return -1
        else:
            child = self.count
            self.count += 1
            below.append(child)
        self._child[at] = child
        self.leads.append((at, path, level, child, TABLE))
        return child

    def _fresh(self, at: int) -> int:
        """Return an entry of the root that nothing uses: what a goal asks for is its own."""
        return next(
            (
                other
                for offset in range(WORDS)
                if (other := (at + offset) % WORDS) not in self._child
            ),
            at,
        )


def _grants(flags: U64) -> NDArray[np.uint8]:
    grants = np.where((flags & RW) != 0, _WRITE, 0) | np.where((flags & US) != 0, _USER, 0)
    return (grants | np.where((flags & XD) == 0, _EXECUTE, 0)).astype(np.uint8)


def _write_tables(grown: Grown, draft: Draft, leads: NDArray[np.intp]) -> None:
    at, path, level, child, kind = leads.T
    flags = draft.flags[path, level]
    grown.words.reshape(-1)[at] = flags | P | grown.frames[child]
    grown.grant.reshape(-1)[at] = _grants(flags)
    grown.kind.reshape(-1)[at] = kind


def _write_ends(
    grown: Grown, places: Places, context: PagingContext, draft: Draft, ends: NDArray[np.intp]
) -> None:
    at, path, level = ends.T
    flags, end = draft.flags[path, level], draft.end[path].astype(np.int8)
    broken = draft.broken[path].astype(np.int64)
    # What was drawn for a level that others' entries lead past is a page instead.
    moved = (level != draft.level[path]) & ((end == End.OUTSIDE) | (end == End.RESERVED))
    end[moved] = End.LEAF
    bit = np.where(end == End.RESERVED, np.uint64(1) << np.maximum(broken, 0).astype(np.uint64), 0)
    low = (end == End.RESERVED) & (broken >= 13) & (broken < 30)
    large = ((level == 2) | (level == 3)) & ((end == End.LEAF) | low | (path % 2 == 0))
    leaf = large | (level == 1)
    page = places.pages(np.where(large, level, 1), grown.frames[: grown.count])
    table = grown.frames[path % grown.count]
    word = flags | P | bit.astype(np.uint64) | np.where(leaf, page, table)
    word |= np.where(large, PS, np.uint64(0))
    word |= np.where(large & (path % 3 == 0), np.uint64(1 << 12), np.uint64(0))
    outside = end == End.OUTSIDE
    word[outside] = flags[outside] | P | places.outside(int(outside.sum()))
    absent = end == End.ABSENT
    word[absent] = places.junk(flags[absent])
    # Without pages of 1 GiB, what was to be one is an entry with a reserved bit.
    end[(end == End.LEAF) & (level == 3) & (not context.page1gb)] = End.RESERVED
    grown.words.reshape(-1)[at] = word
    grown.grant.reshape(-1)[at] = _grants(flags)
    grown.kind.reshape(-1)[at] = end
    grown.leaf_pa.reshape(-1)[at] = page
