"""Tables grown path by path, with what every entry is meant to be noted beside it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.fuzz.generate.frame_allocator import Places
from crosswalk.emu.fuzz.generate.path_plan import LEVELS, PS, RW, US, XD, Draft, P
from crosswalk.emu.fuzz.target import End
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import U64, WORDS

__all__ = ["MAX_TABLES", "Grown", "grow"]

MAX_TABLES = 192

TABLE = 4
"""An entry that leads on; the other values are those of `End`."""
WILD = 5
"""An entry that leads to some table, of whatever level: nothing is meant behind it."""

_TARGETS_SHARE = 0.7
"""How often the path of a target goes through a table that is there already."""

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
    placing.place(draft)
    _follow(chance, draft, placing.loops)
    grown = Grown(
        places.tables,
        np.zeros((MAX_TABLES, WORDS), np.uint64),
        np.zeros((MAX_TABLES, WORDS), np.uint8),
        np.full((MAX_TABLES, WORDS), -1, np.int8),
        np.zeros((MAX_TABLES, WORDS), np.uint64),
        placing.step,
        placing.count,
    )
    _write_tables(grown, context, draft, np.array(placing.leads, np.intp).reshape(-1, 5))
    _write_ends(grown, places, context, draft, np.array(placing.ends, np.intp).reshape(-1, 3))
    return grown


class _Placing:
    """Finds each path its entries, level by level. An entry is numbered row * 512 + index.

    `leads` are (entry, path, level, child's row, kind) of those that lead on, `ends` (entry,
    path, level) of the others; `loops` the (path, level) of recursive slots.
    """

    def __init__(self, chance: np.random.Generator, context: PagingContext, draft: Draft) -> None:
        shape = (len(draft), LEVELS)
        self.step = np.full(shape, -1, np.int64)
        self.count = 1
        self.leads: list[tuple[int, int, int, int, int]] = []
        self.ends: list[tuple[int, int, int]] = []
        self.loops: list[tuple[int, int]] = []
        self._levels = context.levels
        self._targets = len(draft.targets)
        self._share = float(chance.choice([0.0, 0.1, 0.25]))
        self._wild = float(chance.choice([0.0, 0.0, 0.05, 0.15]))
        self._loop = float(chance.choice([0.0, 0.05, 0.2]))
        self._draws: NDArray[np.float64] = chance.random(shape)
        self._picks: NDArray[np.int64] = chance.integers(0, 1 << 30, shape)

    def place(self, draft: Draft) -> None:
        """Find all paths their entries, from the root down to where each ends."""
        going = np.arange(len(draft))
        row = np.zeros(len(draft), np.int64)
        for level in range(self._levels, 0, -1):
            at = row * WORDS + draft.index[going, level]
            # What a target asks for is its own, whoever else has entries in the same table.
            targets = int(np.searchsorted(going, self._targets))
            at[:targets] = _fresh(at[:targets].tolist())
            self.step[going, level] = at
            entry, first, which = np.unique(at, return_index=True, return_inverse=True)
            owner = going[first]
            child = np.full(len(entry), -1)
            last = (draft.level[owner] == level) | (level == 1)
            ends = (entry[last], owner[last], np.full(int(last.sum()), level))
            self.ends += zip(*(column.tolist() for column in ends), strict=True)
            # In the order of the paths, as each may take the tables that are there already.
            leads = np.flatnonzero(~last)
            leads = leads[np.argsort(owner[leads])]
            child[leads] = self._lead(level, entry[leads].tolist(), owner[leads].tolist())
            on = child[which] >= 0
            going, row = going[on], child[which][on]

    def _lead(self, level: int, entries: list[int], owners: list[int]) -> list[int]:
        """Give new entries of one level a table each; -1 where what is behind has no meaning."""
        below: list[int] = []
        children = []
        # Each level has as many as it can without taking what the levels below it need.
        most = 1 + (MAX_TABLES - 1) * (self._levels + 1 - level) // (self._levels - 1)
        draws = self._draws[owners, level].tolist()
        picks = self._picks[owners, level].tolist()
        for at, path, draw, pick in zip(entries, owners, draws, picks, strict=True):
            own = path < self._targets
            wild = draw < self._wild
            if not own and (wild or draw > 1 - self._loop):
                # A recursive slot leads to its own table.
                row = pick % self.count if wild else at // WORDS
                self.leads.append((at, path, level, row, WILD))
                children.append(-1)
                if not wild:
                    self.loops.append((path, level))
                continue
            shared = _TARGETS_SHARE if own else self._wild + self._share
            if below and (self.count >= most or draw < shared):
                child = below[pick % len(below)]
            else:
                child = self.count
                self.count += 1
                below.append(child)
            children.append(child)
            self.leads.append((at, path, level, child, TABLE))
        return children


def _follow(chance: np.random.Generator, draft: Draft, loops: list[tuple[int, int]]) -> None:
    """Lead the paths into recursive slots on as such slots are used: along another path.

    Or by the same slot again, down to the table itself.
    """
    for (path, level), draw, other in zip(
        loops, chance.random(len(loops)), chance.integers(0, len(draft), len(loops)), strict=True
    ):
        index = draft.index
        if draw < _AGAIN:
            index[path, 1:level] = index[path, level]
        else:
            index[path, 1:level] = index[other, 2 : level + 1]


_AGAIN = 0.5


def _fresh(wanted: list[int]) -> list[int]:
    """Return an entry of the wanted table for each target, its own as long as there are any."""
    used: set[int] = set()
    found = []
    for at in wanted:
        if at in used:
            table = at - at % WORDS
            others = (table + (at + by) % WORDS for by in range(1, WORDS))
            at = next((other for other in others if other not in used), at)  # noqa: PLW2901  # the same, moved
        used.add(at)
        found.append(at)
    return found


def _grants(flags: U64) -> NDArray[np.uint8]:
    grants = np.where((flags & RW) != 0, _WRITE, 0) | np.where((flags & US) != 0, _USER, 0)
    return (grants | np.where((flags & XD) == 0, _EXECUTE, 0)).astype(np.uint8)


def _write_tables(
    grown: Grown, context: PagingContext, draft: Draft, leads: NDArray[np.intp]
) -> None:
    at, path, level, child, kind = leads.T
    # What leads beyond MAXPHYADDR ends the walk there.
    beyond = grown.frames[child] >> np.uint64(context.maxphyaddr) != 0
    kind = np.where(beyond, np.intp(End.RESERVED), kind)
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
    table = np.where(table >> np.uint64(context.maxphyaddr) != 0, grown.frames[0], table)
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
