"""Names in `compare`: what ranges that differ are called, and regions that were moved."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.cli.names import name_columns
from crosswalk.emu.report.changes import ChangeColumn
from crosswalk.emu.report.listings import Coded
from crosswalk.emu.report.text import rights_text, size_text
from crosswalk.walker.compare import Change, Changes, Window
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.mappings import Ranges
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.pages import Pages
from crosswalk.walker.repeats import Runs
from crosswalk.walker.rights import Rights
from crosswalk.walker.symbols import Names

__all__ = ["RegionTotals", "common_regions", "name_cells", "region_numbers", "whole_pages"]


def name_cells(
    rows: Changes, context: PagingContext, names: tuple[Names, Names], *, records: bool = False
) -> list[ChangeColumn]:
    """Return the columns of names: what each range is called in A, or where it was added in B.

    With `records` those of records, which have the first symbol and the last by themselves.
    """
    before, after = (
        [part for each in name_columns(side) for part in (records and each.ends) or (each,)]
        for side in names
    )
    both = {each.key: each for each in (*after, *before)}
    ranges = Ranges(
        *(rows.va, rows.old_pa, rows.size, rows.old_flags, rows.old_rights),
        *(rows.count, rows.old_shift, rows.stride),
    )
    found = []
    for key, column in both.items():
        old, new = (
            next((_texts(each.values(ranges, context)) for each in side if each.key == key), None)
            for side in (before, after)
        )
        empty: list[str | None] = [None] * len(rows)
        sides = zip(rows.kind.tolist(), old or empty, new or empty, strict=True)
        texts = [_named(kind, was, now) for kind, was, now in sides]
        found.append(ChangeColumn(key, column.heading, column.width, texts))
    return found


def _named(kind: int, was: str | None, now: str | None) -> str | None:
    """Return what a range is called, of its names by either side.

    What is still there has B's name where A knows none, as an early boot does.
    """
    if kind == Change.ADDED:
        return now
    return was if was is not None or kind == Change.REMOVED else now


def _texts(coded: Coded) -> list[str | None]:
    """Return the text of each, None for none."""
    texts = [*coded.texts, None]
    return [texts[code] for code in coded.codes.tolist()]


def region_numbers(names: tuple[Names, Names]) -> Callable[[U64], NDArray[np.int64]] | None:
    """Return what numbers the region that an address lies in, by A's names, or B's if A has none.

    None where neither has regions.
    """
    regions = next((each.regions for each in names if len(each.regions)), None)
    return None if regions is None else regions.rows_at


class CommonRegion(NamedTuple):
    """A region that both sides have, and where each has it, to the page."""

    name: str
    before: Window
    after: Window


def common_regions(names: tuple[Names, Names]) -> list[CommonRegion]:
    """Return the regions that both sides have by one name, in the order of A's addresses.

    `BadInput` in one line where there are none.
    """
    before, after = ({each.name: each for each in side.regions} for side in names)
    found = [
        CommonRegion(
            name, whole_pages(each.start, each.end), whole_pages(after[name].start, after[name].end)
        )
        for name, each in before.items()
        if name in after
    ]
    if not found:
        which = "A" if not before else "B" if not after else None
        lacks = f"{which} has no regions that are known" if which else "A and B share no region"
        raise BadInput(f"--by-name: {lacks}; --symbols and --b-symbols give names")
    return found


def whole_pages(start: int, end: int) -> Window:
    """Return linear addresses [start, end), widened to whole pages of 4 KiB."""
    return start & -FRAME, -(-end // FRAME) * FRAME


@dataclass(slots=True)
class RegionTotals:
    """How many bytes of regions are mapped with which rights, by side."""

    counts: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    def counted(
        self, name: str, side: int, blocks: Iterable[Pages], window: Window
    ) -> Iterator[Pages]:
        """Yield the pages, and count what lies in the window."""
        sums = self.counts.setdefault(name, (np.zeros(64, np.int64), np.zeros(64, np.int64)))
        first, last = (np.uint64(each // FRAME) for each in window)
        for block in blocks:
            start = block.va // np.uint64(FRAME)
            length = block.size // np.uint64(FRAME)
            end = start + (length * block.count if isinstance(block, Runs) else length)
            inside = np.minimum(end, last).astype(np.int64) - np.maximum(start, first).astype(
                np.int64
            )
            sums[side][:] += np.bincount(block.rights, np.maximum(inside, 0), 64).astype(np.int64)
            yield block

    def record(self) -> dict[str, Any]:
        """Return bytes by region, side and rights, as JSON has them."""
        return {
            name: {
                side: {_text(rights): int(each[rights]) * FRAME for rights in np.flatnonzero(each)}
                for side, each in zip(("before", "after"), sums, strict=True)
            }
            for name, sums in self.counts.items()
        }

    def lines(self) -> Iterator[str]:
        """Yield a line for each region: what it has of each rights, and what it had before."""
        for name, (before, after) in self.counts.items():
            parts = []
            for rights in np.flatnonzero(before + after):
                was, now = (size_text(int(each[rights]) * FRAME) for each in (before, after))
                same = " in both" if was == now else f", was {was}"
                parts.append(f"{_text(rights)} {now}{same}")
            yield f"{name}: {'; '.join(parts) or 'nothing is mapped'}"


def _text(rights: Any) -> str:
    return rights_text(Rights(int(rights)))
