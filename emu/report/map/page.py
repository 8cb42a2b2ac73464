"""The page: its parts joined, with the views' data in it. Nothing is loaded, and nothing can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.report.map.columns import Columns
from crosswalk.emu.report.map.parts import joined_page
from crosswalk.emu.report.map.views import View
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.symbols import Names, SpanKind, Spans

__all__ = ["Finding", "MapPage", "Spot", "map_html"]

_SCRIPTS = (
    "elements.js",
    "text.js",
    "data.js",
    "layout.js",
    "colours.js",
    "strip.js",
    "page.js",
)
"""The parts of the page's one module, in the order in which they are joined."""

_SYMBOLS = 200_000
"""The most symbols that a page holds."""


@dataclass(frozen=True, slots=True)
class Spot:
    """An address, in bytes, on the axis of the view of this number."""

    view: int
    address: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What is found, as a line, and where."""

    text: str
    spots: tuple[Spot, ...]
    serious: bool = False


@dataclass(frozen=True, slots=True)
class MapPage:
    """All that a page holds.

    `about` is one line on what is shown, `notes` are more, `verdicts` go before the findings.
    `of_command` lists the mappings of a frame, PA.
    """

    title: str
    about: str
    made_by: str
    views: Sequence[View]
    names: Names
    findings: Sequence[Finding] = ()
    verdicts: Sequence[str] = ()
    notes: Sequence[str] = ()
    of_command: str = ""


def map_html(page: MapPage) -> bytes:
    """Return the page in UTF-8: the same bytes for the same content."""
    columns = Columns()
    names, left = _names(page, columns)
    notes = [*page.notes]
    if left:
        notes.append(f"Symbols: the first {_SYMBOLS:,} by address, without {left:,} more.")
    document = {
        "title": page.title,
        "about": page.about,
        "made_by": f"Made by {page.made_by}.",
        "of_command": page.of_command,
        "notes": notes,
        "verdicts": list(page.verdicts),
        "views": [view.document(columns) for view in page.views],
        "findings": [
            {
                "text": each.text,
                "serious": each.serious,
                "places": [_place(page.views, spot) for spot in each.spots],
            }
            for each in page.findings
        ],
        "names": names,
    }
    return joined_page(
        "page.html",
        page.title,
        document,
        styles=("page.css",),
        scripts=_SCRIPTS,
        columns=columns.text(),
    )


def _place(views: Sequence[View], spot: Spot) -> dict[str, int]:
    bits = views[spot.view].axis.bits
    return {"view": spot.view, "frame": (spot.address & (1 << bits) - 1) // FRAME}


def _names(page: MapPage, columns: Columns) -> tuple[list[dict[str, Any]], int]:
    """Return the names, of symbols those that lie in what is mapped, and how many are left out."""
    spaces = [view for view in page.views if not view.memory]
    if not spaces:
        return [], 0
    found, left = [], 0
    regions = page.names.regions
    if not len(regions):
        regions = Spans.of(SpanKind.REGION, page.names.wider)
    for spans in (regions, page.names.sections, page.names.symbols):
        rows = np.arange(len(spans))
        if spans is page.names.symbols:
            inside = np.zeros(len(spans), np.bool_)
            for view in spaces:
                inside |= _mapped(view, spans.start)
            rows = np.flatnonzero(inside)
            left = max(len(rows) - _SYMBOLS, 0)
            rows = rows[:_SYMBOLS]
        if len(rows):
            found.append(_spans(spans, rows, columns))
    return found, left


def _mapped(view: View, va: U64) -> NDArray[np.bool_]:
    rows = view.rows
    if not len(rows):
        return np.zeros(len(va), np.bool_)
    at = np.searchsorted(rows.va, va, "right") - 1
    near = np.maximum(at, 0)
    inside: NDArray[np.bool_] = (at >= 0) & (va - rows.va[near] < rows.size[near])
    return inside


def _spans(spans: Spans, rows: NDArray[np.intp], columns: Columns) -> dict[str, Any]:
    begin, last = spans.start[rows], spans.last[rows]
    frame = np.uint64(FRAME)
    first = begin // frame
    before = np.concatenate([np.zeros(1, np.uint64), first[:-1]])
    return {
        "kind": spans.kind.value,
        "columns": {
            "gap": columns.add(first - before),
            "low": columns.add(begin % frame),
            "extent": columns.add(last // frame - first),
            "lastLow": columns.add(last % frame),
        },
        "texts": columns.add_text("\n".join(spans.names.shown(row) for row in rows.tolist())),
    }
