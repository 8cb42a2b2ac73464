"""The state that a translation in two dimensions depends on: the guest's and the host's."""

from dataclasses import dataclass
from enum import IntFlag

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput

__all__ = ["EptCapability", "EptContext", "NestedContext"]

_ADDRESS_FIELD = 0x000F_FFFF_FFFF_F000
_WB = 6
_TYPE, _LENGTH, _LENGTH_SHIFT = 7, 7 << 3, 3
_ACCESSED_DIRTY, _SUPERVISOR_SHADOW_STACK, _RESERVED = 1 << 6, 1 << 7, 0xF00


class EptCapability(IntFlag):
    """The bits of IA32_VMX_EPT_VPID_CAP that say how EPT entries are read.

    EXECUTE_ONLY: entries may have X, or XU, without R. LENGTH_4, LENGTH_5: the number of levels.
    UC, WB: the memory type of EPT's own tables, in the EPTP. PAGE_2M, PAGE_1G: bit 7 of a PDE or a
    PDPTE maps a page. ACCESSED_DIRTY: bit 6 of the EPTP. ADVANCED: bits 11:9 of the exit
    qualification say what the guest's tables allow.

    Source: Intel SDM vol. 3D, "VPID and EPT Capabilities".
    """

    EXECUTE_ONLY = 1 << 0
    LENGTH_4 = 1 << 6
    LENGTH_5 = 1 << 7
    UC = 1 << 8
    WB = 1 << 14
    PAGE_2M = 1 << 16
    PAGE_1G = 1 << 17
    ACCESSED_DIRTY = 1 << 21
    ADVANCED = 1 << 22


_ALL = EptCapability(sum(EptCapability))
_LENGTHS = {4: EptCapability.LENGTH_4, 5: EptCapability.LENGTH_5}
_TYPES = {0: EptCapability.UC, _WB: EptCapability.WB}


@dataclass(frozen=True, slots=True, kw_only=True)
class EptContext:
    """What decides how a processor reads an EPT: the EPTP, two controls' state, capabilities.

    `eptp` is the VM-execution control field: the address of the first table, in bits 2:0 the memory
    type of the tables, in 5:3 the number of levels less 1, in bit 6 whether A and D are used.
    `mbec` is the VM-execution control "mode-based execute control for EPT". `maxphyaddr` is the
    processor's, in bits; `capabilities` are what it has of `EptCapability`.

    Raises `BadInput` for an EPTP with which VM entry fails, and for one that turns on supervisor
    shadow stacks (bit 7), which aren't modelled. Nor are sub-page permissions, guest-paging
    verification and paging-write accesses: their controls are taken to be off.

    Source: Intel SDM vol. 3C, "Extended-Page-Table Pointer (EPTP)", "VM-Execution Control Fields".
    """

    eptp: int
    mbec: bool = False
    maxphyaddr: int = 40
    capabilities: EptCapability = _ALL

    def __post_init__(self) -> None:
        if not 0 <= self.eptp < 1 << 64:
            raise BadInput(f"eptp = {self.eptp:#x} does not fit in 64 bits")
        if not 32 <= self.maxphyaddr <= 52:
            raise BadInput(f"maxphyaddr = {self.maxphyaddr} is not within 32..52")
        wrong = self._unsupported() or next(
            (text for bits, text in self._forbidden() if self.eptp & bits), None
        )
        if wrong is not None:
            raise BadInput(f"eptp = {self.eptp:#x} {wrong}")

    def _unsupported(self) -> str | None:
        """Return what of the EPTP's memory type, levels and A/D can't be had, or None."""
        kind, length = _TYPES.get(self.eptp & _TYPE), _LENGTHS.get(self.levels)
        if kind is None:
            return f"has the memory type {self.eptp & _TYPE}: neither 0 (UC) nor 6 (WB)"
        if length is None:
            return f"has {self.levels} levels: neither 4 nor 5"
        needed = kind | length
        if self.accessed_dirty:
            needed |= EptCapability.ACCESSED_DIRTY
        missing = needed & ~self.capabilities
        if missing:
            names = ", ".join(str(bit.name) for bit in EptCapability if bit & missing)
            return f"needs what the processor lacks: {names}"
        return None

    def _forbidden(self) -> tuple[tuple[int, str], ...]:
        """Return bits that the EPTP may not set, and what to say of each."""
        return (
            (
                _SUPERVISOR_SHADOW_STACK,
                "turns on supervisor shadow stacks (bit 7), which are not modelled",
            ),
            (_RESERVED, "sets reserved bits (11:8)"),
            (-1 << self.maxphyaddr, "sets bits from MAXPHYADDR up"),
        )

    @classmethod
    def at(
        cls,
        root: int,
        *,
        levels: int = 4,
        accessed_dirty: bool = False,
        mbec: bool = False,
        maxphyaddr: int = 40,
        capabilities: EptCapability = _ALL,
    ) -> "EptContext":
        """Return the context of tables in write-back memory whose first lies at `root`.

        `BadInput` for a root that isn't a frame's address, and as for the EPTP that this makes.
        """
        if root & ~_ADDRESS_FIELD:
            raise BadInput(f"the first table of an EPT is not at the address of a frame: {root:#x}")
        eptp = root | levels - 1 << _LENGTH_SHIFT | _WB | (_ACCESSED_DIRTY if accessed_dirty else 0)
        return cls(eptp=eptp, mbec=mbec, maxphyaddr=maxphyaddr, capabilities=capabilities)

    @property
    def root(self) -> int:
        """The physical address of the first table."""
        return self.eptp & _ADDRESS_FIELD

    @property
    def levels(self) -> int:
        """The number of levels, 4 or 5."""
        return ((self.eptp & _LENGTH) >> _LENGTH_SHIFT) + 1

    @property
    def gpa_bits(self) -> int:
        """The width of the guest-physical addresses that the tables translate: 48 or 57 bits."""
        return 12 + 9 * self.levels

    @property
    def accessed_dirty(self) -> bool:
        """EPTP bit 6: A and D are set in entries, and accesses to a guest's tables are writes."""
        return bool(self.eptp & _ACCESSED_DIRTY)

    @property
    def address_mask(self) -> int:
        """The bits of an entry that hold the address of a 4-KiB frame."""
        return (1 << self.maxphyaddr) - (1 << 12)


@dataclass(frozen=True, slots=True)
class NestedContext:
    """`guest` has the guest's registers; `host` says how the host's tables are read.

    Under AMD's nested paging `host` has the host's registers as they were at VMRUN. Its `cr3` is
    the VMCB's nCR3, and its CR4 and EFER say how nested entries are read: EFER.NXE above all. The
    guest's CR0 and CR4 restrict nothing in nested tables, nor do the host's WP, SMEP, SMAP and PKE:
    every access is a user's there. `gmet` is the VMCB's guest-mode execute trap, with which U/S of
    nested entries decides who executes, and nothing else. No judge has it: predicted only.

    Under Intel's EPT `host` is an `EptContext`. It is one processor that walks both dimensions:
    `maxphyaddr` is the same on both sides.

    The guest's `cr3` is a guest-physical address, the address of the host's tables a
    system-physical one.

    Raises `BadInput` where either side isn't in IA-32e mode, and for LAM, LASS, UAI, PKS and
    an encryption mask on either side: none of that is modelled in two dimensions. Under EPT also
    for a guest of AMD's, for two widths of physical addresses, and for `gmet`.

    Source: AMD APM vol. 2, "Nested Paging"; Intel SDM vol. 3C, "EPT Translation Mechanism".
    """

    guest: PagingContext
    host: PagingContext | EptContext
    gmet: bool = False

    def __post_init__(self) -> None:
        sides = {"guest": self.guest}
        if isinstance(self.host, EptContext):
            self._require_ept(self.host)
        else:
            sides["host"] = self.host
        for side, context in sides.items():
            if not context.mode.long:
                raise BadInput(
                    f"nested paging is modelled for 4- and 5-level paging; the {side} has "
                    f"{context.mode} paging"
                )
            for name in (*context.address_features, *(["PKS"] if context.pks else [])):
                raise BadInput(f"nested paging is not modelled with {name}; the {side} has it")

    def _require_ept(self, host: EptContext) -> None:
        if self.gmet:
            raise BadInput("GMET is AMD's: EPT has mode-based execute control")
        if self.guest.vendor is not Vendor.INTEL:
            raise BadInput("EPT is Intel's: the guest's vendor has to be intel")
        if self.guest.maxphyaddr != host.maxphyaddr:
            raise BadInput(
                f"one processor walks the guest's tables and EPT: maxphyaddr = "
                f"{self.guest.maxphyaddr} for the one and {host.maxphyaddr} for the other"
            )

    @property
    def npt(self) -> PagingContext:
        """The host's registers under AMD's nested paging; `BadInput` under EPT."""
        if isinstance(self.host, EptContext):
            raise BadInput("the host's tables are an EPT, not AMD's nested tables")
        return self.host

    @property
    def ept(self) -> EptContext:
        """How the EPT is read; `BadInput` under AMD's nested paging."""
        if not isinstance(self.host, EptContext):
            raise BadInput("the host's tables are AMD's nested tables, not an EPT")
        return self.host
