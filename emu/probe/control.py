"""The probe's own reading of control registers: mode, root, features, from their raw bits.

Nothing here is shared with the walker but the values: a prediction and an observation that decode
a register by the same line would agree about its mistakes.

Source: Intel SDM vol. 3A, "Control Registers", "Enumeration of Paging Features by CPUID",
"Linear-Address Masking (LAM)"; AMD APM vol. 2, "Extended Feature Enable Register (EFER)".
"""

from dataclasses import dataclass

from crosswalk.walker.context import PagingContext

__all__ = [
    "ADDRESS",
    "CR0_PE",
    "CR0_PG",
    "CR0_WP",
    "CR4_PAE",
    "CR4_PGE",
    "CR4_PKE",
    "CR4_PSE",
    "CR4_SMAP",
    "CR4_SMEP",
    "EFER_LMA",
    "EFER_LME",
    "EFER_NXE",
    "Control",
]

ADDRESS = 0x000F_FFFF_FFFF_F000
"""The address field of an entry, and of CR3 in IA-32e mode."""

CR0_PE, CR0_WP, CR0_PG = 1 << 0, 1 << 16, 1 << 31
CR3_LAM_U57, CR3_LAM_U48 = 1 << 61, 1 << 62
CR4_PSE, CR4_PAE, CR4_PGE, CR4_LA57 = 1 << 4, 1 << 5, 1 << 7, 1 << 12
CR4_SMEP, CR4_SMAP, CR4_PKE = 1 << 20, 1 << 21, 1 << 22
CR4_PKS, CR4_LASS, CR4_LAM_SUP = 1 << 24, 1 << 27, 1 << 28
EFER_LME, EFER_LMA, EFER_NXE, EFER_UAIE = 1 << 8, 1 << 10, 1 << 11, 1 << 20

# Only what paging looks at, and what the probe itself needs to be able to run.
_CR0 = CR0_PE | CR0_WP | CR0_PG
_CR4 = CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE


@dataclass(frozen=True, slots=True)
class Control:
    """Control registers as the emulated CPU is given them, decoded.

    `cr0`, `cr4` and `efer` have the bits that paging looks at; `cr3` is whole. `levels` is the
    number of paging levels, `va_bits` the width of a linear address; `root` is the physical
    address of the first table, without the encryption mask `mask`. `pkrs` is IA32_PKRS where it has
    an effect, else 0, and the emulated CPU is never given it. `user_u57` and `user_u48` are
    LAM for addresses whose bit 63 is clear, `supervisor_lam` for the others, `uai` AMD's Upper
    Address Ignore. `width` is MAXPHYADDR of the CPU under test.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int
    pkru: int
    pkrs: int
    long: bool
    pae: bool
    levels: int
    va_bits: int
    root: int
    mask: int
    width: int
    smap: bool
    user_u57: bool
    user_u48: bool
    supervisor_lam: bool
    uai: bool
    lass: bool

    @classmethod
    def of(cls, context: PagingContext) -> "Control":
        """Decode these registers."""
        cr3, cr4, efer = context.cr3, context.cr4, context.efer
        pae = bool(cr4 & CR4_PAE)
        long = pae and bool(efer & EFER_LMA)
        mask = context.encryption_mask
        if long:
            levels = 5 if cr4 & CR4_LA57 else 4
            root = cr3 & ADDRESS & ~mask
        elif pae:
            levels, root = 3, cr3 & 0xFFFF_FFE0 & ~mask
        else:
            levels, root = 2, cr3 & 0xFFFF_F000
        return cls(
            cr0=context.cr0 & _CR0,
            cr3=cr3,
            cr4=cr4 & _CR4,
            efer=efer & (EFER_LME | EFER_LMA | EFER_NXE if long else EFER_NXE),
            # Without CR4.PKE, PKRU has no effect. Outside IA-32e mode it must have none: a check.
            pkru=context.pkru if cr4 & CR4_PKE else 0,
            pkrs=context.pkrs if long and cr4 & CR4_PKS else 0,
            long=long,
            pae=pae,
            levels=levels,
            va_bits=12 + 9 * levels if long else 32,
            root=root,
            mask=mask,
            width=context.maxphyaddr,
            smap=bool(cr4 & CR4_SMAP),
            user_u57=long and bool(cr3 & CR3_LAM_U57),
            user_u48=long and bool(cr3 & CR3_LAM_U48) and not cr3 & CR3_LAM_U57,
            supervisor_lam=long and bool(cr4 & CR4_LAM_SUP),
            uai=long and bool(efer & EFER_UAIE),
            lass=long and bool(cr4 & CR4_LASS),
        )

    @property
    def mode(self) -> str:
        """The paging mode's name."""
        return {2: "32-bit", 3: "PAE", 4: "4-level", 5: "5-level"}[self.levels]

    @property
    def features(self) -> tuple[str, ...]:
        """Features that these registers enable and the emulated CPU lacks: of LAM, UAI and LASS.

        Not PKS: see `pkrs`.
        """
        lam = self.user_u57 or self.user_u48 or self.supervisor_lam
        enabled = {"LAM": lam, "UAI": self.uai, "LASS": self.lass}
        return tuple(name for name, is_on in enabled.items() if is_on)

    @property
    def wide(self) -> int:
        """The address bits that the CPU under test has in CR3 and entries, and the emulated hasn't.

        Those from 2^40 up to MAXPHYADDR, but for the encryption mask. 32-bit paging has none: the
        pages of 4 MiB that PSE-36 has end at 2^40.
        """
        if not self.pae or self.width <= 40:
            return 0
        return (1 << self.width) - (1 << 40) & ~self.mask
