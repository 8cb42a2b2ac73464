"""The processor state that a translation depends on. Register bits are listed in `control`."""

from dataclasses import dataclass
from enum import StrEnum

from crosswalk.walker.control import CR0, CR3, CR4, EFER, Vendor, refuse_unmodelled
from crosswalk.walker.errors import BadInput

__all__ = ["CR0", "CR3", "CR4", "EFER", "PagingContext", "PagingMode", "Vendor"]


class PagingMode(StrEnum):
    """The four ways of paging, as Intel SDM vol. 3A, "Four Paging Modes", calls them."""

    BIT32 = "32-bit"
    PAE = "PAE"
    LEVEL4 = "4-level"
    LEVEL5 = "5-level"

    @property
    def long(self) -> bool:
        """Whether this is IA-32e mode, with linear addresses of 64 bits."""
        return self in (PagingMode.LEVEL4, PagingMode.LEVEL5)

    @property
    def slug(self) -> str:
        """The name on command lines and in JSON: 32bit, pae, 4level or 5level."""
        return self.value.replace("-", "").lower()


_ADDRESS_FIELD = 0x000F_FFFF_FFFF_F000

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
    long mode with WP, PAE and NXE set. `pkrs` is the MSR IA32_PKRS, of which bits 63:32 have to
    be 0. `maxphyaddr` is in bits. `rflags_ac` is the AC under
    which effective rights are stated and the AC of an access that doesn't carry its own.
    `page1gb` is CPUID.80000001H:EDX.Page1GB. Of 32-bit paging's 4-MiB pages, PSE-36 is taken
    to be there. `encryption_mask` are the bits, of 51:12, that say in an entry and in CR3 how
    memory is encrypted (AMD's C-bit, TDX' shared bit, key IDs) and are no part of an address;
    they may lie above MAXPHYADDR, and 32-bit paging has none.

    Raises `BadInput` where the registers don't describe one of the four paging modes, and for
    bits of them that aren't modelled or that the vendor doesn't have (see
    `crosswalk.walker.control`).

    Source: Intel SDM vol. 3A, "Four Paging Modes", "Paging-Mode Modifiers", "Enumeration of
    Paging Features by CPUID"; AMD APM vol. 2, "Secure Memory Encryption".
    """

    cr3: int
    cr0: int = 0x80010033
    cr4: int = 0x20
    efer: int = 0xD00
    pkru: int = 0
    pkrs: int = 0
    rflags_ac: bool = False
    maxphyaddr: int = 40
    page1gb: bool = True
    vendor: Vendor = Vendor.INTEL
    encryption_mask: int = 0

    def __post_init__(self) -> None:
        for name in ("cr0", "cr3", "cr4", "efer", "pkru", "pkrs"):
            value, bits = getattr(self, name), 32 if name.startswith("pkr") else 64
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
        registers = {"CR0": self.cr0, "CR4": self.cr4, "EFER": self.efer}
        if self.mode.long:
            registers["CR3"] = self.cr3
        refuse_unmodelled(self.vendor, registers)
        self._require_encryption()
        if self.mode.long:
            self._require_cr3()

    def _require_encryption(self) -> None:
        # Below bit 12 an entry has its flags, above bit 51 its key and XD.
        if self.encryption_mask & ~_ADDRESS_FIELD:
            raise BadInput(f"encryption_mask = {self.encryption_mask:#x} is not within bits 51:12")
        if self.encryption_mask and self.mode is PagingMode.BIT32:
            raise BadInput(
                f"encryption_mask = {self.encryption_mask:#x}: entries of 32-bit paging have none"
            )

    def _require_cr3(self) -> None:
        address = self.cr3 & _ADDRESS_FIELD & ~self.encryption_mask
        if address & ~self.address_mask:
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
        return (1 << width) - (1 << 12) & ~self.encryption_mask

    @property
    def root(self) -> int:
        """The physical address of the first table: 32 bytes in PAE paging, else a frame."""
        match self.mode:
            case PagingMode.BIT32:
                return self.cr3 & 0xFFFF_F000
            case PagingMode.PAE:
                return self.cr3 & 0xFFFF_FFE0 & ~self.encryption_mask
            case _:
                return self.cr3 & self.address_mask

    @property
    def loads_pdptes(self) -> bool:
        """Whether MOV to CR3 loads the PDPTEs of PAE paging, all of them or none.

        Intel's processors do; AMD's read one when an access goes through it, as other entries.

        Source: Intel SDM vol. 3A, "PDPTE Registers"; AMD APM vol. 2, "TLB Management".
        """
        return self.mode is PagingMode.PAE and self.vendor is Vendor.INTEL

    @property
    def reports_fetches(self) -> bool:
        """Whether I/D in a page fault's error code reports that the access was a fetch.

        With EFER.NXE and CR4.PAE; on Intel's processors with CR4.SMEP as well.

        Source: Intel SDM vol. 3A, "Page-Fault Exceptions"; AMD APM vol. 2, "Page-Fault Error
        Code".
        """
        return self.nxe or (self.smep and self.vendor is Vendor.INTEL)

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

    @property
    def pks(self) -> bool:
        """CR4.PKS in IA-32e mode: IA32_PKRS restricts data accesses to supervisor pages."""
        return bool(self.cr4 & CR4.PKS) and self.mode.long

    @property
    def lam_user(self) -> int:
        """The bits that LAM leaves of user pointers, bit 63 clear: 57, 48, or 0 for no masking.

        CR3.LAM_U57 goes before CR3.LAM_U48. In 64-bit mode alone, as all of LAM.
        """
        if not self.mode.long:
            return 0
        return 57 if self.cr3 & CR3.LAM_U57 else 48 if self.cr3 & CR3.LAM_U48 else 0

    @property
    def lam_supervisor(self) -> int:
        """The bits that LAM leaves of supervisor pointers, bit 63 set, or 0: by CR4.LAM_SUP."""
        return self.va_bits if self.mode.long and self.cr4 & CR4.LAM_SUP else 0

    @property
    def uai(self) -> bool:
        """EFER.UAIE in 64-bit mode: bits 63:57 of a data access's address are ignored."""
        return bool(self.efer & EFER.UAIE) and self.mode.long

    @property
    def lass(self) -> bool:
        """CR4.LASS in IA-32e mode: no access goes across to the half of the other privilege."""
        return bool(self.cr4 & CR4.LASS) and self.mode.long

    @property
    def address_features(self) -> tuple[str, ...]:
        """The names of the features in use among LAM, LASS, UAI and encryption, for errors."""
        used = {
            "LAM": self.lam_user or self.lam_supervisor,
            "LASS": self.lass,
            "UAI": self.uai,
            "an encryption mask": self.encryption_mask,
        }
        return tuple(name for name, value in used.items() if value)

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
