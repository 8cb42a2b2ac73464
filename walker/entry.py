"""The format of paging-structure entries, as tables (Intel SDM vol. 3A 4.5, AMD APM vol. 2 5.3)."""

from dataclasses import dataclass
from enum import IntFlag

from walker.context import PagingContext, Vendor

__all__ = [
    "ADDRESS_FIELD",
    "LEVELS",
    "Entry",
    "Level",
    "entry_flags",
    "index_of",
    "is_leaf",
    "leaf_address",
    "protection_key",
    "reserved_bits",
]

ADDRESS_FIELD = 0x000F_FFFF_FFFF_F000
_PK_SHIFT = 59


class Entry(IntFlag):
    """Bits of an entry; PS is the PAT bit of a 4-KiB page, whose PS would mean nothing."""

    P = 1 << 0
    RW = 1 << 1
    US = 1 << 2
    PWT = 1 << 3
    PCD = 1 << 4
    A = 1 << 5
    D = 1 << 6
    PS = 1 << 7
    G = 1 << 8
    PAT_LARGE = 1 << 12
    XD = 1 << 63


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the hierarchy: its table's and its entries' names, and what one maps.

    `shift` is the number of linear-address bits below the index; an entry spans 1 << shift
    bytes. `large` says whether PS makes its entry a leaf.
    """

    number: int
    table: str
    entry: str
    shift: int
    large: bool

    @property
    def span(self) -> int:
        """The bytes of linear address space that one entry covers."""
        return 1 << self.shift


LEVELS = {
    level.number: level
    for level in (
        Level(1, "PT", "PTE", 12, large=False),
        Level(2, "PD", "PDE", 21, large=True),
        Level(3, "PDPT", "PDPTE", 30, large=True),
        Level(4, "PML4", "PML4E", 39, large=False),
        Level(5, "PML5", "PML5E", 48, large=False),
    )
}


def index_of(va: int, level: int) -> int:
    """Return the index (0..511) that `va` selects in a table of this level."""
    return va >> LEVELS[level].shift & 511


def is_leaf(context: PagingContext, level: int, entry: int) -> bool:
    """Return whether a present entry maps a page; without 1-GiB pages a PDPTE never does."""
    if level == 1:
        return True
    if level == 3 and not context.page1gb:
        return False
    return LEVELS[level].large and bool(entry & Entry.PS)


def reserved_bits(context: PagingContext, level: int, *, leaf: bool) -> int:
    """Return the mask of bits that must be 0 in a present entry (SDM vol. 3A tables 4-14..4-20).

    Address bits from MAXPHYADDR up; XD while EFER.NXE is clear; PS where it makes no leaf; the
    address bits of a large leaf below its size, but for PAT in bit 12. For AMD also bit 8 of a
    PML4E or PML5E (APM vol. 2 5.3.3).
    """
    reserved = ADDRESS_FIELD & ~context.address_mask
    if not context.nxe:
        reserved |= Entry.XD
    if not leaf:
        if level > 2:
            reserved |= Entry.PS
        if level > 3 and context.vendor is Vendor.AMD:
            reserved |= Entry.G
    elif level > 1:
        reserved |= (LEVELS[level].span - 1) & ADDRESS_FIELD & ~Entry.PAT_LARGE
    return int(reserved)


def leaf_address(context: PagingContext, level: int, entry: int) -> int:
    """Return the physical address of the page that a leaf of this level maps."""
    return entry & context.address_mask & -LEVELS[level].span


def protection_key(leaf: int) -> int:
    """Return bits 62:59 of a leaf entry."""
    return leaf >> _PK_SHIFT & 15


def entry_flags(level: int, leaf: int) -> int:
    """Return the bits of a leaf entry outside its address field, as in the file: PAT included."""
    return leaf & ~(ADDRESS_FIELD & -LEVELS[level].span)
