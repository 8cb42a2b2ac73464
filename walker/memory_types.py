"""Memory types: how a processor may cache a page, by its entry, IA32_PAT, MTRRs and CR0.CD.

The type of a page's own is the field of IA32_PAT that its leaf's PAT, PCD and PWT choose. With the
type that the MTRRs give the physical address it makes the effective type. Nothing that Crosswalk
can ask shows memory types: an emulated CPU has no caches. So they are predicted only.

Source: Intel SDM vol. 3A, "Page Attribute Table (PAT)", "Selecting Memory Types for Pentium III and
More Recent Processor Families", "Large Page Size Considerations"; AMD APM vol. 2, "Page-Attribute
Table Mechanism", "Combined Effect of MTRRs and PAT", "Cache Control Mechanisms".
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.entry import Entry
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import U64
from crosswalk.walker.mtrrs import MTRR_TYPES, MemoryType, Mtrrs

__all__ = ["RESET_PAT", "MemoryType", "MemoryTypes", "Pat", "is_pat", "pat_index", "pat_indices"]

RESET_PAT = 0x0007_0406_0007_0406
"""IA32_PAT after power-up or reset: WB, WT, UC-, UC, and the same again."""

_CD = 1 << 30

UC, WC, WT, WP, WB = MTRR_TYPES
UC_MINUS, CD, WC_PLUS = MemoryType.UC_MINUS, MemoryType.CD, MemoryType.WC_PLUS
MIXED, UNDEFINED = MemoryType.MIXED, MemoryType.UNDEFINED


@dataclass(frozen=True)
class Pat:
    """A value of IA32_PAT: the memory type of each of its eight fields.

    Raises `BadInput` for a value that WRMSR refuses: one of more than 64 bits, one with a reserved
    type in a field.
    """

    value: int = RESET_PAT

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << 64:
            raise BadInput(f"pat = {self.value:#x} does not fit in 64 bits")
        for at in range(8):
            field = self.value >> 8 * at & 0xFF
            if field not in (*MTRR_TYPES, UC_MINUS):
                raise BadInput(
                    f"pat = {self.value:#x} has {field:#x} in field PA{at}, which is reserved "
                    "(0 uc, 1 wc, 4 wt, 5 wp, 6 wb, 7 uc-)"
                )

    @cached_property
    def types(self) -> NDArray[np.uint8]:
        """The `MemoryType` of each field, uint8[8]."""
        return np.array([self.value >> 8 * at & 0xFF for at in range(8)], np.uint8)

    def __str__(self) -> str:
        return f"{self.value:#018x}"


def is_pat(value: int) -> bool:
    """Return whether a number is a value that IA32_PAT can have."""
    try:
        Pat(value)
    except BadInput:
        return False
    return True


def pat_index(level: int, leaf: int) -> int:
    """Return the number of the field of IA32_PAT that a leaf of this level selects.

    PAT is bit 7 of an entry of level 1 and bit 12 of one that maps a larger page, in all modes.
    """
    pat = leaf & (Entry.PS if level == 1 else Entry.PAT_LARGE)
    return (4 if pat else 0) | (2 if leaf & Entry.PCD else 0) | (1 if leaf & Entry.PWT else 0)


def pat_indices(level: NDArray[np.uint8], flags: U64) -> NDArray[np.uint8]:
    """Return `pat_index` of n leaves: their levels, uint8[n], and bits, uint64[n]; uint8[n]."""
    # PWT and PCD stand one beside the other.
    low = (flags >> np.uint64(3)).astype(np.uint8) & np.uint8(3)
    small = (flags >> np.uint64(5)).astype(np.uint8) & np.uint8(4)
    if (level == 1).all():
        return low | small
    large = (flags >> np.uint64(10)).astype(np.uint8) & np.uint8(4)
    return low | np.where(level == 1, small, large)


@dataclass(frozen=True)
class MemoryTypes:
    """What decides memory types besides the entries; computes those of pages.

    Without `mtrrs`, which few sources hold, a type is that of the page's own: UC- among them, which
    MTRRs would make UC, or WC where they say WC. `disabled` is CR0.CD, under which nothing is
    cached: everything is UC then, on AMD's processors CD.
    """

    pat: Pat = Pat()
    mtrrs: Mtrrs | None = None
    vendor: Vendor = Vendor.INTEL
    disabled: bool = False

    @classmethod
    def of(
        cls, context: PagingContext, pat: Pat | None = None, mtrrs: Mtrrs | None = None
    ) -> "MemoryTypes":
        """Return what decides them in a context: its vendor, and CR0.CD."""
        return cls(pat or Pat(), mtrrs, context.vendor, bool(context.cr0 & _CD))

    def of_pages(
        self, pa: U64, size: U64, level: NDArray[np.uint8], flags: U64
    ) -> NDArray[np.uint8]:
        """Return the `MemoryType` of n pages, uint8[n].

        `pa` and `size` uint64[n] in bytes, `level` uint8[n], `flags` uint64[n]: the leaf's bits
        outside its address field, or all of them.
        """
        return self.of_indices(pa, size, pat_indices(level, flags))

    def of_indices(self, pa: U64, size: U64, index: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the same by the fields of IA32_PAT that the pages select, uint8[n]."""
        masks = self.mtrr_masks(pa, size)
        return self.effective[self.pat.types[index], masks]

    def of_own(self, own: MemoryType, pa: int) -> MemoryType:
        """Return the type at a physical address that is mapped with this type of a page's own."""
        address = np.array([pa], np.uint64)
        mask = self.mtrr_masks(address, np.ones(1, np.uint64))
        return MemoryType(self.effective[own, mask[0]])

    def mtrr_masks(self, pa: U64, size: U64) -> NDArray[np.uint8]:
        """Return for n physical ranges the types that the MTRRs give their bytes, uint8[n].

        A bit for each of `MTRR_TYPES`, and the next one for UNDEFINED; none without MTRRs.
        """
        if self.mtrrs is None:
            return np.zeros(len(pa), np.uint8)
        starts, bits = self._stretches
        first = np.searchsorted(starts, pa, "right") - 1
        last = np.searchsorted(starts, pa + (size - np.uint64(1)), "right") - 1
        masks = bits[first]
        apart = np.flatnonzero(first != last)
        if len(apart):
            # How often each type begins before a stretch tells which there are from one to another.
            counts = self._counts
            there = counts[last[apart] + 1] != counts[first[apart]]
            masks[apart] = np.packbits(there, axis=1, bitorder="little")[:, 0]
        return masks

    @cached_property
    def _stretches(self) -> tuple[U64, NDArray[np.uint8]]:
        """Where stretches of one type begin, and the bit of its type."""
        if self.mtrrs is None:
            raise ValueError("no MTRRs")
        starts, types = self.mtrrs.stretches()
        bits = np.zeros(len(MemoryType) + 8, np.uint8)
        for at, kind in enumerate((*MTRR_TYPES, UNDEFINED)):
            bits[kind] = 1 << at
        return starts, bits[types]

    @cached_property
    def bounds(self) -> U64:
        """The physical addresses, ascending, at which the MTRRs' type changes; none without."""
        return self._stretches[0][1:] if self.mtrrs is not None else np.zeros(0, np.uint64)

    @cached_property
    def _counts(self) -> NDArray[np.intp]:
        _, bits = self._stretches
        each = np.unpackbits(bits[:, None], axis=1, bitorder="little").astype(np.intp)
        return np.concatenate([np.zeros((1, 8), np.intp), np.cumsum(each, axis=0)])

    @cached_property
    def effective(self) -> NDArray[np.uint8]:
        """The type by that of the page's own and the mask of the MTRRs' types, uint8[8, 64]."""
        table = np.zeros((8, 64), np.uint8)
        for own in (*MTRR_TYPES, UC_MINUS):
            for mask in range(64):
                table[own, mask] = self._one(own, mask)
        return table

    def _one(self, own: MemoryType, mask: int) -> MemoryType:
        if self.disabled:
            return UC if self.vendor is Vendor.INTEL else CD
        if not mask:
            return own
        if mask >> len(MTRR_TYPES):
            return UNDEFINED
        combined = _COMBINED[self.vendor][own]
        found = {combined[at] for at in range(len(MTRR_TYPES)) if mask >> at & 1}
        return found.pop() if len(found) == 1 else MIXED


_COMBINED = {
    Vendor.INTEL: {
        UC: (UC, UC, UC, UC, UC),
        UC_MINUS: (UC, WC, UC, WC, UC),
        WC: (WC, WC, WC, WC, WC),
        WT: (UC, UC, WT, WT, WT),
        WP: (UC, UC, WP, WP, WP),
        WB: (UC, WC, WT, WP, WB),
    },
    Vendor.AMD: {
        UC: (UC, CD, CD, CD, CD),
        UC_MINUS: (UC, WC, CD, CD, CD),
        WC: (WC, WC, WC_PLUS, WC_PLUS, WC_PLUS),
        WT: (UC, CD, WT, CD, WT),
        WP: (UC, CD, CD, WP, WP),
        WB: (UC, WC, WT, WP, WB),
    },
}
"""The effective type by vendor, the page's own type, and the MTRRs' in the order of `MTRR_TYPES`.

The tables are "Effective Page-Level Memory Types for Pentium III and More Recent Processor
Families" of Intel SDM vol. 3A and "Combined Effect of MTRR and PAT Memory Types" of AMD APM vol. 2.
"""
