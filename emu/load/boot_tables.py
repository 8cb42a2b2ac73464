"""The paging structures that a guest finds in use when it is entered in long mode.

Source: Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging".
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from crosswalk.walker.architecture import GIB, MIB, PAGE_BYTES

__all__ = ["LOW_4_GIB", "BootTables", "Span"]

Span = tuple[int, int, int]
"""Linear addresses to map: the first one, the physical address that it leads to, the size."""

LOW_4_GIB: Span = (0, 0, 4 * GIB)
"""Where there may be RAM and devices, at its own addresses."""

_TABLE, _PAGE, _LARGE = 0x3, 0x3, 0x83  # Present and writable.
_FIELD = 0x000F_FFFF_FFFF_F000
_IS_PAGE = 1 << 7
_ENTRIES = 512
_LARGE_BYTES = 2 * MIB


@dataclass(slots=True)
class BootTables:
    """Tables of 4 or 5 `levels` with every right for the supervisor, in frames of `new_frame`.

    A page has 2 MiB where it can. `words` are the entries by physical address, and `root` is the
    first table. What is mapped twice leads where it was mapped to last.
    """

    levels: int
    new_frame: Callable[[], int]
    words: dict[int, int] = field(default_factory=dict)
    root: int = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.new_frame()

    def map(self, spans: Iterable[Span]) -> None:
        """Map whole pages; addresses and sizes that aren't whole ones are rounded outwards."""
        for va, pa, size in spans:
            at, end = va & -PAGE_BYTES, va + size
            offset = pa - va
            while at < end:
                large = not (at | at + offset) % _LARGE_BYTES and at + _LARGE_BYTES <= end
                self._set(at, at + offset | (_LARGE if large else _PAGE), 2 if large else 1)
                at += _LARGE_BYTES if large else PAGE_BYTES

    def frames(self) -> dict[int, bytes]:
        """Return the content of each table, by its physical address."""
        tables: dict[int, list[int]] = {}
        for at, entry in self.words.items():
            table = tables.setdefault(at & -PAGE_BYTES, [0] * _ENTRIES)
            table[at % PAGE_BYTES // 8] = entry
        return {at: struct.pack(f"<{_ENTRIES}Q", *table) for at, table in tables.items()}

    def _set(self, va: int, entry: int, level: int) -> None:
        table = self.root
        for above in range(self.levels, level, -1):
            at = table + (va >> 12 + 9 * (above - 1) & 511) * 8
            if at not in self.words:
                self.words[at] = self.new_frame() | _TABLE
            elif self.words[at] & _IS_PAGE:
                self._split(at)
            table = self.words[at] & _FIELD
        self.words[table + (va >> 12 + 9 * (level - 1) & 511) * 8] = entry

    def _split(self, at: int) -> None:
        """Put small pages where a large one was."""
        first = self.words[at] & _FIELD
        table = self.new_frame()
        for number in range(_ENTRIES):
            self.words[table + number * 8] = first + number * PAGE_BYTES | _PAGE
        self.words[at] = table | _TABLE
