"""How a processor walks, as numbers: decoded from the registers, apart from the walker."""

from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from crosswalk.walker.context import PagingContext, Vendor

__all__ = ["Keys", "LevelRules", "Pages", "Rules", "levels_of", "rules_of"]


class Pages(Enum):
    """Which entries of a level map a page."""

    NONE = auto()
    WITH_PS = auto()
    ALL = auto()


class Keys(Enum):
    """Which data accesses PKRU restricts, or PKRS: all but PAGES are mistakes."""

    PAGES = auto()
    """Those to user pages, or to supervisor pages."""
    TABLES = auto()
    """The same, but what a page is goes by the levels above its own entry."""
    ACCESSES = auto()
    """Those to any page: PKRU at CPL 3, and writes at CPL 0 by its WD; PKRS at CPL 0."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides a walk, of the registers and of the processor.

    `levels` is their number and `entry_size` the bytes of an entry. `width` is MAXPHYADDR in
    bits, `root` the physical address of the first table, `mask` the encryption mask. `pkru` is
    None where user pages have no protection keys, `pkrs` where supervisor pages have none;
    `canonical_bits` is 0 where linear addresses have 32 bits. `page1gb` and `pse` say whether there
    are pages of 1 GiB and of 4 MiB. The others:

    - `high_bit_8`: bit 8 of a PML4E or PML5E is reserved;
    - `loads_pdptes`: MOV to CR3 loads the PDPTEs of PAE paging, and raises #GP(0) if one that is
      present sets a reserved bit; else a walk reads the one that it uses;
    - `pdpte_low`: which of bits 11:0 are reserved in those;
    - `fetch_bit`: a fault's error code tells that it was a fetch;
    - `early`: A of a PDPTE that maps a page is set before its low address bits are looked at;
    - `lam_user`, `lam_supervisor`: how many bits LAM leaves of a pointer with bit 63 clear, and
      with bit 63 set; 0 for all of them;
    - `uai`: bits 63:57 of a data access's address are ignored;
    - `lass`: no access goes across to the half of the other privilege;
    - `rmw_reads_first`: a locked read-modify-write is a read, and then a write;
    - `implicit_heeds_ac`: RFLAGS.AC of CPL 0 counts for implicit accesses, too;
    - `reserved_present`: a fault for a reserved bit has P in its error code;
    - `user_keys`, `supervisor_keys`: which accesses PKRU and PKRS restrict;
    - `pk_of_user_accesses`: PK is told of accesses at CPL 3 to supervisor pages, too;
    - `pse36_all`: bits 20:13 of a 4-MiB page's entry are its address's, whatever MAXPHYADDR is;
    - `pdpte_accessed`: a walk sets A in a PDPTE of PAE paging;
    - `level_by_level`: at each entry the rights of those so far decide, before the next is read;
    - `xd_everywhere`: a fetch is refused where all entries have XD.
    """

    levels: int
    entry_size: int
    width: int
    root: int
    mask: int
    canonical_bits: int
    wp: bool
    smep: bool
    smap: bool
    pkru: int | None
    pkrs: int | None
    nxe: bool
    pse: bool
    page1gb: bool
    high_bit_8: bool
    loads_pdptes: bool
    pdpte_low: int
    fetch_bit: bool
    lam_user: int = 0
    lam_supervisor: int = 0
    uai: bool = False
    lass: bool = False
    early: bool = False
    rmw_reads_first: bool = False
    implicit_heeds_ac: bool = False
    reserved_present: bool = True
    user_keys: Keys = Keys.PAGES
    supervisor_keys: Keys = Keys.PAGES
    pse36_all: bool = False
    pdpte_accessed: bool = False
    level_by_level: bool = False
    xd_everywhere: bool = False
    pk_of_user_accesses: bool = True

    @property
    def frame_mask(self) -> int:
        """The bits of an entry that hold the address of a table."""
        return (1 << (32 if self.entry_size == 4 else self.width)) - (1 << 12)


@dataclass(frozen=True, slots=True)
class LevelRules:
    """One level: `shift` and `index_bits` of a linear address select an entry of `size` bytes.

    `reserved` are the bits that have to be 0 in a present entry that refers to a table,
    `reserved_page` in one that maps a page, and `late` those of them that are looked at when A
    has been set. `early` says that A has been set before rights are looked at. `restricts` says
    whether entries have rights and A.
    """

    shift: int
    index_bits: int
    size: int
    pages: Pages
    reserved: int
    reserved_page: int
    late: int = 0
    early: bool = False
    restricts: bool = True
    accessed: bool = True


def rules_of(context: PagingContext) -> Rules:
    """Return what the manuals have a processor do under these registers.

    Intel SDM vol. 3A, "Paging Modes and Control Bits", "Determination of Access Rights",
    "Protection Keys", "Page-Fault Exceptions", "Linear-Address Masking (LAM)",
    "Linear-Address-Space Separation (LASS)"; AMD APM vol. 2, "Long-Mode Page Translation",
    "Page-Fault Error Code", "Upper Address Ignore".
    """
    amd = context.vendor is Vendor.AMD
    pae, lma = bool(context.cr4 >> 5 & 1), bool(context.efer >> 10 & 1)
    long, la57 = pae and lma, bool(context.cr4 >> 12 & 1)
    levels = (5 if la57 else 4) if long else 3 if pae else 2
    smep = bool(context.cr4 >> 20 & 1)
    nxe = pae and bool(context.efer >> 11 & 1)
    mask = context.encryption_mask
    if long:
        root = context.cr3 & (1 << 52) - (1 << 12)
    else:
        root = context.cr3 & (0xFFFF_FFE0 if pae else 0xFFFF_F000)
    return Rules(
        levels=levels,
        entry_size=8 if pae else 4,
        width=context.maxphyaddr,
        root=root & ~mask,
        mask=mask,
        canonical_bits=(57 if la57 else 48) if long else 0,
        wp=bool(context.cr0 >> 16 & 1),
        smep=smep,
        smap=bool(context.cr4 >> 21 & 1),
        pkru=context.pkru if long and context.cr4 >> 22 & 1 else None,
        pkrs=context.pkrs if long and context.cr4 >> 24 & 1 else None,
        nxe=nxe,
        pse=bool(context.cr4 >> 4 & 1),
        page1gb=context.page1gb,
        high_bit_8=amd,
        loads_pdptes=levels == 3 and not amd,
        pdpte_low=_PDPTE_LOW if levels == 3 else 0,
        fetch_bit=nxe or (smep and not amd),
        lam_user=_lam_user(context.cr3) if long else 0,
        lam_supervisor=(57 if la57 else 48) if long and context.cr4 >> 28 & 1 else 0,
        uai=long and bool(context.efer >> 20 & 1),
        lass=long and bool(context.cr4 >> 27 & 1),
    )


def _lam_user(cr3: int) -> int:
    """Return how many bits CR3.LAM_U57 or CR3.LAM_U48 leave of a user pointer, 0 for all."""
    return 57 if cr3 >> 61 & 1 else 48 if cr3 >> 62 & 1 else 0


_PDPTE_LOW = 0b1_1110_0110
_BIT_PS, _BIT_8, _BIT_PAT = 1 << 7, 1 << 8, 1 << 12
_BITS_51_12 = (1 << 52) - (1 << 12)
_WIDEST_4MIB = 40


@lru_cache(1 << 10)
def levels_of(rules: Rules) -> tuple[LevelRules, ...]:
    """Return the levels of these rules, from the root's down."""
    if rules.entry_size == 4:
        return _two_levels(rules)
    high = _BITS_51_12 & -(1 << rules.width)
    last = high | (0 if rules.nxe else 1 << 63)
    if rules.levels == 3:
        last |= (1 << 63) - (1 << 52)
    lower = (
        LevelRules(21, 9, 8, Pages.WITH_PS, last, last | _below(21)),
        LevelRules(12, 9, 8, Pages.ALL, last, last),
    )
    if rules.levels == 3:
        bits = high | (1 << 64) - (1 << 52) | rules.pdpte_low
        marked = rules.pdpte_accessed
        first = LevelRules(30, 2, 8, Pages.NONE, bits, bits, restricts=False, accessed=marked)
        return (first, *lower)
    table = last | _BIT_PS
    upper = table | (_BIT_8 if rules.high_bit_8 else 0)
    pdpte = LevelRules(
        30,
        9,
        8,
        Pages.WITH_PS if rules.page1gb else Pages.NONE,
        last if rules.page1gb else table,
        last | _below(30) if rules.page1gb else table,
        late=_below(30) if rules.early else 0,
        early=True,
    )
    heads = (LevelRules(shift, 9, 8, Pages.NONE, upper, upper) for shift in (48, 39))
    return (*tuple(heads)[5 - rules.levels :], pdpte, *lower)


def _two_levels(rules: Rules) -> tuple[LevelRules, ...]:
    width = _WIDEST_4MIB if rules.pse36_all else min(rules.width, _WIDEST_4MIB)
    # Bits 20:13 hold address bits 39:32; bit 21 is reserved in any case.
    reserved = (1 << 22) - (1 << 13 + width - 32)
    pages = Pages.WITH_PS if rules.pse else Pages.NONE
    return (
        LevelRules(22, 10, 4, pages, 0, reserved),
        LevelRules(12, 10, 4, Pages.ALL, 0, 0),
    )


def _below(shift: int) -> int:
    """Return the bits of an entry that would be an address within its page, but for PAT."""
    return (1 << shift) - (1 << 12) & ~_BIT_PAT
