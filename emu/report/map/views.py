"""The views of a page: rows on an axis of addresses, with the colourings of them.

A view is what one pane of a page draws. An address space and physical memory are views; so is
anything else that has rows on an axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.report.map.columns import Columns
from crosswalk.emu.report.text import count_text, flags_text, size_text
from crosswalk.walker.blocks import LEVEL_OF_SHIFT
from crosswalk.walker.condensed import Condensed, Folding, Form
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.memory import FRAME, U64
from crosswalk.walker.memory_types import MemoryTypes
from crosswalk.walker.mtrrs import MemoryType
from crosswalk.walker.rights import Rights

__all__ = [
    "Axis",
    "Colouring",
    "Shade",
    "View",
    "memory_view",
    "space_view",
    "type_colouring",
]

_FRAME = np.uint64(FRAME)
_STYLES = {"---": "none", "r--": "r", "rw-": "rw", "r-x": "rx", "rwx": "rwx", "--x": "x"}
_SIZES = {12: "a", 21: "b", 22: "c", 30: "d"}
_LEVELS = (("256 TiB", 48), ("512 GiB", 39), ("1 GiB", 30), ("2 MiB", 21), ("page", 12))
_TYPES = {
    MemoryType.WB: "a",
    MemoryType.WT: "c",
    MemoryType.WP: "f",
    MemoryType.WC: "e",
    MemoryType.WC_PLUS: "e",
    MemoryType.UC_MINUS: "d",
    MemoryType.UC: "g",
    MemoryType.CD: "g",
    MemoryType.MIXED: "h",
    MemoryType.UNDEFINED: "h",
}
_NO_TYPE = -1
_FOLDED = "parts with several {}, folded"


@dataclass(frozen=True, slots=True)
class Shade:
    """A class of rows: its name, the letters in wide cells, and the style of one lane or two.

    Styles are those of colours.js: r, rw, rx, rwx, x and none for rights, a to h for anything
    else. Of rows that are drawn in one pixel a `serious` one is seen.
    """

    name: str
    letters: str
    lanes: tuple[str, ...]
    serious: bool = False


@dataclass(frozen=True, slots=True)
class Colouring:
    """A way to colour rows: `of`, uint8[n], says which of its shades each row has."""

    key: str
    title: str
    shades: tuple[Shade, ...]
    of: NDArray[np.uint8]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """What rows lie on: addresses of `bits` bits.

    With `hole` the upper half is the canonical one of 64 bits. `name` says what an address is,
    `empty` what is where no row is, `whole` what all of it is called; `levels` are the names and
    the shifts of its aligned parts, down to a page.
    """

    bits: int
    hole: bool
    name: str
    empty: str
    whole: str
    levels: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class View:
    """One view; `rows` has what it draws, in address order, on the `axis`.

    `colourings` has one at least. `beside` is the number, in the page, of the view that is shown
    with this one. `command` lists what is between START and END.
    """

    title: str
    summary: str
    noun: str
    axis: Axis
    rows: Condensed
    colourings: Sequence[Colouring]
    command: str = ""
    beside: int | None = None
    memory: bool = False
    flags: bool = False

    def document(self, columns: Columns) -> dict[str, Any]:
        """Return what the page reads of this view, with its columns packed into `columns`."""
        rows = self.rows
        begin = (rows.va & np.uint64((1 << self.axis.bits) - 1)) // _FRAME
        size = rows.size // _FRAME
        packed = {
            "gap": columns.add(begin - _behind(begin + size)),
            "size": columns.add(size),
            "holes": columns.add(size - rows.mapped // _FRAME),
        }
        if not self.memory:
            first, extent = rows.pa // _FRAME, (rows.pa_end - rows.pa) // _FRAME
            packed["step"] = columns.add_steps(first, _behind(first + extent))
            packed["extent"] = columns.add(extent)
            packed["number"] = columns.add(rows.count)
            packed["form"] = columns.add(rows.form)
            packed["shift"] = columns.add(rows.shift)
        document: dict[str, Any] = {
            "title": self.title,
            "summary": self.summary,
            "noun": self.noun,
            "rows": len(rows),
            "bits": self.axis.bits,
            "hole": self.axis.hole,
            "axis": self.axis.name,
            "empty": self.axis.empty,
            "whole": self.axis.whole,
            "levels": self.axis.levels,
            "named": not self.memory,
            "memory": self.memory,
            "beside": self.beside,
            "command": self.command,
            "columns": packed,
            "colours": [],
        }
        for number, each in enumerate(self.colourings):
            packed[f"colour{number}"] = columns.add(each.of)
            shades = [
                {
                    "name": shade.name,
                    "letters": shade.letters,
                    "lanes": shade.lanes,
                    "serious": shade.serious,
                }
                for shade in each.shades
            ]
            document["colours"].append(
                {
                    "key": each.key,
                    "title": each.title,
                    "classes": shades,
                    "column": f"colour{number}",
                    "note": each.note,
                }
            )
        if self.flags:
            document["flags"], codes = _flags(rows)
            packed["flag"] = columns.add(codes)
        return document


def space_view(
    context: PagingContext,
    rows: Condensed,
    folding: Folding,
    *,
    title: str,
    command: str,
    colourings: Sequence[Colouring] = (),
) -> View:
    """Return the view of an address space, coloured by rights, by size, and by `colourings`."""
    long = context.mode.long
    bits = context.va_bits if long else 32
    levels = tuple(level for level in _LEVELS if level[1] < bits)
    if context.mode is PagingMode.BIT32:
        levels = (("4 MiB", 22), ("page", 12))
    axis = Axis(bits, long, "linear addresses", "unmapped", "whole", levels)
    summary = count_text(int(rows.count.sum()), "mapping")
    summary += f" in {count_text(len(rows), 'range')}"
    if folding.rows:
        summary += f", {folding.rows:,} of them folded"
    every = (_rights_colouring(rows), _size_colouring(rows), *colourings)
    return View(title, summary, "mapping", axis, rows, every, command, flags=True)


def memory_view(rows: Condensed, folding: Folding, *, command: str) -> View:
    """Return the view of physical memory, coloured by collective rights."""
    end = int(rows.va[-1] + rows.size[-1]) if len(rows) else FRAME
    bits = max((end - 1).bit_length(), 21)
    levels = tuple((name, shift) for name, shift in _LEVELS if shift < bits)
    axis = Axis(bits, False, "frames", "mapped by nothing", "whole", levels)
    summary = f"collective rights of {size_text(int(rows.mapped.sum()))}"
    summary += f" in {count_text(len(rows), 'range')}"
    if folding.rows:
        summary += f", {folding.rows:,} of them folded"
    of = _rights_colouring(rows, title="collective rights")
    return View("Physical memory", summary, "range", axis, rows, (of,), command, memory=True)


def _rights_colouring(rows: Condensed, title: str = "rights") -> Colouring:
    """Return the colouring by rights: the supervisor's above, those of user mode below."""
    key = rows.rights.astype(np.uint16) * 2 + (rows.form == Form.MIXED)
    found, of = np.unique(key, return_inverse=True)
    shades = tuple(_rights_shade(Rights(value >> 1), mixed=bool(value & 1)) for value in found)
    note = "Where user mode has rights, they are drawn below the supervisor's."
    return Colouring("rights", title, shades, of.astype(np.uint8), note)


def _rights_shade(rights: Rights, *, mixed: bool) -> Shade:
    lanes = [_STYLES.get(rights.supervisor, "none")]
    letters = rights.supervisor
    if rights.user != "---":
        lanes.append(_STYLES.get(rights.user, "none"))
        letters += f"/{rights.user}"
    name = f"supervisor {rights.supervisor}, user {rights.user}"
    if mixed:
        name += " (several rights together, folded)"
    serious = any({"w", "x"} <= set(each) for each in (rights.supervisor, rights.user))
    return Shade(name, letters, tuple(lanes), serious)


def _size_colouring(rows: Condensed) -> Colouring:
    """Return the colouring by the size of pages."""
    found, of = np.unique(rows.shift, return_inverse=True)
    shades = tuple(
        Shade(f"pages of {size_text(1 << shift)}", size_text(1 << shift), (_SIZES[shift],))
        if shift
        else Shade(_FOLDED.format("sizes"), "", ("h",))
        for shift in found.tolist()
    )
    return Colouring("size", "size of pages", shades, of.astype(np.uint8))


def type_colouring(types: MemoryTypes, rows: Condensed) -> Colouring:
    """Return the colouring by memory types: those of the first page of each row."""
    size = np.uint64(1) << rows.shift.astype(np.uint64)
    kinds = types.of_pages(rows.pa, size, LEVEL_OF_SHIFT.take(rows.shift), rows.flags)
    kinds = np.where(rows.form >= Form.FOLDED, _NO_TYPE, kinds.astype(np.intp))
    found, of = np.unique(kinds, return_inverse=True)
    shades = tuple(
        Shade("folded: not known of all", "", ("h",))
        if kind == _NO_TYPE
        else Shade(MemoryType(kind).text, MemoryType(kind).text, (_TYPES[MemoryType(kind)],))
        for kind in found.tolist()
    )
    note = "Of a row whose pages have several types by the MTRRs, the first page's counts."
    if types.mtrrs is None:
        note = "Memory types are the pages' own: MTRRs are not known (--mtrr)."
    return Colouring("type", "memory type", shades, of.astype(np.uint8), note)


def _flags(rows: Condensed) -> tuple[list[str], U64]:
    """Return what flags are called, and which of these texts is each row's."""
    level = LEVEL_OF_SHIFT.take(rows.shift)
    texts: dict[str, int] = {}
    codes = np.zeros(len(rows), np.uint64)
    for number in np.unique(level).tolist():
        here = np.flatnonzero(level == number)
        keys, inverse = np.unique(rows.flags[here], return_inverse=True)
        named = [texts.setdefault(flags_text(number, key), len(texts)) for key in keys.tolist()]
        codes[here] = np.array(named, np.uint64)[inverse]
    return list(texts), codes


def _behind(end: U64) -> U64:
    """Return where the row before each one ends, 0 for the first."""
    return np.concatenate([np.zeros(1, np.uint64), end[:-1]]) if len(end) else end
