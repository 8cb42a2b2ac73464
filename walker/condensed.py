"""An address space in at most so many rows: its ranges, the busiest parts of it folded.

For pictures and overviews, which can't hold 2^36 lines. What is left out is counted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.chosen import chosen_pages
from crosswalk.walker.columns import Rows
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.frames import Frames, count_mappings
from crosswalk.walker.leaves import Tables, canonical, expand, root_table
from crosswalk.walker.mappings import IGNORED
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import rights_table
from crosswalk.walker.states import BLOCK, distinct_states, expand_states, keys_of

__all__ = [
    "LISTED",
    "Condensed",
    "Folding",
    "Form",
    "condensed",
    "condensed_frames",
]

LISTED = 1 << 25
"""The most mappings that are looked at one by one; of more, repeated tables are folded whole."""

_OPENED = 1 << 22
"""The most rows that are made of an address space whose mappings aren't listed."""
_NO_SHIFT = np.uint8(0)
_STEPS = (256, 64, 16, 4, 1)
_SPANS = (21, 30, 39, 48)


class Form(IntEnum):
    """What a row is."""

    RANGE = 0
    """Neighbours whose frames follow each other, too."""
    REPEAT = 1
    """Neighbours that all map the same frame."""
    STRIDE = 2
    """Equal pages that all map the same frame, at equal distances, with nothing between them."""
    FOLDED = 3
    """Mappings of any frames, with gaps between them or without, that have the same rights."""
    MIXED = 4
    """The same, with differing rights."""


@dataclass(frozen=True, slots=True)
class Condensed(Rows):
    """n rows in address order, each of `count` mappings that lie in `size` bytes from `va`.

    `va`, `size`, `count`, `mapped` (bytes), `pa`, `pa_end`, `flags` uint64[n]; `rights`, `shift`,
    `form` uint8[n]. The frames are in [`pa`, `pa_end`), and are all of that but for folded rows.
    `flags` are the first mapping's, 0 of a folded row; `rights` those of all mappings together;
    `shift` says how large each page is, 0 where that differs.
    """

    va: U64
    size: U64
    count: U64
    mapped: U64
    pa: U64
    pa_end: U64
    flags: U64
    rights: NDArray[np.uint8]
    shift: NDArray[np.uint8]
    form: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.va)


class Folding(NamedTuple):
    """How an address space was folded: `rows` of them stand for `mappings`.

    `span` is how many bytes of addresses the largest of them has, 0 where nothing was folded.
    """

    rows: int
    mappings: int
    span: int


@dataclass(frozen=True, slots=True)
class _Keyed(Condensed):
    """Rows with what neighbours that are to be one row have in common, `key` uint64[n]."""

    key: U64


_BEFORE = tuple(name for name in Condensed.__slots__)


def condensed(
    memory: PhysicalMemory,
    context: PagingContext,
    most: int,
    *,
    blocks: Iterable[Pages] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Condensed, Folding]:
    """Return the mappings of an address space in at most `most` rows, and how they were folded.

    Neighbours that are equal in rights, size and flags (but for A and D) are one row where their
    frames follow each other or are the same. If those are too many rows, the aligned 2 MiB with
    the most of them are folded to a row each, then more; if that isn't enough, 1 GiB and so on.

    An address space of more than `LISTED` mappings isn't listed: tables that are reached in many
    ways are folded first, each time that they are reached, so that time and memory are bounded
    by the tables. With `blocks` those mappings, given in address order, are folded instead of all:
    `LimitExceeded` for more than `LISTED`. `progress` is called with how many mappings are done,
    of how many.
    """
    if blocks is not None:
        return _gathered((_rows(each) for each in _limited(blocks)), most)
    total = sum(count_mappings(memory, context).values())
    if total > LISTED:
        return _gathered([_opened(memory, context)], most)
    ((_, every),) = chosen_pages(memory, [context], None)
    listed = _counted(every, total, progress)
    return _gathered((_rows(each) for each in listed), most)


def _limited(blocks: Iterable[Pages]) -> Iterator[Pages]:
    done = 0
    for each in blocks:
        done += len(each)
        if done > LISTED:
            raise LimitExceeded(f"more than {LISTED:,} mappings are chosen: choose fewer")
        yield each


def condensed_frames(frames: Frames, most: int) -> tuple[Condensed, Folding]:
    """Return collective rights in at most `most` rows: `va` and `pa` are a range's address."""
    count = len(frames)
    words, bits = np.zeros(count, np.uint64), np.zeros(count, np.uint8)
    start, size = frames.start, frames.size
    one = np.ones(count, np.uint64)
    rows = _Keyed(
        start, size, one, size, start, start + size, words, frames.rights, bits, bits, words
    )
    return _gathered([rows], most)


def _counted(
    blocks: Iterable[Pages], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Pages]:
    done = 0
    for each in blocks:
        yield each
        done += len(each)
        if progress is not None:
            progress(done, total)


def _rows(each: Pages) -> _Keyed:
    count = len(each)
    size = each.size
    return _Keyed(
        each.va,
        size,
        np.ones(count, np.uint64),
        size,
        each.pa,
        each.pa + size,
        each.flags,
        each.rights,
        each.shift,
        np.zeros(count, np.uint8),
        each.flags & np.uint64(~IGNORED & (1 << 64) - 1),
    )


def _none() -> _Keyed:
    words, bits = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
    return _rows(Pages(words, words, words, bits, bits))


def _gathered(blocks: Iterable[_Keyed], most: int) -> tuple[Condensed, Folding]:
    """Return rows that come in address order, joined, and folded as far as `most` asks."""
    kept: list[_Keyed] = []
    held, steps = 0, _Steps(most)
    for block in blocks:
        kept.append(_strided(_joined(block)))
        held += len(kept[-1])
        # Twice as many are held before anything is folded, so that this is seldom done.
        if held > 2 * most:
            kept = [steps.fold(_Keyed.join(kept))]
            held = len(kept[0])
    rows = steps.fold(_Keyed.join(kept)) if kept else _none()
    folded = rows.form >= Form.FOLDED
    number = int(folded.sum())
    span = 0
    if number:
        span = int(rows.size[folded].max())
    folding = Folding(number, int(rows.count[folded].sum()), span)
    return Condensed(*(getattr(rows, name) for name in _BEFORE)), folding


class _Steps:
    """Folds rows until they are few enough, and what comes later as far as that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._done: list[tuple[int, int]] = []
        self._left = [(span, step) for span in reversed(_SPANS) for step in reversed(_STEPS)]

    def fold(self, rows: _Keyed) -> _Keyed:
        """Return at most so many rows, or as few as there can be."""
        rows = _strided(_joined(rows))
        for step in self._done:
            rows = _folded(rows, *step)
        while len(rows) > self._most and self._left:
            self._done.append(self._left.pop())
            rows = _folded(rows, *self._done[-1])
        return rows


def _joined(rows: _Keyed) -> _Keyed:
    """Return rows with equal neighbours made one."""
    if len(rows) < 2:
        return rows
    one, other = rows.take(slice(-1)), rows.take(slice(1, None))
    alike = other.va == one.va + one.size
    alike &= (other.key == one.key) & (other.rights == one.rights) & (other.shift == one.shift)
    ranges = (one.form == Form.RANGE) & (other.form == Form.RANGE) & (other.pa == one.pa_end)
    repeats = (other.pa == one.pa) & (other.pa_end == one.pa_end)
    for each in one, other:
        repeats &= (each.form == Form.REPEAT) | (each.form == Form.RANGE) & (each.count == 1)
    folded = (one.form >= Form.FOLDED) & (other.form == one.form) & (one.key != 0)
    link = np.where(alike, ranges * np.uint8(1) + repeats * np.uint8(2) + folded * np.uint8(4), 0)
    # Where the frames stop following each other and repeat from there on, a row ends.
    turns = np.zeros(len(link), np.bool_)
    turns[1:] = (link[1:] != link[:-1]) & (link[:-1] != 0)
    link[turns] = 0
    first = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(link == 0) + 1])
    if len(first) == len(rows):
        return rows
    last = np.append(first[1:], len(rows)) - 1
    form = rows.form[first]
    form[(last > first) & (link.take(first, mode="clip") == 2)] = Form.REPEAT
    return _merged(rows, first, last, form)


def _strided(rows: _Keyed) -> _Keyed:
    """Return rows with pages of one frame at equal distances made one: three or more of them."""
    if len(rows) < 3:
        return rows
    one, other = rows.take(slice(-1)), rows.take(slice(1, None))
    alike = (other.pa == one.pa) & (other.pa_end == one.pa_end) & (other.size == one.size)
    alike &= (other.key == one.key) & (other.rights == one.rights)
    for each in one, other:
        alike &= (each.form == Form.RANGE) & (each.count == 1)
    apart = other.va - one.va
    # Two distances that are equal, of pages that are.
    goes_on = alike[1:] & alike[:-1] & (apart[1:] == apart[:-1])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], goes_on, [False]]).astype(np.int8)))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return rows
    fresh = np.ones(len(rows), np.bool_)
    within = np.zeros(len(rows) + 2, np.int64)
    # Runs may touch in a page where the distance changes; it stays with the first of them.
    begins, ends = runs[:, 0], runs[:, 1] + 1
    begins[1:] += begins[1:] <= ends[:-1]
    longer = ends - begins >= 2
    np.add.at(within, begins[longer] + 1, 1)
    np.add.at(within, ends[longer] + 1, -1)
    fresh[np.cumsum(within)[: len(rows)] > 0] = False
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(rows)) - 1
    form = np.where(last > first, Form.STRIDE, rows.form[first]).astype(np.uint8)
    return _merged(rows, first, last, form)


def _merged(
    rows: _Keyed, first: NDArray[np.intp], last: NDArray[np.intp], form: NDArray[np.uint8]
) -> _Keyed:
    """Return one row of each run of rows, from `first` to `last`."""
    return _Keyed(
        rows.va[first],
        rows.va[last] + rows.size[last] - rows.va[first],
        np.add.reduceat(rows.count, first),
        np.add.reduceat(rows.mapped, first),
        np.minimum.reduceat(rows.pa, first),
        np.maximum.reduceat(rows.pa_end, first),
        rows.flags[first],
        np.bitwise_or.reduceat(rows.rights, first),
        rows.shift[first],
        form,
        rows.key[first],
    )


def _folded(rows: _Keyed, span: int, most: int) -> _Keyed:
    """Return rows with those in one aligned part folded to one, where they are more than `most`."""
    part = rows.va >> np.uint64(span)
    inside = (rows.va + (rows.size - np.uint64(1))) >> np.uint64(span) == part
    fresh = np.ones(len(rows), np.bool_)
    fresh[1:] = (part[1:] != part[:-1]) | ~inside[1:] | ~inside[:-1]
    first = np.flatnonzero(fresh)
    many = np.diff(np.append(first, len(rows))) > most
    # Rows of parts with few rows stay as they are.
    fresh |= ~np.repeat(many, np.diff(np.append(first, len(rows))))
    first = np.flatnonzero(fresh)
    if len(first) == len(rows):
        return rows
    last = np.append(first[1:], len(rows)) - 1
    several = last > first
    same_rights = np.bitwise_and.reduceat(rows.rights, first) == np.bitwise_or.reduceat(
        rows.rights, first
    )
    mixed = np.maximum.reduceat(rows.form, first) == Form.MIXED
    form = np.where(
        several, np.where(same_rights & ~mixed, Form.FOLDED, Form.MIXED), rows.form[first]
    ).astype(np.uint8)
    merged = _merged(rows, first, last, form)
    same_shift = np.minimum.reduceat(rows.shift, first) == np.maximum.reduceat(rows.shift, first)
    merged.shift[several & ~same_shift] = _NO_SHIFT
    merged.flags[several] = 0
    merged.key[several] = 0
    return merged


@dataclass(frozen=True, slots=True)
class _Level:
    """The states of the tables of one level, by ascending `key`, and what lies below each.

    `ways` as in `StateBlock`; the rest as in `Condensed`, with `some`, the rights that all of the
    mappings have, and the least and the largest shift. `leaves` and `edges` are numbers of rows:
    those that entries make that are leaves, by the bucket of their table's ways, and those that
    entries make that lead to a table, by the buckets of both.
    """

    key: U64
    ways: U64
    count: U64
    mapped: U64
    pa: U64
    pa_end: U64
    rights: NDArray[np.uint8]
    some: NDArray[np.uint8]
    least: NDArray[np.uint8]
    largest: NDArray[np.uint8]
    leaves: NDArray[np.float64]
    edges: NDArray[np.float64]

    @classmethod
    def empty(cls, keys: U64, ways: U64) -> Self:
        """Return these states before anything is known of what lies below them."""
        count = len(keys)
        return cls(
            keys,
            ways,
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint64),
            np.full(count, (1 << 64) - 1, np.uint64),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint8),
            np.full(count, 255, np.uint8),
            np.full(count, 255, np.uint8),
            np.zeros(count, np.uint8),
            np.zeros(_BUCKETS),
            np.zeros((_BUCKETS, _BUCKETS)),
        )

    def add(self, parent: NDArray[np.intp], found: Sequence[NDArray[Any]]) -> None:
        """Add to states what is found below them: the columns `count` to `largest`."""
        for join, column, values in zip(_JOINS, self._columns, found, strict=True):
            join(column, parent, values)

    def found(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
        """Return these columns of some states."""
        return tuple(column[rows] for column in self._columns)

    @property
    def _columns(self) -> tuple[NDArray[Any], ...]:
        words = (self.count, self.mapped, self.pa, self.pa_end)
        return (*words, self.rights, self.some, self.least, self.largest)

    def rows_of(self, keys: U64) -> NDArray[np.intp]:
        """Return where these states are."""
        return np.searchsorted(self.key, keys)


_BUCKETS = 18


def _bucket(ways: U64) -> NDArray[np.intp]:
    """Return the power of two that these numbers of ways need, 17 for all of more than 2^16."""
    power = np.ceil(np.log2(ways.astype(np.float64))).astype(np.intp)
    return np.minimum(power, _BUCKETS - 1)


def _levels(memory: PhysicalMemory, context: PagingContext) -> dict[int, _Level]:
    """Return all states by level, each visited twice."""
    parts: dict[int, list[tuple[U64, U64]]] = {}
    for block in distinct_states(memory, context):
        parts.setdefault(block.level, []).append((block.key, block.ways))
    none = np.zeros(0, np.uint64)
    levels: dict[int, _Level] = {}
    for number in range(1, context.levels + 1):
        each = [(none, none), *parts.get(number, [])]
        keys, ways = (np.concatenate(column) for column in zip(*each, strict=True))
        levels[number] = _level(memory, context, number, keys, ways, levels.get(number - 1))
    return levels


def _level(
    memory: PhysicalMemory,
    context: PagingContext,
    number: int,
    keys: U64,
    ways: U64,
    below: _Level | None,
) -> _Level:
    """Return one level; `below` is the next lower one."""
    level = _Level.empty(keys, ways)
    rights = rights_table(context)
    buckets = _bucket(ways)
    for at in range(0, len(keys), BLOCK):
        held = expand_states(memory, context, number, keys[at : at + BLOCK])
        leaves, parent = held.leaves, held.leaf_parent + at
        pa, size, one = leaves.pa, leaves.size, np.ones(len(leaves), np.uint64)
        granted = rights.take(leaves.grant)
        level.add(parent, (one, size, pa, pa + size, granted, granted, leaves.shift, leaves.shift))
        np.add.at(level.leaves, buckets[parent], ways[parent].astype(np.float64))
        if below is None:
            continue
        parent, child = held.child_parent + at, below.rows_of(keys_of(held.children))
        level.add(parent, below.found(child))
        edge = buckets[parent], _bucket(below.ways[child])
        np.add.at(level.edges, edge, ways[parent].astype(np.float64))
    return level


_JOINS = (
    np.add.at,
    np.add.at,
    np.minimum.at,
    np.maximum.at,
    np.bitwise_or.at,
    np.bitwise_and.at,
    np.minimum.at,
    np.maximum.at,
)


def _limits(levels: dict[int, _Level]) -> tuple[int, int]:
    """Return in how many ways a table may be reached, as a bucket, and above which level it is.

    To be opened, and not to be a row for each way; so that no more than `_OPENED` rows are made.
    """
    top = max(levels)
    for lowest in range(top):
        for power in range(_BUCKETS - 2, -1, -1):
            rows = 0.0
            for number in range(max(lowest, 0) + 1, top + 1):
                each = levels[number]
                rows += each.leaves[: power + 1].sum()
                closed = 0 if number - 1 <= lowest else power + 1
                rows += each.edges[: power + 1, closed:].sum()
            if rows <= _OPENED:
                return power, lowest
    raise AssertionError("the root alone has more entries than that")


def _opened(memory: PhysicalMemory, context: PagingContext) -> _Keyed:
    """Return an address space of any number of mappings as rows, in address order."""
    levels = _levels(memory, context)
    power, lowest = _limits(levels)
    rights = rights_table(context)
    tables = root_table(context)
    parts: list[_Keyed] = []
    for number in range(context.levels, 0, -1):
        lower = [tables.take(slice(0))]
        for at in range(0, len(tables), BLOCK):
            held = expand(memory, context, number, tables.take(slice(at, at + BLOCK)))
            it = held.leaves
            parts.append(_rows(Pages(it.va, it.pa, it.flags, rights.take(it.grant), it.shift)))
            if number == 1:
                continue
            below = levels[number - 1]
            at_below = below.rows_of(keys_of(held.children))
            closed = (_bucket(below.ways[at_below]) > power) | (number - 1 <= lowest)
            span = level_of(context, number).span
            parts.append(_closed(held.children.va[closed], below, at_below[closed], span))
            lower.append(held.children.take(~closed))
        tables = Tables.join(lower)
    rows = _Keyed.join(parts)
    rows = rows.take(np.argsort(rows.va, kind="stable"))
    return replace(rows, va=canonical(context, rows.va))


def _closed(va: U64, level: _Level, at: NDArray[np.intp], span: int) -> _Keyed:
    """Return a row for each of these tables that maps anything; `span` is what it translates."""
    some = level.count[at] > 0
    va, at = va[some], at[some]
    same = level.least[at] == level.largest[at]
    page = np.uint64(1) << level.least[at].astype(np.uint64)
    one = same & (level.pa_end[at] - level.pa[at] == page) & (level.mapped[at] == span)
    form = np.where(level.some[at] == level.rights[at], Form.FOLDED, Form.MIXED)
    form = np.where(one & (form == Form.FOLDED), Form.REPEAT, form).astype(np.uint8)
    return _Keyed(
        va,
        np.full(len(va), span, np.uint64),
        level.count[at],
        level.mapped[at],
        level.pa[at],
        level.pa_end[at],
        np.zeros(len(va), np.uint64),
        level.rights[at],
        np.where(same, level.least[at], _NO_SHIFT),
        form,
        # Of one frame, what other repeats have; else the state, which is no flag of a leaf.
        np.where(form == Form.REPEAT, np.uint64(0), level.key[at] | np.uint64(1)),
    )
