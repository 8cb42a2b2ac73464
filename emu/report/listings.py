"""Listings of mappings, ranges and frames: lines for people, records for machines.

A listing has the columns of what it lists, and extra ones that options ask for.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.report.records import mapping_record, range_record
from crosswalk.emu.report.text import MAPPING_HEADING, RANGE_HEADING, mapping_text, range_text
from crosswalk.walker.context import PagingContext
from crosswalk.walker.mappings import Ranges
from crosswalk.walker.pages import Pages

__all__ = ["Coded", "Column", "heading", "lines", "records"]

Rows = Pages | Ranges
"""What is listed, in bulk."""


class Coded(NamedTuple):
    """n texts by number: `codes` intp[n] into `texts`, -1 for none."""

    codes: NDArray[np.intp]
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Column:
    """An extra column: its key in records, its heading, how wide it is in lines, its values.

    `values` returns those of rows of an address space.
    """

    key: str
    heading: str
    width: int
    values: Callable[[Rows, PagingContext], Coded]


def heading(kind: type[Rows], columns: Sequence[Column]) -> str:
    """Return the heading of lines that list `Pages` or `Ranges`, with these extra columns."""
    first = MAPPING_HEADING if kind is Pages else RANGE_HEADING
    if not columns:
        return first
    cells = [f"{each.heading:<{each.width}}" for each in columns]
    return "  ".join([f"{first:<{_width(kind)}}", *cells]).rstrip()


def lines(rows: Rows, context: PagingContext, columns: Sequence[Column]) -> Iterator[str]:
    """Yield a line for each row."""
    texts = map(mapping_text, rows) if isinstance(rows, Pages) else map(range_text, rows)
    if not columns:
        yield from texts
        return
    width = _width(type(rows))
    extra = [(each.width, _texts(each.values(rows, context))) for each in columns]
    for row, text in enumerate(texts):
        cells = [f"{values[row] or '':<{cell}}" for cell, values in extra]
        yield "  ".join([f"{text:<{width}}", *cells]).rstrip()


def records(
    rows: Rows, context: PagingContext, columns: Sequence[Column]
) -> Iterator[dict[str, Any]]:
    """Yield a record for each row; an extra column has null where there is no value."""
    found = map(mapping_record, rows) if isinstance(rows, Pages) else map(range_record, rows)
    extra = [(each.key, _texts(each.values(rows, context))) for each in columns]
    for row, record in enumerate(found):
        yield {**record, **{key: values[row] for key, values in extra}}


def _width(kind: type[Rows]) -> int:
    """Return where extra columns begin: the last one before them has 24 characters."""
    last = "FLAGS" if kind is Pages else "PAGES"
    return len(heading(kind, ())) - len(last) + 24


def _texts(coded: Coded) -> list[str | None]:
    """Return the text of each, None for none."""
    texts = [*coded.texts, None]
    return [texts[code] for code in coded.codes.tolist()]
