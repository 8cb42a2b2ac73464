"""ELF cores whose segments and tables lie as those of the built-in guest and of cases don't."""

from collections.abc import Sequence
from pathlib import Path

from walker.context import PagingContext
from walker.memory import Segments
from walker.source.corewriter import CoreState, core_parts

__all__ = ["CORES", "LACKING", "write_cores"]

_P, _RW, _US, _PS = 1, 2, 4, 1 << 7
_OPEN = _P | _RW | _US
_FIRST, _SECOND, _PAGES, _NOWHERE = 0x7000, 0x2_0000, 0x60_0000, 0x4_0000
_PML4, _PDPT, _PD = 0x7000, 0x8000, 0x9000

LACKING = "outside.elf"
"""The core that lacks a page table, and can't be read whole."""

CORES: dict[str, Sequence[int]] = {
    # In two segments, a hole between them.
    "apart.elf": (0xC000, 0x2_1000, 0xB000, 0x2_0000),
    # One behind the other, but not in the order of the entries that lead there.
    "shuffled.elf": (0xC000, 0xA000, 0xB000),
    LACKING: (0xA000, _NOWHERE),
}
"""By file name, where the page tables of each core lie. No segment begins at 0."""


def write_cores(folder: Path) -> None:
    """Write all cores: 4-level paging, segments of 24 KiB, 8 KiB and 2 MiB."""
    for name, tables in CORES.items():
        (folder / name).write_bytes(_core(tables))


def _core(tables: Sequence[int]) -> bytes:
    first, second = bytearray(0x6000), bytearray(0x2000)

    def put(pa: int, entry: int) -> None:
        start, data = (_FIRST, first) if pa < _SECOND else (_SECOND, second)
        data[pa - start : pa - start + 8] = entry.to_bytes(8, "little")

    put(_PML4, _PDPT | _OPEN)
    put(_PDPT, _PD | _OPEN)
    put(_PD + 8 * len(tables), _PAGES | _OPEN | _PS)
    for number, table in enumerate(tables):
        put(_PD + 8 * number, table | _OPEN)
        for page in range(4 if table != _NOWHERE else 0):
            rights = (_OPEN, _P | _US, _P | _RW, _P)[(number + page) % 4]
            put(table + 8 * page, _PAGES + 0x4000 * number + 0x1000 * page | rights)
    parts = [(_FIRST, bytes(first)), (_SECOND, bytes(second)), (_PAGES, bytes(0x20_0000))]
    context = PagingContext(cr3=_PML4)
    control = {"cr0": context.cr0, "cr3": context.cr3, "cr4": context.cr4}
    return b"".join(core_parts(Segments(parts), CoreState(control=control, paging=context)))
