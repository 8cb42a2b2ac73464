"""Symbols as lines of text: System.map, what nm prints, /proc/kallsyms.

A line has an address in hex, a letter for the type, and a name; in /proc/kallsyms that of a
module's symbol is followed by the module's, in brackets. `nm -S` puts a size behind the address.
Source: GNU Binary Utilities, "nm"; Linux, kernel/kallsyms.c and scripts/mksysmap.
"""

import re
from codecs import BOM_UTF8
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.columns import Rows
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.memory import U64
from crosswalk.walker.symbols.spans import SpanKind, Spans, Strings

__all__ = ["RawSymbols", "made_spans", "parse_system_map"]

_UPPER_HALF = np.uint64(1 << 63)
_BLOCK = 1 << 16
_DIGITS = 16
_ABSOLUTE, _UNDEFINED = b"aA", b"UN"
_LINE = re.compile(
    rb"\s*(?P<address>[0-9a-fA-F]{1,16})\s+(?:(?P<size>[0-9a-fA-F]{1,16})\s+)?"
    rb"(?P<type>[A-Za-z?-])\s+(?P<name>[^\s].*)"
)
_WITHOUT_ADDRESS = re.compile(rb"(?:\s+[UwvN](?:\s.*)?)?")
_SPACE = bytes(range(ord(" ") + 1))
_STUB = b"The real System.map is in"
_PAGE = 0xFFF
_GLOBAL, _WEAK, _LOCAL = 0, 1, 2

_NIBBLES = np.full(256, 0xFF, np.uint8)
for _value, _digit in enumerate(b"0123456789abcdef"):
    _NIBBLES[_digit] = _value
    _NIBBLES[ord(chr(_digit).upper())] = _value


@dataclass(frozen=True, slots=True)
class RawSymbols:
    """n symbols as a file has them: addresses, sizes in bytes (0 where not known), names.

    `start` and `size` uint64[n]; `rank` uint8[n]: 0 for a global symbol, 1 for a weak, 2 for a
    local one, which come in this order where several have one address. `furthest` uint64[n] is the
    last address that each may cover, if anything says so.
    """

    start: U64
    size: U64
    rank: NDArray[np.uint8]
    names: Strings
    furthest: U64 | None = None


@dataclass(frozen=True, slots=True)
class _Lines(Rows):
    """Symbols of a piece of the text: as `RawSymbols`, with letters, and places of names in it."""

    start: U64
    size: U64
    letter: NDArray[np.uint8]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


def parse_system_map(data: bytes) -> Spans:
    """Return the symbols of such a text, by address.

    Without a size, a symbol reaches to the next address that has one, the last to the end of its
    page. Left out is what has no address: undefined symbols, absolute ones, and where there are
    symbols of the upper half, as a kernel's, all of the lower half (offsets of per-CPU variables).

    Raises `BadInput` in one line for another file, a damaged or truncated one, one whose addresses
    are all zero (kernel.kptr_restrict hides them), and one without symbols.
    """
    data = data.removeprefix(BOM_UTF8)
    parts = [_parsed(data, begin, end) for begin, end in _pieces(data)]
    if not parts or not any(len(part.start) for part in parts):
        raise BadInput("no symbols in it")
    lines = _Lines.join(parts)
    if _STUB in data[: 1 << 12] and len(lines.start) == 1:
        raise BadInput("no symbols in it; it is the distribution's stub of a System.map")
    if not lines.start.any():
        raise BadInput(
            "all addresses are zero: kernel.kptr_restrict hides them; read the file as root"
        )
    kept = ~_among(lines.letter, _UNDEFINED) & ((lines.start != 0) | ~_among(lines.letter, b"wv"))
    if (lines.start[kept] >= _UPPER_HALF).any():
        # Linux' map of a kernel has symbols of type A that are addresses, and per-CPU offsets.
        kept &= lines.start >= _UPPER_HALF
    else:
        kept &= ~_among(lines.letter, _ABSOLUTE)
    if not kept.any():
        raise BadInput("no symbols in it that have an address")
    rows = np.flatnonzero(kept)
    lower = lines.letter >= ord("a")
    rank = np.where(lower, _LOCAL, _GLOBAL).astype(np.uint8)
    rank[_among(lines.letter, b"WV")] = _WEAK
    names = Strings(data, lines.begin[rows], lines.end[rows])
    return made_spans(RawSymbols(lines.start[rows], lines.size[rows], rank[rows], names))


def made_spans(symbols: RawSymbols) -> Spans:
    """Return symbols in order: by address, then global ones first, then as they were given."""
    order = np.lexsort((symbols.rank, symbols.start))
    start, size = symbols.start[order], symbols.size[order]
    begins = np.unique(start)
    following = np.searchsorted(begins, start, "right")
    last = np.full(len(start), np.iinfo(np.uint64).max, np.uint64)
    known = following < len(begins)
    last[known] = begins[following[known]] - np.uint64(1)
    last[~known] = start[~known] | np.uint64(_PAGE)
    sized = size != 0
    last[sized] = start[sized] + (size[sized] - np.uint64(1))
    last[last < start] = np.iinfo(np.uint64).max  # A size that goes beyond the end.
    if symbols.furthest is not None:
        last = np.minimum(last, symbols.furthest[order])
    return Spans(SpanKind.SYMBOL, start, last, symbols.names.take(order))


def _among(letters: NDArray[np.uint8], wanted: bytes) -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[np.frombuffer(wanted, np.uint8)] = True
    return table[letters]


def _pieces(data: bytes) -> list[tuple[int, int]]:
    """Return pieces of whole lines; `BadInput` where the last line has no end."""
    if b"\0" in data:
        raise BadInput("neither an ELF file nor lines of an address, a type and a name")
    if data and not data.endswith(b"\n"):
        last = data[data.rfind(b"\n") + 1 :]
        raise BadInput(
            f"truncated: the last line has no end ({_quoted(last)}); it takes a line feed, if the "
            "file is whole"
        )
    pieces, at = [], 0
    while at < len(data):
        end = data.find(b"\n", min(at + 32 * _BLOCK, len(data)) - 1) + 1 or len(data)
        pieces.append((at, end))
        at = end
    return pieces


def _parsed(data: bytes, begin: int, end: int) -> _Lines:
    """Return the symbols of whole lines; those of the usual form all at once."""
    text = np.frombuffer(data, np.uint8, end - begin, begin)
    stop = np.flatnonzero(text == ord("\n"))
    start = np.concatenate([np.zeros(1, np.int64), stop[:-1] + 1])
    usual = stop - start > _DIGITS + 3
    at = np.where(usual, start, 0)
    usual &= len(text) > _DIGITS + 3
    address = np.zeros(len(start), np.uint64)
    if usual.any():
        usual &= (text[at + _DIGITS] == ord(" ")) & (text[at + _DIGITS + 2] == ord(" "))
        first = text[at + _DIGITS + 3]
        usual &= (first > ord(" ")) & _LETTERS[text[at + _DIGITS + 1]]
        for digit in range(_DIGITS):
            nibble = _NIBBLES[text[at + digit]]
            usual &= nibble < 16
            address = address << np.uint64(4) | (nibble & np.uint8(15))
    rows = np.flatnonzero(usual)
    parts = _Lines(
        address[rows],
        np.zeros(len(rows), np.uint64),
        text[start[rows] + _DIGITS + 1],
        start[rows] + _DIGITS + 3 + begin,
        stop[rows] + begin,
    )
    others = np.flatnonzero(~usual)
    if len(others):
        more = _one_by_one(data, start[others] + begin, stop[others] + begin)
        parts = _Lines.join([parts, more])
        parts = parts.take(np.argsort(parts.begin, kind="stable"))
    # White space at the end of a line is no part of the name.
    for row in np.flatnonzero(text[parts.end - 1 - begin] <= ord(" ")).tolist():
        first = int(parts.begin[row])
        parts.end[row] = first + len(data[first : parts.end[row]].rstrip(_SPACE))
    return parts


_LETTERS = np.zeros(256, np.bool_)
_LETTERS[np.frombuffer(b"ABCDGINRSTUVWabcdgilnprstuvw?-", np.uint8)] = True


def _one_by_one(data: bytes, start: NDArray[np.int64], stop: NDArray[np.int64]) -> _Lines:
    """Return the symbols of lines of other forms; `BadInput` for one that has none."""
    found: list[tuple[int, int, int, int, int]] = []
    for first, last in zip(start.tolist(), stop.tolist(), strict=True):
        line = data[first:last].rstrip(_SPACE)
        match = _LINE.fullmatch(line)
        if match is not None:
            size = match["size"]
            name = first + match.start("name")
            found.append(
                (
                    int(match["address"], 16),
                    int(size, 16) if size else 0,
                    match["type"][0],
                    name,
                    name + len(match["name"]),
                )
            )
        elif not _WITHOUT_ADDRESS.fullmatch(line):
            number = data.count(b"\n", 0, first) + 1
            raise BadInput(f"line {number:,} is no address, type and name: {_quoted(line)}")
    return _Lines(
        np.array([each[0] for each in found], np.uint64),
        np.array([each[1] for each in found], np.uint64),
        np.array([each[2] for each in found], np.uint8),
        np.array([each[3] for each in found], np.int64),
        np.array([each[4] for each in found], np.int64),
    )


def _quoted(line: bytes) -> str:
    text = line[:80].decode("utf-8", "replace")
    return one_line(repr(text if len(line) <= 80 else f"{text}…"))
