"""Charts in the look of the map: walks entry by entry, what was covered, counts by section.

A page of charts is made of the same parts as a map's: one file that loads nothing, with the same
colours and keys. Its views are no rows on an axis, and are drawn by charts.js.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from crosswalk.emu.report.finding import (
    EntryJson,
    FindingJson,
    ReportJson,
    found_text,
    headline,
    manual_text,
    search_title,
    titled_answers,
)
from crosswalk.emu.report.map.parts import joined_page

__all__ = [
    "Chart",
    "ChartPage",
    "CountsChart",
    "GridChart",
    "WalkChart",
    "chart_html",
    "walk_charts",
]

_ENTRY = re.compile(r"(?P<entry>[A-Z0-9]+)\[(?P<index>\d+)\]")
_VALUE = re.compile(r" = 0x[0-9a-f]+  (?P<kind>[^ ]+(?: [^ ]+)*)(?:  (?P<flags>.*))?$")


@dataclass(frozen=True, slots=True)
class WalkChart:
    """A finding with its walk from the root down; `group` is what several are listed under."""

    group: str
    finding: FindingJson

    def document(self) -> dict[str, Any]:
        """Return what the page reads of it."""
        finding = self.finding
        facts = [("rule", finding.rule)]
        if finding.manual:
            facts.append(("manual", manual_text(finding.manual)))
        if finding.access is not None:
            facts.append(("access", finding.access))
        facts += [*titled_answers(finding), ("found", found_text(finding))]
        if finding.context is not None:
            facts.append(("registers", finding.context))
        return {
            "kind": "walk",
            "group": self.group,
            "title": headline(finding),
            "facts": [*facts],
            "remark": finding.remark,
            "steps": [_step(each, finding.context or "") for each in finding.walk],
            "beside": [_step(each, finding.context or "") for each in finding.beside],
            "more": finding.more,
            "needed": finding.needed,
            "command": finding.reproduce,
        }


def _step(entry: EntryJson, context: str) -> dict[str, Any]:
    """Return an entry: its place in its table, and what stands in its line behind the value.

    `context` begins with the paging mode, on which it depends how many entries a table has.
    """
    name, value = _ENTRY.fullmatch(entry.name), _VALUE.search(entry.text)
    of = 1024 if context.startswith("32-bit") else 512
    if context.startswith("PAE") and name is not None and name["entry"] == "PDPTE":
        of = 4
    kind, flags = ("", "") if value is None else (value["kind"], value["flags"] or "")
    return {
        "name": entry.name,
        "index": None if name is None else int(name["index"]),
        "of": of,
        "pa": entry.pa,
        "entry": entry.entry,
        "kind": kind,
        "flags": flags.split(),
        "blame": None if entry.blame is UNSET else entry.blame,
        "va": None if entry.va is UNSET else entry.va,
    }


@dataclass(frozen=True, slots=True)
class GridChart:
    """Cells of a product of axes, each a name and the names of its values.

    `possible`, `seen` bool[number of cells], in the order of the axes, the last one fastest.
    """

    title: str
    axes: Sequence[tuple[str, Sequence[str]]]
    possible: NDArray[np.bool_]
    seen: NDArray[np.bool_]

    def document(self) -> dict[str, Any]:
        """Return what the page reads of it."""
        return {
            "kind": "grid",
            "title": self.title,
            "axes": [{"name": name, "values": list(values)} for name, values in self.axes],
            "possible": _packed(self.possible),
            "seen": _packed(self.seen & self.possible),
        }


def _packed(bits: NDArray[np.bool_]) -> str:
    """Return bits in base64, the first in the lowest place of the first byte."""
    return b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()


@dataclass(frozen=True, slots=True)
class CountsChart:
    """A table of counts: a row has a name and a count for each of `columns`.

    Counts of the columns whose names are in `serious` are marked where they aren't 0.
    """

    title: str
    noun: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[int]]]
    serious: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """Return what the page reads of it."""
        return {
            "kind": "counts",
            "title": self.title,
            "noun": self.noun,
            "columns": list(self.columns),
            "serious": list(self.serious),
            "rows": [{"name": name, "counts": list(counts)} for name, counts in self.rows],
        }


Chart = WalkChart | GridChart | CountsChart


@dataclass(frozen=True, slots=True)
class ChartPage:
    """A page of charts; `about` is one line on what they are of, `notes` are more."""

    title: str
    about: str
    made_by: str
    charts: Sequence[Chart]
    notes: Sequence[str] = ()


def walk_charts(report: ReportJson) -> Iterator[WalkChart]:
    """Yield the chart of each finding of a report."""
    for search in report.searches:
        group = search_title(search)
        for finding in search.findings:
            yield WalkChart(group, finding)


def chart_html(page: ChartPage) -> bytes:
    """Return the page in UTF-8: the same bytes for the same content."""
    document = {
        "about": page.about,
        "notes": [*page.notes, f"Made by {page.made_by}."],
        "charts": [each.document() for each in page.charts],
    }
    return joined_page(
        "charts.html",
        page.title,
        document,
        styles=("page.css", "charts.css"),
        scripts=("elements.js", "charts.js"),
    )
