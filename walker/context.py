"""The processor state that a translation depends on, all of it and nothing else."""

from dataclasses import dataclass
from enum import IntFlag, StrEnum

from walker.errors import BadInput

__all__ = ["CR0", "CR4", "EFER", "PagingContext", "PagingMode", "Vendor"]


class CR0(IntFlag):
    """Bits of CR0 that paging looks at (Intel SDM vol. 3A 2.5)."""

    PE = 1 << 0
    WP = 1 << 16
    PG = 1 << 31


class CR4(IntFlag):
    """Bits of CR4 that paging looks at (Intel SDM vol. 3A 2.5)."""

    PSE = 1 << 4
    PAE = 1 << 5
    PGE = 1 << 7
    LA57 = 1 << 12
    SMEP = 1 << 20
    SMAP = 1 << 21
    PKE = 1 << 22
    PKS = 1 << 24


class EFER(IntFlag):
    """Bits of IA32_EFER that paging looks at (Intel SDM vol. 3A 2.2.1)."""

    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11


class Vendor(StrEnum):
    """Whose manual rules where Intel's and AMD's differ."""

    INTEL = "intel"
    AMD = "amd"


class PagingMode(StrEnum):
    """The four ways of paging, as Intel SDM vol. 3A 4.1.1 calls them."""

    BIT32 = "32-bit"
    PAE = "PAE"
    LEVEL4 = "4-level"
    LEVEL5 = "5-level"

    @property
    def long(self) -> bool:
        """Whether this is IA-32e mode, with linear addresses of 64 bits."""
        return self in (PagingMode.LEVEL4, PagingMode.LEVEL5)


_LEVELS = {
    PagingMode.BIT32: 2,
    PagingMode.PAE: 3,
    PagingMode.LEVEL4: 4,
    PagingMode.LEVEL5: 5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PagingContext:
    """Control registers and processor features that decide a translation.

    `cr3` is the only value without a default; the others default to those of a case file:
    long mode with WP, PAE and NXE set. `maxphyaddr` is in bits. `rflags_ac` is the AC under
    which effective rights are stated and the AC of an access that doesn't carry its own.
    `page1gb` is CPUID.80000001H:EDX.Page1GB. Of 32-bit paging's 4-MiB pages, PSE-36 is taken
    to be there.

    Raises `BadInput` where the registers don't describe one of the four paging modes, or need
    state that isn't modelled (CR4.PKS).

    Source: Intel SDM vol. 3A 4.1.1, 4.1.3, 4.1.4.
    """

    cr3: int
    cr0: int = 0x80010033
    cr4: int = 0x20
    efer: int = 0xD00
    pkru: int = 0
    rflags_ac: bool = False
    maxphyaddr: int = 40
    page1gb: bool = True
    vendor: Vendor = Vendor.INTEL

    def __post_init__(self) -> None:
        for name, bits in (("cr0", 64), ("cr3", 64), ("cr4", 64), ("efer", 64), ("pkru", 32)):
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise BadInput(f"{name} = {value:#x} does not fit in {bits} bits")
        if not 32 <= self.maxphyaddr <= 52:
            raise BadInput(f"maxphyaddr = {self.maxphyaddr} is not within 32..52")
        if not self.cr0 & CR0.PG or not self.cr0 & CR0.PE:
            raise BadInput(f"paging is off: CR0 = {self.cr0:#x} lacks PG or PE")
        if self.efer & EFER.LMA and not self.cr4 & CR4.PAE:
            raise BadInput(
                f"no paging mode: EFER = {self.efer:#x} has LMA, CR4 = {self.cr4:#x} lacks PAE "
                "(32-bit paging has both clear)"
            )
        if self.efer & EFER.LME and not self.efer & EFER.LMA:
            raise BadInput(
                f"no paging mode: EFER = {self.efer:#x} has LME without LMA while paging is on "
                "(PAE and 32-bit paging have both clear)"
            )
        if self.mode.long:
            self._require_long()

    def _require_long(self) -> None:
        if self.cr4 & CR4.PKS:
            raise BadInput(f"CR4 = {self.cr4:#x} sets PKS; supervisor keys are not modelled")
        if self.cr3 & self.address_mask != self.cr3 & 0x000F_FFFF_FFFF_F000:
            raise BadInput(f"cr3 = {self.cr3:#x} sets address bits above MAXPHYADDR")
        if self.cr3 >> 52 & 0x1FF:
            raise BadInput(f"cr3 = {self.cr3:#x} sets reserved bits (60:52)")

    @property
    def mode(self) -> PagingMode:
        """The paging mode."""
        if not self.cr4 & CR4.PAE:
            return PagingMode.BIT32
        if not self.efer & EFER.LMA:
            return PagingMode.PAE
        return PagingMode.LEVEL5 if self.cr4 & CR4.LA57 else PagingMode.LEVEL4

    @property
    def levels(self) -> int:
        """The number of paging levels, 2 to 5."""
        return _LEVELS[self.mode]

    @property
    def va_bits(self) -> int:
        """The width of a linear address in bits: 57, 48, or 32."""
        return 12 + 9 * self.levels if self.mode.long else 32

    @property
    def address_mask(self) -> int:
        """The bits of an entry that hold the address of a 4-KiB frame."""
        width = 32 if self.mode is PagingMode.BIT32 else self.maxphyaddr
        return (1 << width) - (1 << 12)

    @property
    def root(self) -> int:
        """The physical address of the first table: 32 bytes in PAE paging, else a frame."""
        match self.mode:
            case PagingMode.BIT32:
                return self.cr3 & 0xFFFF_F000
            case PagingMode.PAE:
                return self.cr3 & 0xFFFF_FFE0
            case _:
                return self.cr3 & self.address_mask

    @property
    def wp(self) -> bool:
        """CR0.WP: supervisor writes obey R/W."""
        return bool(self.cr0 & CR0.WP)

    @property
    def nxe(self) -> bool:
        """EFER.NXE: bit 63 of an entry is XD, not reserved. 32-bit paging has no such bit."""
        return bool(self.efer & EFER.NXE and self.cr4 & CR4.PAE)

    @property
    def pse(self) -> bool:
        """CR4.PSE: 32-bit paging has pages of 4 MiB; the other modes don't ask."""
        return bool(self.cr4 & CR4.PSE)

    @property
    def smep(self) -> bool:
        """CR4.SMEP: no supervisor fetch from a user page."""
        return bool(self.cr4 & CR4.SMEP)

    @property
    def smap(self) -> bool:
        """CR4.SMAP: no supervisor data access to a user page while AC is clear."""
        return bool(self.cr4 & CR4.SMAP)

    @property
    def pge(self) -> bool:
        """CR4.PGE: a leaf's G makes its TLB entries global."""
        return bool(self.cr4 & CR4.PGE)

    @property
    def pke(self) -> bool:
        """CR4.PKE in IA-32e mode: PKRU restricts data accesses to user pages."""
        return bool(self.cr4 & CR4.PKE) and self.mode.long

    def canonical(self, va: int) -> bool:
        """Return whether all bits of `va` above the linear address width copy its top bit.

        Outside IA-32e mode, whether there are none.
        """
        if not self.mode.long:
            return va >> self.va_bits == 0
        top = va >> (self.va_bits - 1)
        return top in (0, (1 << (65 - self.va_bits)) - 1)

    def require_linear(self, va: int) -> None:
        """Raise `BadInput` for what no access can name: over 32 bits outside IA-32e mode."""
        if not self.mode.long and not self.canonical(va):
            raise BadInput(f"va = {va:#x}: linear addresses of {self.mode} paging have 32 bits")
