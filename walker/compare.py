"""Two address spaces compared: which linear addresses map something else, as ranges.

Both are read in address order, block by block, and laid over each other: what counts is what an
address translates to, and not into how many pages that is cut. So are the collective rights of
two memories.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows, distinct
from crosswalk.walker.frames import Frames
from crosswalk.walker.leaves import TOP
from crosswalk.walker.mappings import IGNORED, compared_flags
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.pages import Pages
from crosswalk.walker.repeats import Runs

__all__ = [
    "COUNTED",
    "EVERYTHING",
    "Aspect",
    "Change",
    "Changes",
    "PageChanges",
    "Stretches",
    "Window",
    "compare_frames",
    "compare_pages",
    "match_pages",
]

Stretches = tuple[U64, U64]
"""First addresses and sizes in bytes of some disjoint stretches, ascending."""

Window = tuple[int, int]
"""Linear addresses [start, end), multiples of 4096."""

EVERYTHING = (0, TOP)

Region = Callable[[U64], NDArray[np.int64]]
"""What numbers the region that each of n addresses lies in, int64[n]."""

U8 = NDArray[np.uint8]


class Change(IntEnum):
    """What became of a range: the kind of a row of `Changes`."""

    ADDED = 0
    REMOVED = 1
    CHANGED = 2
    RESIZED = 3
    """The same translation with the same rights and flags, in pages of another size."""
    UNKNOWN = 4
    """Mapped on one side, and the other side's memory lacks the tables for it."""


class Aspect(IntFlag):
    """In what two mappings of one address differ."""

    FRAME = 1
    RIGHTS = 2
    FLAGS = 4
    SIZE = 8


COUNTED = Aspect.FRAME | Aspect.RIGHTS | Aspect.FLAGS
"""What counts as a change by default: not the size of pages."""


@dataclass(frozen=True, slots=True)
class Changes(Rows):
    """n ranges that differ: `va`, `size` uint64[n] in bytes, ascending.

    Disjoint, but where `stride` uint64[n] isn't 0: then `count` uint64[n] pieces, one every so many
    bytes from `va`, are mapped alike on both sides, each to the same frames; `size` is from the
    first to the end of the last, and other ranges may lie in between. Else `count` is 1.

    `kind` uint8[n] (`Change`); `aspects` uint8[n] (`Aspect`; 0 unless both sides map the range).
    What is mapped there before and after, of the first byte: `old_pa`, `old_flags` uint64[n],
    `old_rights`, `old_shift` uint8[n] (its page has 1 << shift bytes), and the same as `new_…`; all
    0 on a side that maps nothing there. All pages of a range are alike but for what was ignored.
    """

    va: U64
    size: U64
    kind: U8
    aspects: U8
    old_pa: U64
    old_flags: U64
    old_rights: U8
    old_shift: U8
    new_pa: U64
    new_flags: U64
    new_rights: U8
    new_shift: U8
    count: U64
    stride: U64

    def __len__(self) -> int:
        return len(self.va)

    @property
    def piece(self) -> U64:
        """The bytes of each of the pieces of a range, uint64[n]: all of it, if it has one."""
        return self.size - (self.count - np.uint64(1)) * self.stride


@dataclass(frozen=True, slots=True)
class PageChanges:
    """Pages of two lists by their first addresses: rows of either that have no equal.

    `gone` are rows of the first, whose address begins no page in the second; `new` the converse;
    `was` and `now`, of equal length, are the rows of both where another page begins. All intp[n].
    """

    gone: NDArray[np.intp]
    new: NDArray[np.intp]
    was: NDArray[np.intp]
    now: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Side(Rows):
    """Rows of one side: [start, end) in pages of 4 KiB, whose last end is 2^52 and fits.

    `pa` is that of the first byte, `key` the flags that are compared. Where `stride` isn't 0, the
    row is a run: the page at `pa` again and again, every so many bytes, without gaps.
    """

    start: U64
    end: U64
    pa: U64
    flags: U64
    key: U64
    rights: U8
    shift: U8
    stride: U64

    def __len__(self) -> int:
        return len(self.start)

    def pa_at(self, start: U64) -> U64:
        """Return the physical address of each row at a page in it."""
        away = start - self.start << _UNIT
        run = self.stride != 0
        if run.any():
            away[run] %= self.stride[run]
        return self.pa + away


_UNIT = np.uint64(FRAME.bit_length() - 1)


def compare_pages(
    before: Iterable[Pages],
    after: Iterable[Pages],
    *,
    ignore: int = IGNORED,
    counted: Aspect = COUNTED,
    lost: tuple[Iterable[Stretches], Iterable[Stretches]] = ((), ()),
    windows: tuple[Window, Window] = (EVERYTHING, EVERYTHING),
    region: Region | None = None,
) -> Iterator[Changes]:
    """Yield the ranges that map something else in `after` than in `before`, block by block.

    Both give disjoint pages in address order, or runs of one page (`pages_and_runs`). Flags in
    `ignore` don't count, nor P and PS; PAT does wherever the size of the page puts it. Of the rest
    counts what `counted` names; where only the size of pages differs and isn't among it, a range
    is RESIZED and no change. Neighbours fold into one range where they are alike on both sides
    and, if FRAME counts, physical addresses go on, or repeat at equal distances. What is a run on
    one side and no run on the other is told as changed, but for its first page if that is as it
    was.

    `lost` are the stretches of either side whose tables can't be read: what the other side maps
    there is UNKNOWN. Of each side only what lies in its window counts, and the windows are laid
    over each other by their starts; `va` is the address in the first. A range doesn't go on from
    one `region` into another. Memory is bounded by the blocks.
    """
    sides = [_sides(each, ignore) for each in (before, after)]
    sides += [(_stretches(*each) for each in blocks) for blocks in lost]
    to = windows[0][0] >> int(_UNIT)
    sides = [_within(each, windows[at % 2], to) for at, each in enumerate(sides)]
    folded = _folded(_compared(sides, counted), counted, region)
    return map(_public, _repeated(folded, counted, region))


def compare_frames(before: Frames, after: Frames) -> Iterator[Changes]:
    """Yield the physical ranges whose collective rights differ; `va` is the physical address.

    Of what is mapped on a side only the rights have a meaning.
    """
    sides = [iter([_stretches(it.start, it.size, it.rights)]) for it in (before, after)]
    compared = _compared([*sides, iter(()), iter(())], Aspect.RIGHTS)
    return map(_public, _folded(compared, Aspect.RIGHTS))


def match_pages(before: Pages, after: Pages, *, ignore: int = IGNORED) -> PageChanges:
    """Return which pages of two lists in address order, of any number, differ, page by page.

    By address, size, frame, rights and all flags but those in `ignore`.
    """
    _, was, now = np.intersect1d(before.va, after.va, assume_unique=True, return_indices=True)
    same = np.ones(len(was), np.bool_)
    for name in ("pa", "shift", "rights"):
        same &= getattr(before, name)[was] == getattr(after, name)[now]
    use = np.uint64(~ignore & (1 << 64) - 1)
    same &= before.flags[was] & use == after.flags[now] & use
    gone = np.setdiff1d(np.arange(len(before)), was, assume_unique=True)
    new = np.setdiff1d(np.arange(len(after)), now, assume_unique=True)
    return PageChanges(gone, new, was[~same], now[~same])


def _sides(blocks: Iterable[Pages], ignore: int) -> Iterator[_Side]:
    for pages in blocks:
        start, size = pages.va >> _UNIT, pages.size
        stride = np.zeros(len(pages), np.uint64)
        end = start + (size >> _UNIT)
        if isinstance(pages, Runs):
            end = start + (size >> _UNIT) * pages.count
            stride = np.where(pages.count > 1, size, stride)
        key = compared_flags(pages, ignore)
        yield _Side(start, end, pages.pa, pages.flags, key, pages.rights, pages.shift, stride)


def _stretches(start: U64, size: U64, rights: U8 | None = None) -> _Side:
    """Return rows of what is no page: only their rights have a meaning, if they have any."""
    first, none = start >> _UNIT, np.zeros(len(start), np.uint64)
    few = none.astype(np.uint8)
    rights = few if rights is None else rights
    return _Side(first, first + (size >> _UNIT), start, none, none, rights, few, none)


def _within(blocks: Iterable[_Side], window: Window, to: int) -> Iterator[_Side]:
    """Yield what lies in a window, cut where it crosses an end, as if that began at page `to`."""
    first, last = (np.uint64(each >> int(_UNIT)) for each in window)
    for rows in blocks:
        inside = rows.take((rows.end > first) & (rows.start < last))
        start, end = np.maximum(inside.start, first), np.minimum(inside.end, last)
        pa = inside.pa_at(start)
        # Modulo 2^64, so that it may move either way.
        away = np.uint64(to - int(first) & (1 << 64) - 1)
        yield replace(inside, start=start + away, end=end + away, pa=pa)


class _Stream:
    """Rows of one side as they come, cut off where all sides are known."""

    def __init__(self, blocks: Iterator[_Side]) -> None:
        self._blocks = blocks
        self._rows: _Side | None = None

    def reach(self) -> int | None:
        """Return how far the rows are known that weren't taken; None if there are no more."""
        while self._rows is None or not len(self._rows):
            self._rows = next(self._blocks, None)
            if self._rows is None:
                return None
        return int(self._rows.end[-1])

    def take(self, horizon: int) -> _Side:
        """Return the rows before a horizon, and keep the others; one that crosses it is cut."""
        if self._rows is None:
            return _NONE
        rows, at = self._rows, np.uint64(horizon)
        first = int(np.searchsorted(rows.start, at))
        taken, self._rows = rows.take(slice(first)), rows.take(slice(first, None))
        if len(taken) and taken.end[-1] > at:
            rest = taken.take(slice(-1, None))
            begin = np.array([at])
            rest = replace(rest, start=begin, pa=rest.pa_at(begin))
            self._rows = _Side.join([rest, self._rows])
            taken = replace(taken, end=np.minimum(taken.end, at))
        return taken


_NONE = _stretches(np.zeros(0, np.uint64), np.zeros(0, np.uint64))


@dataclass(frozen=True, slots=True)
class _Rows(Changes):
    """Changes with the flags by which neighbours are compared, `old_key`, `new_key` uint64[n]."""

    old_key: U64
    new_key: U64


def _compared(sides: list[Iterator[_Side]], counted: Aspect) -> Iterator[_Rows]:
    """Yield what differs, in address order, not yet folded."""
    streams = [_Stream(each) for each in sides]
    while reached := [end for end in (each.reach() for each in streams) if end is not None]:
        rows = [each.take(min(reached)) for each in streams]
        rows[:2] = _unequal(rows[0], rows[1], counted)
        if any(map(len, rows[:2])):
            found = _differences(rows, counted)
            if len(found):
                yield found


def _unequal(old: _Side, new: _Side, counted: Aspect) -> list[_Side]:
    """Return both sides without the rows that are the same on both, of which most are."""
    if not len(old) or not len(new):
        return [old, new]
    at = np.searchsorted(new.start, old.start)
    at[at == len(new)] = 0
    names = ["start", "end", "shift", "key", "rights"] + (
        ["pa", "stride"] if counted & Aspect.FRAME else []
    )
    same = np.ones(len(old), np.bool_)
    for name in names:
        same &= getattr(old, name) == getattr(new, name)[at]
    other = np.ones(len(new), np.bool_)
    other[at[same]] = False
    return [old.take(~same), new.take(other)]


def _differences(sides: list[_Side], counted: Aspect) -> _Rows:
    """Return what differs between two sides, of which the last two are what they lack."""
    # The first page of a run may be as it was, and all others not.
    runs = [s.start + (s.stride >> _UNIT) for s in sides[:2]]
    edges = distinct(np.concatenate([*(e for s in sides for e in (s.start, s.end)), *runs]))
    start, size = edges[:-1], np.diff(edges) << _UNIT
    rows = [_row_at(each, start) for each in sides]
    old, new = (_at(each, row, start) for each, row in zip(sides[:2], rows[:2], strict=True))
    was, now, was_lost, now_lost = (each >= 0 for each in rows)
    both = was & now
    stride, apart = _strides(old, new, both, size, counted)
    aspects = np.zeros(len(start), np.uint8)
    for aspect, name in _COMPARED:
        differ = getattr(old, name) != getattr(new, name)
        differ |= apart if aspect is Aspect.FRAME else np.False_
        aspects |= np.where(both & differ, np.uint8(aspect), np.uint8(0))
    resized = both & (aspects & np.uint8(counted | Aspect.SIZE) == Aspect.SIZE)
    aspects = np.where(resized, np.uint8(Aspect.SIZE), aspects & np.uint8(counted))
    kind = np.full(len(start), Change.CHANGED, np.uint8)
    kind[~was] = Change.ADDED
    kind[~now] = Change.REMOVED
    kind[(was & now_lost) | (now & was_lost)] = Change.UNKNOWN
    if not counted & Aspect.SIZE:
        kind[resized] = Change.RESIZED
    some = (was | now) & ~(both & (aspects == 0))
    return _Rows(
        start << _UNIT,
        size,
        kind,
        aspects,
        *(old.pa, old.flags, old.rights, old.shift),
        *(new.pa, new.flags, new.rights, new.shift),
        *(np.where(stride > 0, size // np.maximum(stride, np.uint64(1)), np.uint64(1)), stride),
        old.key,
        new.key,
    ).take(some)


def _strides(
    old: _Side, new: _Side, both: NDArray[np.bool_], size: U64, counted: Aspect
) -> tuple[U64, NDArray[np.bool_]]:
    """Return the strides of what differs, and where one side is a run and the other is none.

    A page of a run alone is a page like any other, and where frames don't count nothing is a run.
    """
    zero = np.uint64(0)
    if not counted & Aspect.FRAME or not (old.stride.any() or new.stride.any()):
        return np.zeros(len(size), np.uint64), np.zeros(len(size), np.bool_)
    was, now = (np.where(side.stride < size, side.stride, zero) for side in (old, new))
    apart = both & (was != now)
    stride = np.where(apart, zero, np.maximum(was, now))
    some = stride > 0
    stride[some & (size % np.maximum(stride, np.uint64(1)) > 0)] = zero
    return stride, apart


_COMPARED = (
    (Aspect.FRAME, "pa"),
    (Aspect.RIGHTS, "rights"),
    (Aspect.FLAGS, "key"),
    (Aspect.SIZE, "shift"),
)


def _row_at(side: _Side, start: U64) -> NDArray[np.intp]:
    """Return which row of a side each of these addresses is in, -1 for none."""
    if not len(side):
        return np.full(len(start), -1, np.intp)
    row = np.searchsorted(side.start, start, "right") - 1
    row[(row >= 0) & (start >= side.end[row])] = -1
    return row


def _at(side: _Side, row: NDArray[np.intp], start: U64) -> _Side:
    """Return the rows of a side with what is at these addresses in them; zeros for row -1."""
    nothing = row < 0
    if not len(side):
        side, row = _ABSENT, np.zeros(len(row), np.intp)
    found = side.take(row)
    found = replace(found, pa=found.pa_at(start))
    for field in fields(found):
        getattr(found, field.name)[nothing] = 0
    return found


_ABSENT = _stretches(np.zeros(1, np.uint64), np.zeros(1, np.uint64))


def _folded(
    blocks: Iterable[_Rows], counted: Aspect, region: Region | None = None
) -> Iterator[_Rows]:
    """Yield rows in address order with neighbours that are alike folded, block by block."""
    last: _Rows | None = None
    for block in blocks:
        rows = block if last is None else _Rows.join([last, block])
        rows = _fold(rows, counted, region)
        if len(rows) > 1:
            yield rows.take(slice(-1))
        last = rows.take(slice(-1, None))
    if last is not None:
        yield last


def _fold(rows: _Rows, counted: Aspect, region: Region | None) -> _Rows:
    end, following = rows.take(slice(-1)), rows.take(slice(1, None))
    names = ["kind", "aspects", "old_key", "new_key", "old_rights", "new_rights"]
    names += ["old_shift", "new_shift"] if counted & Aspect.SIZE else []
    apart = (following.va != end.va + end.size) | (end.stride != 0) | (following.stride != 0)
    for name in names:
        apart |= getattr(following, name) != getattr(end, name)
    if region is not None:
        apart |= np.diff(region(rows.va)) != 0
    for side in ("old", "new"):
        mapped = getattr(following, f"{side}_shift") != 0
        apart |= mapped != (getattr(end, f"{side}_shift") != 0)
        if counted & Aspect.FRAME:
            goes_on = getattr(end, f"{side}_pa") + end.size
            apart |= mapped & (getattr(following, f"{side}_pa") != goes_on)
    first = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(apart) + 1])
    if len(first) == len(rows):
        return rows
    size = np.add.reduceat(rows.size, first)
    columns = {f.name: getattr(rows, f.name)[first] for f in fields(rows)}
    return _Rows(**columns | {"size": size})


def _repeated(blocks: Iterable[_Rows], counted: Aspect, region: Region | None) -> Iterator[_Rows]:
    """Yield folded rows with repeats as one row, block by block: three or more at equal distances.

    Alike in all but their addresses, as the many mappings of one frame that a kernel makes. What
    could be the last of one such row and the first of another is the last of one.
    """
    held: _Rows | None = None
    for block in blocks:
        rows = _repeats(block if held is None else _Rows.join([held, block]), counted, region)
        # Two rows, or one of repeats, may yet be the beginning of what goes on in the next block.
        cut = max(len(rows) - 2, 0)
        if cut:
            yield rows.take(slice(cut))
        held = rows.take(slice(cut, None))
    if held is not None:
        yield held


def _repeats(rows: _Rows, counted: Aspect, region: Region | None) -> _Rows:
    if len(rows) < 2:
        return rows
    end, following = rows.take(slice(-1)), rows.take(slice(1, None))
    names = ["kind", "aspects", "piece", "old_key", "new_key"]
    names += [f"{side}_{name}" for side in ("old", "new") for name in ("rights", "shift")]
    names += ["old_pa", "new_pa"] if counted & Aspect.FRAME else []
    distance = following.va - end.va - (end.count - np.uint64(1)) * end.stride
    goes_on = (end.stride == 0) | (end.stride == distance)
    goes_on &= (following.stride == 0) | (following.stride == distance)
    for name in names:
        goes_on &= getattr(following, name) == getattr(end, name)
    if region is not None:
        goes_on &= np.diff(region(rows.va)) == 0
    # Pairs of neighbours at one distance, one after the other, are a run: its first pair, its last.
    chained = goes_on[1:] & goes_on[:-1] & (distance[1:] == distance[:-1])
    first = np.flatnonzero(np.concatenate([[True], ~chained]) & goes_on)
    last = np.flatnonzero(np.concatenate([~chained, [True]]) & goes_on)
    long = (last > first) | (rows.stride[first] != 0) | (rows.stride[first + 1] != 0)
    runs, free = [], 0
    for begin, stop in zip(first[long].tolist(), last[long].tolist(), strict=True):
        start = max(begin, free)
        if stop > start or (stop == start and rows.stride[start : start + 2].any()):
            runs.append((start, stop + 1))
            free = stop + 2
    if not runs:
        return rows
    begins, ends = np.array(runs, np.intp).T
    inside = np.zeros(len(rows) + 1, np.int8)
    inside[begins + 1] += 1
    inside[ends + 1] -= 1
    size, count, stride = rows.size.copy(), rows.count.copy(), rows.stride.copy()
    size[begins] = rows.va[ends] + rows.size[ends] - rows.va[begins]
    total = np.concatenate([[np.uint64(0)], np.cumsum(rows.count)])
    count[begins] = total[ends + 1] - total[begins]
    stride[begins] = distance[begins]
    return replace(rows, size=size, count=count, stride=stride).take(np.cumsum(inside[:-1]) == 0)


def _public(rows: _Rows) -> Changes:
    return Changes(*(getattr(rows, f.name) for f in fields(Changes)))
