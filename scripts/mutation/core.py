"""ELF cores with tables in several segments: out of order, split, or outside the core."""

import struct
from collections.abc import Sequence
from pathlib import Path

from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats.corewriter import CoreState, core_parts
from crosswalk.walker.memory import Segments

__all__ = ["SOURCES", "write_sources"]

_P, _RW, _US, _PS = 1, 2, 4, 1 << 7
_OPEN = _P | _RW | _US
_FIRST, _SECOND, _PAGES, _END = 0x7000, 0x2_0000, 0x60_0000, 0x80_0000
_BELOW, _BETWEEN, _BEYOND = 0x3000, 0x1_0000, 0x100_0000
_PML4, _PDPT, _PD = 0x7000, 0x8000, 0x9000
_HALF = 0xA800
_HEADERS, _HEADER = 64, struct.Struct("<IIQQQQQQ")

_TABLES: dict[str, Sequence[int]] = {
    # In two segments, a hole between them.
    "apart.elf": (0xC000, 0x2_1000, 0xB000, 0x2_0000),
    # One behind the other, but not in the order of the entries that lead there.
    "shuffled.elf": (0xC000, 0xB000, 0xA000),
    # The first begins in one segment and ends in the next.
    "split.elf": (0xA000, 0xB000),
    # The second lies outside the core: between its segments, below them, beyond the only one.
    "outside.elf": (0xA000, _BETWEEN),
    "below.elf": (0xA000, _BELOW),
    "beyond.elf": (0xA000, _BEYOND),
    # Only the first half of the second lies in the core.
    "half.elf": (0xA000, 0x2_1000),
}
_DIVIDED, _SINGLE = ("split.elf", "half.elf"), ("beyond.elf",)

SOURCES = {name: 0 if name in ("apart.elf", "shuffled.elf", "split.elf") else 2 for name in _TABLES}
"""By file name, with which status a check of it has to end: 2 where it can't be read whole."""


def write_sources(folder: Path) -> None:
    """Write all of them: cores of 4-level paging, in segments of 2, 24 and 8 KiB and 2 MiB."""
    for name, tables in _TABLES.items():
        filled = len(tables) if SOURCES[name] == 0 else 1
        core = _core(tables, filled, divided=name in _DIVIDED, single=name in _SINGLE)
        (folder / name).write_bytes(core)


def _core(tables: Sequence[int], filled: int, *, divided: bool, single: bool) -> bytes:
    # Of a core that is divided, the second segment ends within a frame, with nothing behind.
    first, second = bytearray(0x6000), bytearray(0x1801 if divided else 0x2000)

    def put(pa: int, entry: int) -> None:
        start, data = (_FIRST, first) if pa < _SECOND else (_SECOND, second)
        data[pa - start : pa - start + 8] = entry.to_bytes(8, "little")

    put(_PML4, _PDPT | _OPEN)
    put(_PDPT, _PD | _OPEN)
    put(_PD + 8 * len(tables), _PAGES | _OPEN | _PS)
    for number, table in enumerate(tables):
        put(_PD + 8 * number, table | _OPEN)
        # Pages of the first half of a table, and of the second.
        for page in (0, 1, 2, 3, 300, 301) if number < filled else ():
            rights = (_OPEN, _P | _US, _P | _RW, _P)[(number + page) % 4]
            put(table + 8 * page, _PAGES + 0x4000 * number + 0x1000 * (page % 4) | rights)
    parts = [(_FIRST, bytes(first)), (_SECOND, bytes(second)), (_PAGES, bytes(_END - _PAGES))]
    if single:
        parts = [(_FIRST, bytes(first) + bytes(_END - _FIRST - len(first)))]
    elif divided:
        parts.insert(0, (0, bytes(0x1000)))  # Its header is that of a part of the next one.
    else:
        parts.insert(0, (_BELOW, bytes(0x801)))  # Less than a frame, which is no table.
    context = PagingContext(cr3=_PML4)
    control = {"cr0": context.cr0, "cr3": context.cr3, "cr4": context.cr4}
    state = CoreState(control=control, paging=context)
    core = bytearray(b"".join(core_parts(Segments(parts), state)))
    if divided:
        _divide(core)
    return bytes(core)


def _divide(core: bytearray) -> None:
    """Let the first segment be what the second one has from `_HALF` on, within a frame.

    Its bytes come last in the file: a reader may take two segments for one that go on both in
    memory and in the file.
    """
    first = _HEADERS + _HEADER.size  # Behind the notes' header.
    second = first + _HEADER.size
    kind, flags, offset, va, pa, size, _, align = _HEADER.unpack_from(core, second)
    kept, rest, end = _HALF - pa, size - (_HALF - pa), len(core)
    core += core[offset + kept : offset + size]
    core[offset + kept : offset + size] = bytes(rest)
    _HEADER.pack_into(core, second, kind, flags, offset, va, pa, kept, kept, align)
    _HEADER.pack_into(core, first, kind, flags, end, va, _HALF, rest, rest, align)
