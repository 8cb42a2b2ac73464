"""What changed in ranges of an address space since an earlier point of a boot."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from crosswalk.walker.compare import Aspect, Change, Changes, compare_pages
from crosswalk.walker.context import PagingContext
from crosswalk.walker.expectations.search import Span
from crosswalk.walker.leaves import table_frames
from crosswalk.walker.mappings import Range
from crosswalk.walker.memory import FRAME, PhysicalMemory, SparseWords
from crosswalk.walker.pages import Pages, pages
from crosswalk.walker.rights import Rights

__all__ = ["ChangedRange", "Differences", "Snapshot", "differences", "take_snapshot"]

MOST = 10_000_000
"""How many mappings of either side are compared."""
_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An address space at a point of a boot: its tables, and the context to read them in."""

    memory: PhysicalMemory
    context: PagingContext


class ChangedRange(NamedTuple):
    """A range that something else is mapped to, and what became of it, in words.

    `range` is what is mapped there now, or was, where that is gone; it counts as one mapping.
    """

    range: Range
    what: str


class Differences(NamedTuple):
    """How many bytes are mapped otherwise than before, by what became of them; the first ranges."""

    sizes: dict[str, int]
    ranges: tuple[ChangedRange, ...]


def take_snapshot(memory: PhysicalMemory, context: PagingContext) -> Snapshot:
    """Return a copy of the tables of an address space, which goes on to change."""
    frames = table_frames(memory, context)
    tables = memory.tables(frames).copy()
    return Snapshot(SparseWords.of_tables(memory.ranges, frames, tables), context)


def differences(before: Snapshot, after: Snapshot, spans: Sequence[Span]) -> Differences | None:
    """Return what is mapped otherwise in these ranges: to other frames, or with other rights.

    None where more than ten million mappings would have to be compared. Of the ranges that differ
    the first 100,000 are kept.
    """
    sizes: Counter[str] = Counter()
    found: list[ChangedRange] = []
    try:
        for span in spans:
            window = span[0] & -FRAME, -(-span[1] // FRAME) * FRAME
            sides = [_limited(pages(it.memory, it.context, *window)) for it in (before, after)]
            blocks = compare_pages(
                *sides, counted=Aspect.FRAME | Aspect.RIGHTS, windows=(window, window)
            )
            for rows in blocks:
                for each in _changed(rows):
                    sizes[each.what.partition(",")[0]] += each.range.size
                    if len(found) < _KEPT:
                        found.append(each)
    except _TooManyError:
        return None
    return Differences(dict(sizes), tuple(found))


class _TooManyError(Exception):
    """More mappings than are compared."""


def _limited(blocks: Iterator[Pages]) -> Iterator[Pages]:
    total = 0
    for block in blocks:
        total += len(block)
        if total > MOST:
            raise _TooManyError
        yield block


def _changed(rows: Changes) -> Iterator[ChangedRange]:
    old = (rows.old_pa, rows.old_flags, rows.old_rights)
    new = (rows.new_pa, rows.new_flags, rows.new_rights)
    columns = (rows.va, rows.size, rows.kind, rows.aspects, *old, *new)
    for va, size, kind, aspects, *sides in zip(*(it.tolist() for it in columns), strict=True):
        if kind == Change.RESIZED:
            continue
        (pa, flags, rights), (now, now_flags, now_rights) = sides[:3], sides[3:]
        if kind == Change.REMOVED:
            yield ChangedRange(Range(va, pa, size, flags, Rights(rights), 1), "gone")
            continue
        what = "new"
        if kind == Change.CHANGED:
            was = [f"{Rights(rights).supervisor} {Rights(rights).user}"] * bool(
                aspects & Aspect.RIGHTS
            )
            was += [f"{pa:#x}"] * bool(aspects & Aspect.FRAME)
            what = f"changed, was {' at '.join(was)}"
        yield ChangedRange(Range(va, now, size, now_flags, Rights(now_rights), 1), what)
