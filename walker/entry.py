"""The format of paging-structure entries, as tables, mode by mode.

Intel SDM vol. 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging"; AMD APM vol.
2, "Legacy-Mode Page Translation", "Long-Mode Page Translation".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag

from crosswalk.walker.context import PagingContext, PagingMode, Vendor

__all__ = [
    "ADDRESS_FIELD",
    "FORMATS",
    "LEVELS",
    "PSE36_DISTANCE",
    "PSE36_HIGH",
    "PSE36_LOW",
    "SHIFT_4MIB",
    "Entry",
    "Level",
    "address_bits",
    "is_leaf",
    "leaf_address",
    "level_of",
    "maps_large",
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
    bytes. `large` says whether PS may make its entry a leaf. A table has 1 << `index_bits`
    entries of `entry_size` bytes. `restricts` says whether entries have rights and A: those of
    a PAE PDPT haven't; they are loaded into registers all at once, before any access.
    """

    number: int
    table: str
    entry: str
    shift: int
    large: bool
    index_bits: int = 9
    entry_size: int = 8
    restricts: bool = True

    @property
    def span(self) -> int:
        """The bytes of linear address space that one entry covers."""
        return 1 << self.shift

    @property
    def entries(self) -> int:
        """The number of entries in a table."""
        return 1 << self.index_bits

    def index(self, va: int) -> int:
        """Return the index that `va` selects in a table of this level."""
        return va >> self.shift & self.entries - 1


def _numbered(*levels: Level) -> Mapping[int, Level]:
    return {level.number: level for level in levels}


LEVELS = _numbered(
    Level(1, "PT", "PTE", 12, large=False),
    Level(2, "PD", "PDE", 21, large=True),
    Level(3, "PDPT", "PDPTE", 30, large=True),
    Level(4, "PML4", "PML4E", 39, large=False),
    Level(5, "PML5", "PML5E", 48, large=False),
)
"""The levels of 4- and 5-level paging; the names are the same in all modes."""

SHIFT_4MIB = 22
"""The shift of a page directory in 32-bit paging, and of nothing else in any mode."""

PSE36_LOW, PSE36_HIGH = 0xFFC0_0000, 0x001F_E000
"""A 4-MiB page has bits 31:22 of its address in their place, and bits 39:32 in bits 20:13."""
PSE36_DISTANCE = 19
"""How much further up the latter belong."""

FORMATS = {
    PagingMode.BIT32: _numbered(
        Level(1, "PT", "PTE", 12, large=False, index_bits=10, entry_size=4),
        Level(2, "PD", "PDE", SHIFT_4MIB, large=True, index_bits=10, entry_size=4),
    ),
    PagingMode.PAE: _numbered(
        LEVELS[1],
        LEVELS[2],
        Level(3, "PDPT", "PDPTE", 30, large=False, index_bits=2, restricts=False),
    ),
    PagingMode.LEVEL4: LEVELS,
    PagingMode.LEVEL5: LEVELS,
}
"""The levels of each mode, by number."""


def level_of(context: PagingContext, number: int) -> Level:
    """Return the level of this number in the context's paging mode; 1 is the last table."""
    return FORMATS[context.mode][number]


def maps_large(context: PagingContext, level: int) -> bool:
    """Return whether PS makes a leaf of an entry of this level.

    In 32-bit paging it does with CR4.PSE alone, in a PDPTE with 1-GiB pages alone.
    """
    if context.mode is PagingMode.BIT32:
        return level == 2 and context.pse
    return level_of(context, level).large and (level != 3 or context.page1gb)


def is_leaf(context: PagingContext, level: int, entry: int) -> bool:
    """Return whether a present entry maps a page."""
    return level == 1 or (maps_large(context, level) and bool(entry & Entry.PS))


def reserved_bits(context: PagingContext, level: int, *, leaf: bool) -> int:
    """Return the mask of bits that must be 0 in a present entry.

    Address bits from MAXPHYADDR up; XD while EFER.NXE is clear; PS where it makes no leaf; the
    address bits of a large leaf below its size, but for PAT in bit 12. For AMD also bit 8 of a
    PML4E or PML5E. In PAE paging bits 62:52 too, and in a PDPTE bit 63, whatever NXE is, and bits
    8:5 and 2:1. In 32-bit paging only those of a 4-MiB page: bit 21, and of bits 20:13 what would
    be address bits from MAXPHYADDR up. Bits of the encryption mask are reserved nowhere.

    Source: Intel SDM vol. 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging":
    the tables of entry formats. AMD APM vol. 2, "4-Kbyte Page Translation".
    """
    if context.mode is PagingMode.BIT32:
        if not leaf or level == 1:
            return 0
        return (1 << SHIFT_4MIB) - (1 << min(context.maxphyaddr, 40) - PSE36_DISTANCE)
    reserved = ADDRESS_FIELD & ~context.address_mask
    if not context.nxe:
        reserved |= Entry.XD
    if context.mode is PagingMode.PAE:
        reserved |= _PAE_HIGH
        if level == 3:
            reserved |= Entry.XD | _PAE_PDPTE
            return int(reserved & ~context.encryption_mask)
    if not leaf:
        if level > 2:
            reserved |= Entry.PS
        if level > 3 and context.vendor is Vendor.AMD:
            reserved |= Entry.G
    elif level > 1:
        reserved |= (LEVELS[level].span - 1) & ADDRESS_FIELD & ~Entry.PAT_LARGE
    return int(reserved & ~context.encryption_mask)


_PAE_HIGH = (1 << 63) - (1 << 52)
_PAE_PDPTE = Entry.RW | Entry.US | Entry.A | Entry.D | Entry.PS | Entry.G


def leaf_address(context: PagingContext, level: int, entry: int) -> int:
    """Return the physical address of the page that a leaf of this level maps."""
    shift = level_of(context, level).shift
    if shift == SHIFT_4MIB:
        return entry & PSE36_LOW | (entry & PSE36_HIGH) << PSE36_DISTANCE
    return entry & context.address_mask & -(1 << shift)


def protection_key(leaf: int) -> int:
    """Return bits 62:59 of a leaf entry."""
    return leaf >> _PK_SHIFT & 15


def address_bits(shift: int) -> int:
    """Return the address field of a leaf whose page has 1 << `shift` bytes, as a mask."""
    if shift == SHIFT_4MIB:
        return PSE36_LOW | PSE36_HIGH
    return ADDRESS_FIELD & -(1 << shift)
