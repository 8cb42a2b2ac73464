"""The formats of paging structures, as layouts are planned and meant: stated apart from the walker.

Source: Intel SDM vol. 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging"; AMD
APM vol. 2, "Legacy-Mode Page Translation", "Long-Mode Page Translation".
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import FRAME, U64

__all__ = ["TableFormat", "format_of", "packed", "unpacked"]

_PSE, _PAE, _LA57 = 4, 5, 12  # Of CR4.
_LMA, _NXE = 10, 11  # Of EFER.
_ANY = (1 << 64) - 1
_LOW = 0xFFE
_XD = 1 << 63
_PDPTE = 0xE18
"""PWT, PCD and the bits for software: others of a PDPTE in PAE paging are reserved."""


@dataclass(frozen=True, slots=True)
class TableFormat:
    """The tables of a paging mode; mappings are by level, 1 for the PTE's, `levels` for the root's.

    `shifts` are the linear-address bits below the index of a level, `counts` the entries of its
    tables, `flags` the bits beside P and the address that its entries may have set, with NXE.
    `large` are the levels whose PS maps a page; `width` is the number of entries in a frame, and
    `entry_bytes` the size of one. `plain` are levels whose entries have no rights and no A bit.
    `long` is IA-32e mode; `nxe` says whether bit 63 is XD.
    """

    levels: int
    va_bits: int
    entry_bytes: int
    shifts: Mapping[int, int]
    counts: Mapping[int, int]
    flags: Mapping[int, int]
    large: tuple[int, ...]
    plain: tuple[int, ...] = ()
    long: bool = False
    nxe: bool = False

    @property
    def width(self) -> int:
        """The number of entries in a frame, 512 or 1024."""
        return FRAME // self.entry_bytes

    def sizes(self, level: NDArray[np.intp]) -> U64:
        """Return the bytes that an entry of each of these levels spans, uint64[n]."""
        shifts = np.array([0, *(self.shifts[each] for each in sorted(self.shifts))], np.uint64)
        spans: U64 = np.uint64(1) << shifts[level]
        return spans

    def entry_of(self, page: U64, level: NDArray[np.intp]) -> U64:
        """Return the address bits of entries of these levels that lead to these addresses.

        A 4-MiB page has bits 39:32 of its address in bits 20:13 (PSE-36).
        """
        if self.entry_bytes == 8:
            return page
        far = (page >> np.uint64(32) & np.uint64(0xFF)) << np.uint64(13)
        found: U64 = np.where(level == 2, page & np.uint64(0xFFFF_F000) | far, page)
        return found


_SHIFTS = {1: 12, 2: 21, 3: 30, 4: 39, 5: 48}
_LONG = {
    levels: TableFormat(
        levels=levels,
        va_bits=12 + 9 * levels,
        entry_bytes=8,
        shifts={level: _SHIFTS[level] for level in range(1, levels + 1)},
        counts=dict.fromkeys(range(1, levels + 1), 512),
        flags=dict.fromkeys(range(1, levels + 1), _ANY),
        large=(2, 3),
        long=True,
    )
    for levels in (4, 5)
}
_PAE_FORMAT = TableFormat(
    levels=3,
    va_bits=32,
    entry_bytes=8,
    shifts={level: _SHIFTS[level] for level in (1, 2, 3)},
    counts={1: 512, 2: 512, 3: 4},
    flags={1: _LOW | _XD, 2: _LOW | _XD, 3: _PDPTE},
    large=(2,),
    plain=(3,),
)
_32_BIT_FORMAT = TableFormat(
    levels=2,
    va_bits=32,
    entry_bytes=4,
    shifts={1: 12, 2: 22},
    counts={1: 1024, 2: 1024},
    flags={1: _LOW, 2: _LOW},
    large=(),
)


def format_of(context: PagingContext) -> TableFormat:
    """Return the format under these control registers, decided from their bits."""
    cr4, efer = context.cr4, context.efer
    nxe = bool(efer >> _NXE & 1)
    if not cr4 >> _PAE & 1:
        # Without PAE, NXE has no effect.
        return replace(_32_BIT_FORMAT, large=(2,) if cr4 >> _PSE & 1 else ())
    if not efer >> _LMA & 1:
        return replace(_PAE_FORMAT, nxe=nxe)
    return replace(_LONG[5 if cr4 >> _LA57 & 1 else 4], nxe=nxe)


def packed(form: TableFormat, entries: U64) -> U64:
    """Return tables as words uint64[t, 512]; `entries` uint64[t, width]."""
    if form.entry_bytes == 8:
        return entries
    return np.ascontiguousarray(entries.astype(np.uint32)).view(np.uint64)


def unpacked(form: TableFormat, words: U64) -> U64:
    """Return the entries of tables, uint64[t, width], a copy; `words` uint64[t, 512]."""
    if form.entry_bytes == 8:
        return words.copy()
    return np.ascontiguousarray(words).view(np.uint32).astype(np.uint64)
