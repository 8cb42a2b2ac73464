"""Listings of mappings, ranges and frames in bulk: lines for people, records for machines.

A listing has the columns of what it lists, and extra ones that options ask for. Its lines are those
of `crosswalk.emu.report.text`, its records those of `crosswalk.emu.report.records`; what stands in
them is taken from there, and tests hold each to the line and the record of a single mapping.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.report.cells import (
    Cell,
    Texts,
    encoded,
    hexadecimal,
    joined,
    lengths,
    padded_hexadecimal,
    spaces,
)
from crosswalk.emu.report.records import rights_record
from crosswalk.emu.report.text import (
    FRAME_HEADING,
    GUEST_HEADING,
    GUEST_RANGE_HEADING,
    MAPPING_HEADING,
    RANGE_HEADING,
    count_text,
    flags_text,
    rights_text,
    size_text,
    stride_text,
)
from crosswalk.walker.entry import Entry
from crosswalk.walker.frames import Frames
from crosswalk.walker.guest_pages import EptPages, GuestPages, GuestRanges
from crosswalk.walker.mappings import Ranges
from crosswalk.walker.memory import U64
from crosswalk.walker.pages import Pages
from crosswalk.walker.rights import Rights
from crosswalk.walker.second_level import TableContext

__all__ = [
    "Coded",
    "Column",
    "Mapped",
    "Marks",
    "Rows",
    "coded_cell",
    "extra",
    "heading",
    "lines",
    "records",
]

Mapped = Pages | Ranges
"""What may have extra columns."""
Rows = Mapped | Frames
"""What is listed, in bulk."""

_AT_ONCE = 8192
"""How many rows are put together at once, so that they stay in the cache of a processor."""
_LAST = 24
"""How many characters the last column has that isn't an extra one."""


class Coded(NamedTuple):
    """n texts by number: `codes` intp[n] into `texts`, -1 for none.

    With `offsets`, uint64[n], what isn't 0 stands behind the text, as +0x10.
    """

    codes: NDArray[np.intp]
    texts: Sequence[str]
    offsets: U64 | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """An extra column: its key in records, its heading, how wide it is in lines, its values.

    `values` returns those of rows of an address space, of the kind that the column is for.
    `meaning` explains the column in a line. Records and tables of ranges have the columns `ends`
    in its place, if there are some.
    """

    key: str
    heading: str
    width: int
    values: Callable[[Any, Any], Coded]
    meaning: str = ""
    ends: "tuple[Column, ...]" = ()


class Marks(NamedTuple):
    """What stands before and behind the lines of rows that have all of some `rights`."""

    rights: tuple[Rights, ...]
    before: str
    behind: str


def heading(kind: type[Rows], columns: Sequence[Column]) -> str:
    """Return the heading of lines that list rows of this kind, with these extra columns."""
    first = _HEADINGS[kind]
    if not columns:
        return first
    cells = [f"{each.heading:<{each.width}}" for each in columns]
    return "  ".join([f"{first:<{_width(kind)}}", *cells]).rstrip()


_HEADINGS: dict[type[Rows], str] = {
    Pages: MAPPING_HEADING,
    Ranges: RANGE_HEADING,
    Frames: FRAME_HEADING,
    GuestPages: GUEST_HEADING,
    EptPages: GUEST_HEADING,
    GuestRanges: GUEST_RANGE_HEADING,
}


def _width(kind: type[Rows]) -> int:
    """Return where extra columns begin, two characters less."""
    if kind is Frames:
        return len(FRAME_HEADING)
    last = "FLAGS" if issubclass(kind, Pages) else "PAGES"
    return len(_HEADINGS[kind]) - len(last) + _LAST


def lines(
    rows: Rows,
    context: TableContext,
    columns: Sequence[Column] = (),
    *,
    marks: Marks | None = None,
    encoding: str = "utf-8",
) -> Iterator[bytes]:
    """Yield the lines of all rows, some thousand at once, each with its end.

    What `encoding` has no character for is escaped.
    """
    for some in _slices(rows):
        cells, last = _line_cells(some)
        cells += _behind(some, context, columns, last, encoding)
        if marks is not None:
            has = np.zeros(len(some), np.bool_)
            for rights in marks.rights:
                has |= some.rights & np.uint8(rights) == np.uint8(rights)
            before, behind = (encoded(["", text]) for text in (marks.before, marks.behind))
            chosen = has.view(np.uint8)
            cells = [before.take(chosen, axis=0), *cells, behind.take(chosen, axis=0)]
        yield joined([*cells, b"\n"], len(some)).tobytes()


def records(
    rows: Rows,
    context: TableContext,
    columns: Sequence[Column] = (),
    *,
    root: Mapping[str, Any] | None = None,
) -> Iterator[bytes]:
    """Yield the records of all rows as lines of JSON, some thousand at once.

    Each begins with what `root` has; an extra column has null where there is no value.
    """
    begin = json.dumps(root or {}).encode().removesuffix(b"}")
    for some in _slices(rows):
        fields = _fields(some)
        fields |= {each.key: _json_cells(coded) for each, coded in extra(some, context, columns)}
        cells: list[Cell] = [begin]
        for key, value in fields.items():
            first = len(cells) == 1 and not root
            cells += [f"{'' if first else ', '}{json.dumps(key)}: ".encode(), *value]
        yield joined([*cells, b"}\n"], len(some)).tobytes()


def extra(
    rows: Rows, context: TableContext, columns: Sequence[Column]
) -> Iterator[tuple[Column, Coded]]:
    """Yield extra columns with their values."""
    for each in columns:
        yield each, each.values(rows, context)


def _slices(rows: Rows) -> Iterator[Rows]:
    for at in range(0, len(rows), _AT_ONCE):
        yield rows.take(slice(at, at + _AT_ONCE))


def _flag_code(pages: Pages) -> U64:
    """Return for each mapping what the text of its flags depends on, as a number."""
    flags = pages.flags
    named = flags >> np.uint64(_NAMED) & np.uint64(_NAMES)
    named |= (flags >> np.uint64(_PAT) & np.uint64(1)) << np.uint64(8)
    named |= flags >> np.uint64(_KEY) << np.uint64(9)
    named |= (pages.level == 1).astype(np.uint64) << np.uint64(14)
    return named


def _flags_of(code: int) -> str:
    entry = (code & _NAMES) << _NAMED | (code >> 8 & 1) << _PAT | (code >> 9 & 31) << _KEY
    return flags_text(1 if code >> 14 else 2, entry)


_NAMED, _NAMES = Entry.RW.bit_length() - 1, 0xFF
"""R/W to G are neighbours."""
_PAT = Entry.PAT_LARGE.bit_length() - 1
_KEY = Entry.XD.bit_length() - 5
"""The protection key, and XD above it."""


def _ept_flag_code(pages: EptPages) -> U64:
    """Return the same of EPT: the flags that are named, as `_ept_flags_of` takes them."""
    flags = pages.flags
    named = flags & np.uint64(_EPT_LOW)
    named |= flags >> np.uint64(_EPT_BETWEEN) & np.uint64(_EPT_NEXT)
    named[pages.level == 1] &= ~np.uint64(_EPT_PS)
    return named | flags >> np.uint64(_EPT_HIGH) << np.uint64(_EPT_PLACE)


def _ept_flags_of(code: int) -> str:
    # Other listings do without what it imports.
    from crosswalk.emu.report.ept import ept_flags_text  # noqa: PLC0415

    low = code & _EPT_LOW | (code & _EPT_NEXT) << _EPT_BETWEEN
    level = 2 if code & _EPT_PS else 1  # Of a PTE that bit isn't in the code.
    return ept_flags_text(low | code >> _EPT_PLACE << _EPT_HIGH, level)


_EPT_LOW, _EPT_BETWEEN, _EPT_NEXT = 7, 3, 0xF8
"""Rights, then between them and IPAT to XU the memory type."""
_EPT_PS = 1 << 4
"""PS, in a code."""
_EPT_HIGH, _EPT_PLACE = 57, 8
"""The flags from bit 57 up."""

_FLAGS = Texts(_flags_of)
_EPT_FLAGS = Texts(_ept_flags_of)
_PAGE_SIZES = Texts(lambda shift: f"{size_text(1 << shift):>7}")
_SIZES = Texts(lambda frames: f"{size_text(frames << 12):>12}")
_RIGHTS = Texts(lambda rights: rights_text(Rights(rights)))
_COUNTS = Texts(lambda count: count_text(count, "page"))
_STRIDES = Texts(lambda code: stride_text(code >> 1, gaps=bool(code & 1)))
_JSON_STRIDES = Texts(lambda stride: f', "stride": {stride}' if stride else "")
_NUMBERS = Texts(str)
_PAGE_BYTES = Texts(lambda shift: str(1 << shift))
_BYTES = Texts(lambda frames: str(frames << 12))
_JSON_RIGHTS = Texts(lambda rights: json.dumps(rights_record(Rights(rights))))
_JSON_USER = Texts(lambda rights: json.dumps(Rights(rights).user))
_JSON_SUPERVISOR = Texts(lambda rights: json.dumps(Rights(rights).supervisor))


def _line_cells(rows: Rows) -> tuple[list[Cell], NDArray[np.uint8] | None]:
    """Return the cells of lines but the last one, and the last one, if its width differs."""
    first: list[Cell]
    rights: list[Cell] = [b" ", _RIGHTS.cell(rows.rights)]
    digits = 13 if isinstance(rows, GuestPages | GuestRanges) else 16
    if isinstance(rows, Pages):
        first = [
            padded_hexadecimal(rows.va, digits),
            b" ",
            padded_hexadecimal(rows.pa, 13),
            b" ",
            _PAGE_SIZES.cell(rows.shift),
        ]
        if isinstance(rows, EptPages):
            return [*first, *rights], _EPT_FLAGS.cell(_ept_flag_code(rows))
        return [*first, *rights], _FLAGS.cell(_flag_code(rows))
    frames = rows.size >> np.uint64(12)
    last = rows.size - np.uint64(1)
    if isinstance(rows, Ranges):
        first = [
            padded_hexadecimal(rows.va, digits),
            b"-",
            padded_hexadecimal(rows.va + last, digits),
            b" ",
            padded_hexadecimal(rows.pa, 13),
            b" ",
            _SIZES.cell(frames),
        ]
        return [*first, *rights], _pages_cell(rows)
    first = [
        padded_hexadecimal(rows.start, 13),
        b"-",
        padded_hexadecimal(rows.start + last, 13),
        b" ",
        _SIZES.cell(frames),
    ]
    return [*first, *rights], None


def _pages_cell(ranges: Ranges) -> NDArray[np.uint8]:
    gaps = ranges.size != ranges.count * ranges.stride
    repeats = _STRIDES.cell(ranges.stride << np.uint64(1) | gaps)
    return np.concatenate([_COUNTS.cell(ranges.count), repeats], axis=1)


def _behind(
    rows: Rows,
    context: TableContext,
    columns: Sequence[Column],
    last: NDArray[np.uint8] | None,
    encoding: str,
) -> list[Cell]:
    """Return the last cell of a line and the extra ones, without spaces at the end of a line."""
    if not columns:
        return [] if last is None else [b"  ", last]
    cells = [] if last is None else [(last, lengths(last), _LAST)]
    for each, coded in extra(rows, context, columns):
        cells.append((*_sized_cell(coded, encoding), each.width))
    found: list[Cell] = []
    follows = np.zeros(len(rows), np.intp)
    for cell, length, width in reversed(cells):
        pad = np.maximum(width - length, 0) * follows
        follows |= length > 0
        found += [spaces(pad), cell, spaces(2 * follows)]
    return found[::-1]


def _sized_cell(coded: Coded, encoding: str) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Return the texts of an extra column as they stand in a line, and their characters."""
    used, rows = _used(coded)
    texts = ["", *(coded.texts[code] for code in used)]
    length = np.array([len(text) for text in texts], np.intp).take(rows)
    cell = encoded(texts, encoding).take(rows, axis=0)
    offset = _offset_cell(coded)
    if offset is None:
        return cell, length
    return np.concatenate([cell, offset], axis=1), length + lengths(offset)


def coded_cell(coded: Coded) -> NDArray[np.uint8]:
    """Return the texts of an extra column, in UTF-8."""
    return _sized_cell(coded, "utf-8")[0]


def _json_cells(coded: Coded) -> list[Cell]:
    """Return the texts of an extra column as values of JSON."""
    used, rows = _used(coded)
    texts = encoded(["null", *(json.dumps(coded.texts[code])[:-1] for code in used)])
    found: list[Cell] = [texts.take(rows, axis=0)]
    offset = _offset_cell(coded)
    quote = encoded(["", '"']).take((rows > 0).view(np.uint8), axis=0)
    return [*found, *([] if offset is None else [offset]), quote]


def _used(coded: Coded) -> tuple[list[int], NDArray[np.intp]]:
    """Return the codes of all texts that there are, and which of them each row has, from 1 on."""
    place = np.zeros(len(coded.texts) + 1, np.intp)
    place[coded.codes] = 1
    place[-1] = 0  # That of no text: -1.
    used = np.flatnonzero(place)
    place[used] = np.arange(1, len(used) + 1)
    return used.tolist(), place.take(coded.codes, mode="wrap")


def _offset_cell(coded: Coded) -> NDArray[np.uint8] | None:
    """Return what stands behind the texts, nothing where there is none."""
    if coded.offsets is None:
        return None
    has = (coded.codes >= 0) & (coded.offsets != 0)
    digits = hexadecimal(coded.offsets)
    sign = np.broadcast_to(np.frombuffer(b"+0x", np.uint8), (len(has), 3))
    found: NDArray[np.uint8] = np.concatenate([sign, digits], axis=1) * has[:, None]
    return found


def _fields(rows: Rows) -> dict[str, list[Cell]]:
    """Return the cells of each value of records, by its key, in the order of single records."""
    address = "gpa" if isinstance(rows, GuestPages | GuestRanges) else "va"
    if isinstance(rows, Pages):
        return {
            address: _json_hexadecimal(rows.va),
            "pa": _json_hexadecimal(rows.pa),
            "size": [_PAGE_BYTES.cell(rows.shift)],
            "level": [_NUMBERS.cell(rows.level)],
            "flags": _json_hexadecimal(rows.flags),
            "rights": [_JSON_RIGHTS.cell(rows.rights)],
        }
    size: list[Cell] = [_BYTES.cell(rows.size >> np.uint64(12))]
    if isinstance(rows, Ranges):
        return {
            address: _json_hexadecimal(rows.va),
            "pa": _json_hexadecimal(rows.pa),
            "size": size,
            "mappings": [_NUMBERS.cell(rows.count), _JSON_STRIDES.cell(rows.stride)],
            "flags": _json_hexadecimal(rows.flags),
            "rights": [_JSON_RIGHTS.cell(rows.rights)],
        }
    return {
        "pa": _json_hexadecimal(rows.start),
        "size": size,
        "supervisor": [_JSON_SUPERVISOR.cell(rows.rights)],
        "user": [_JSON_USER.cell(rows.rights)],
    }


def _json_hexadecimal(values: U64) -> list[Cell]:
    return [b'"0x', hexadecimal(values), b'"']
