"""The manuals' numbers: registers, vectors, error codes and sizes. Data, and nothing that decides.

Witnesses share these numbers: what Crosswalk holds against each other may import them all the same,
so that a wrong one is wrong for all. That is why the oracles keep their own copies of the bits that
a translation depends on, in CR0, CR3, CR4, EFER and in entries: the walker's are here, the probe's
in `crosswalk.emu.probe.control`, the second walk's in `crosswalk.emu.check.emulated_rules`. They
may import the rest; a test holds the first two copies together.

Sources: Intel SDM vol. 3A, "Control Registers", "Exception and Interrupt Vectors", "Page-Fault
Exceptions"; SDM vol. 1, "EFLAGS Register"; vol. 4, "Architectural MSRs"; AMD APM vol. 2,
"System-Control Registers", "Extended Feature Enable Register (EFER)", "VM_HSAVE_PA MSR".

Bits are integers, and so is what they are combined to: `~` of one has all other bits set.
"""

from enum import IntEnum

__all__ = [
    "CR0",
    "CR3",
    "CR4",
    "EFER",
    "GIB",
    "MIB",
    "MSR",
    "PAGE_BYTES",
    "RFlags",
    "Vector",
]

MIB, GIB = 1 << 20, 1 << 30

PAGE_BYTES = 1 << 12


class CR0(IntEnum):
    """Bits of CR0."""

    PE = 1 << 0
    ET = 1 << 4
    WP = 1 << 16
    PG = 1 << 31


class CR3(IntEnum):
    """Bits of CR3 above the address, in IA-32e mode alone: elsewhere bits 63:32 are ignored."""

    LAM_U57 = 1 << 61
    LAM_U48 = 1 << 62
    NO_FLUSH = 1 << 63
    """Of the operand of a MOV to CR3 with PCIDs; never of the register."""


class CR4(IntEnum):
    """Bits of CR4."""

    PSE = 1 << 4
    PAE = 1 << 5
    PGE = 1 << 7
    LA57 = 1 << 12
    FSGSBASE = 1 << 16
    PCIDE = 1 << 17
    OSXSAVE = 1 << 18
    SMEP = 1 << 20
    SMAP = 1 << 21
    PKE = 1 << 22
    PKS = 1 << 24
    LASS = 1 << 27
    LAM_SUP = 1 << 28


class EFER(IntEnum):
    """Bits of EFER."""

    SCE = 1 << 0
    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11
    SVME = 1 << 12
    UAIE = 1 << 20


class RFlags(IntEnum):
    """Bits of RFLAGS."""

    FIXED = 1 << 1
    """Always set."""
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18


class MSR(IntEnum):
    """Numbers of model-specific registers."""

    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    PAT = 0x277
    PKRS = 0x6E1
    EFER = 0xC000_0080
    STAR = 0xC000_0081
    LSTAR = 0xC000_0082
    CSTAR = 0xC000_0083
    FMASK = 0xC000_0084
    FS_BASE = 0xC000_0100
    GS_BASE = 0xC000_0101
    KERNEL_GS_BASE = 0xC000_0102
    TSC_AUX = 0xC000_0103
    VM_HSAVE_PA = 0xC001_0117


class Vector(IntEnum):
    """Vectors of exceptions, and of the non-maskable interrupt."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19
    VE = 20
    CP = 21
