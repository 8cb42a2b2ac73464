"""Frames that could be tables, by their own words alone, whatever the system.

Of a table, the present entries make sense: tables refer to memory, pages to memory or to where a
device may be. Most frames fail at the few words that are looked at first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS, Entry
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.memory import FRAME, U64, WORDS, PhysicalMemory, release
from crosswalk.walker.roots.passes import Progress

__all__ = [
    "MOST",
    "PAGE_DIRECTORY",
    "PAGE_TABLE",
    "POINTERS",
    "UPPER",
    "Form",
    "Places",
    "Sieved",
    "blocks",
    "first_lines",
    "given_back",
    "sieve",
    "spans_of",
]

PAGE_TABLE, PAGE_DIRECTORY, POINTERS, UPPER = 1, 2, 4, 8
"""What a frame could be: a PT, a PD, a PDPT, a table of a level that has no pages."""

MOST = 1 << 20
"""The most frames that are taken for tables: 4 GiB of them."""

_BLOCK = 512
"""How many frames are read at once: 2 MiB."""
_LINES = np.array([0, 21, 42, 63])
"""Of a frame's 64 lines of 8 words, those that are looked at first."""
_DEVICES = 46
"""Bits of an address where a page may be without memory, if MAXPHYADDR isn't known."""


@dataclass(frozen=True, slots=True)
class Form:
    """What bits of an entry mean in the memory that is searched.

    `mask` is the encryption mask, `maxphyaddr` in bits, None where it isn't known, `xd` says
    whether XD may be set.
    """

    mask: int = 0
    maxphyaddr: int | None = None
    xd: bool = True

    @property
    def field(self) -> int:
        """The bits of an entry that are an address."""
        return ADDRESS_FIELD & ~self.mask

    @property
    def beyond(self) -> int:
        """The bits of an entry that aren't set in one that maps a page without memory."""
        width = _DEVICES if self.maxphyaddr is None else self.maxphyaddr
        return self.field & -1 << width

    @property
    def reserved(self) -> int:
        """The bits of an entry that are set in none."""
        above = 0 if self.maxphyaddr is None else self.field & -1 << self.maxphyaddr
        return above | (0 if self.xd else Entry.XD)


class Sieved:
    """Frames that could be tables, and those without any present entry.

    `frames` uint64[n], ascending, have present entries; `kinds` uint8[n] says what each could be.
    """

    def __init__(self, frames: U64, kinds: NDArray[np.uint8], empty: "Places") -> None:
        self.frames, self.kinds = frames, kinds
        self._empty = empty

    def of_kind(self, kind: int) -> U64:
        """Return the frames that could be of this kind, ascending."""
        found: U64 = self.frames[(self.kinds & kind) != 0]
        return found

    def places_of(self, frames: U64) -> "Places":
        """Return these frames, which are in memory, as a set."""
        found = self._empty.none_of_them()
        found.put(frames, np.ones(len(frames), np.bool_))
        return found

    def empty(self, frames: U64) -> NDArray[np.bool_]:
        """Return of each frame whether it is in memory and has no present entry."""
        return self._empty.has(frames)


class Places:
    """A set of frames in memory, a bit for each frame that there is."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._first = np.array([first for first, _ in spans], np.uint64)
        self._end = np.array([end for _, end in spans], np.uint64)
        lengths = (self._end - self._first) // np.uint64(FRAME)
        self._offset = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths)])
        self._held = np.zeros(int(self._offset[-1]), np.bool_)

    def none_of_them(self) -> "Places":
        """Return an empty set of frames in the same memory."""
        found = Places([])
        found._first, found._end, found._offset = self._first, self._end, self._offset
        found._held = np.zeros(len(self._held), np.bool_)
        return found

    def put(self, frames: U64, held: NDArray[np.bool_]) -> None:
        """Say of frames that are in memory whether they are in the set."""
        self._held[self._index(frames)[1]] = held

    def has(self, frames: U64) -> NDArray[np.bool_]:
        """Return of each frame whether it is in memory and in the set."""
        inside, index = self._index(frames)
        found = np.zeros(len(frames), np.bool_)
        found[inside] = self._held[index]
        return found

    def _index(self, frames: U64) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        if not len(self._first):
            return np.zeros(len(frames), np.bool_), np.zeros(0, np.intp)
        at = np.searchsorted(self._first, frames, side="right").astype(np.intp) - 1
        inside = (at >= 0) & (frames < self._end[np.maximum(at, 0)])
        at = at[inside]
        place = (frames[inside] - self._first[at]) // np.uint64(FRAME) + self._offset[at]
        return inside, place.astype(np.intp)


def sieve(memory: PhysicalMemory, form: Form, progress: Progress | None = None) -> Sieved:
    """Return the frames of a memory that could be tables.

    A block is read at a time; a byte for each frame of memory is kept. `progress` is told how many
    frames of how many were read. Raises `LimitExceeded` where more than `MOST` could be tables.
    """
    spans = spans_of(memory)
    total, done, count = sum(end - first for first, end in spans) // FRAME, 0, 0
    empty = Places(spans)
    parts: list[tuple[U64, NDArray[np.uint8]]] = []
    for frames in blocks(memory, spans):
        words = memory.tables(frames)
        present = (np.bitwise_or.reduce(words, axis=1) & np.uint64(Entry.P)) != 0
        empty.put(frames, ~present)
        rows = np.flatnonzero(present)
        rows = rows[_first_look(words, rows, form)]
        if len(rows):
            kinds = _kinds(memory, words[rows], form)
            some = np.flatnonzero(kinds)
            parts.append((frames[rows[some]], kinds[some]))
            count += len(some)
        if count > MOST:
            raise LimitExceeded(
                f"more than {MOST:,} frames could be tables: too many to find the roots among"
            )
        done += len(frames)
        if progress is not None:
            progress("frames searched for tables", done, total)
    found = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else None
    if found is None:
        return Sieved(np.zeros(0, np.uint64), np.zeros(0, np.uint8), empty)
    return Sieved(found[0], found[1], empty)


def spans_of(memory: PhysicalMemory) -> list[tuple[int, int]]:
    """Return the ranges [start, end) of whole frames in memory, ascending."""
    spans = [
        (-(-start // FRAME) * FRAME, (start + size) // FRAME * FRAME)
        for start, size in memory.ranges
    ]
    return [(first, end) for first, end in spans if first < end]


def blocks(memory: PhysicalMemory, spans: list[tuple[int, int]]) -> Iterator[U64]:
    """Yield the addresses of all frames, a block at a time, which needn't stay in memory then."""
    parts: list[U64] = []
    room = _BLOCK
    for first, end in spans:
        at = first
        while at < end:
            last = min(at + room * FRAME, end)
            parts.append(np.arange(at, last, FRAME, dtype=np.uint64))
            room -= len(parts[-1])
            at = last
            if not room:
                yield from _released(memory, parts)
                parts, room = [], _BLOCK
    if parts:
        yield from _released(memory, parts)


def _released(memory: PhysicalMemory, parts: Sequence[U64]) -> Iterator[U64]:
    frames = np.concatenate(parts)
    yield frames
    given_back(memory, frames)


def given_back(memory: PhysicalMemory, frames: U64) -> None:
    """Have a memory give back the pages from the first to the last of frames, ascending."""
    if len(frames):
        first = int(frames[0])
        release(memory, first, int(frames[-1]) + FRAME - first)


def first_lines(words: U64, rows: NDArray[np.intp]) -> U64:
    """Return a few lines of each of these rows of frames, uint64[n, 32]."""
    lines = words.reshape(len(words), WORDS // 8, 8)[rows[:, None], _LINES]
    found: U64 = lines.reshape(len(rows), 8 * len(_LINES))
    return found


def _first_look(words: U64, rows: NDArray[np.intp], form: Form) -> NDArray[np.bool_]:
    """Return which of these frames have no more senseless entries than others in a few lines."""
    lines = first_lines(words, rows)
    present = (lines & np.uint64(Entry.P)) != 0
    bad = present & ((lines & np.uint64(form.beyond | form.reserved)) != 0)
    found: NDArray[np.bool_] = 2 * bad.sum(axis=1) <= present.sum(axis=1)
    return found


def _kinds(memory: PhysicalMemory, words: U64, form: Form) -> NDArray[np.uint8]:
    """Return what each of n frames, uint64[n, 512], could be."""
    flat = words.reshape(-1)
    at = np.flatnonzero(flat & np.uint64(Entry.P))
    entry, row = flat[at], at // WORDS
    good = (entry & np.uint64(form.reserved)) == 0
    here = memory.backed(entry & np.uint64(form.field))
    page = good & (here | ((entry & np.uint64(form.beyond)) == 0))
    large = (entry & np.uint64(Entry.PS)) != 0
    # Small numbers, of which memory is full, would refer to the first frame: no table lies there.
    table = good & here & ~large & ((entry & np.uint64(form.field)) != 0)
    count = len(words)

    def fit(some: NDArray[np.bool_]) -> NDArray[np.intp]:
        return np.bincount(row[some], minlength=count)

    present = np.bincount(row, minlength=count)
    kinds = np.zeros(count, np.uint8)
    # Pages may lie anywhere, so that most numbers could be one: nearly all have to make sense.
    kinds[8 * (present - fit(page)) <= present] |= PAGE_TABLE
    # Of tables more may be missing, as where an image lacks the memory above a hole.
    for kind, level in ((PAGE_DIRECTORY, 2), (POINTERS, 3), (UPPER, None)):
        fits = table
        if level is not None:
            below = (LEVELS[level].span - 1) & form.field & ~Entry.PAT_LARGE
            fits = table | (page & large & ((entry & np.uint64(below)) == 0))
        kinds[2 * fit(fits) >= present] |= np.uint8(kind)
    return kinds
