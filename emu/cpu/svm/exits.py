"""Exit codes: why a guest isn't running any more.

Source: AMD APM vol. 2, "SVM Intercept Exit Codes"; "Nested versus Guest Page Faults, Fault
Ordering".
"""

from enum import IntEnum

__all__ = ["FIRST_EXIT", "ExitCode", "exit_name"]

FIRST_EXIT = 0x100
"""An exit comes to Unicorn's hook of exceptions with this added to its code."""

_EXCEPTIONS = 0x40
_REGISTERS = ((0x00, "CR{}_READ"), (0x10, "CR{}_WRITE"), (0x20, "DR{}_READ"), (0x30, "DR{}_WRITE"))


class ExitCode(IntEnum):
    """Codes that have a name of their own; 0x40 + n is the exception of vector n."""

    CR8_READ = 0x08
    CR0_WRITE = 0x10
    CR3_WRITE = 0x13
    CR4_WRITE = 0x14
    CR8_WRITE = 0x18
    UD = 0x46
    GP = 0x4D
    PF = 0x4E
    INTR = 0x60
    NMI = 0x61
    SMI = 0x62
    INIT = 0x63
    VINTR = 0x64
    CR0_SEL_WRITE = 0x65
    IDTR_READ = 0x66
    GDTR_READ = 0x67
    LDTR_READ = 0x68
    TR_READ = 0x69
    IDTR_WRITE = 0x6A
    GDTR_WRITE = 0x6B
    LDTR_WRITE = 0x6C
    TR_WRITE = 0x6D
    RDTSC = 0x6E
    RDPMC = 0x6F
    PUSHF = 0x70
    POPF = 0x71
    CPUID = 0x72
    RSM = 0x73
    IRET = 0x74
    SWINT = 0x75
    INVD = 0x76
    PAUSE = 0x77
    HLT = 0x78
    INVLPG = 0x79
    INVLPGA = 0x7A
    IOIO = 0x7B
    MSR = 0x7C
    TASK_SWITCH = 0x7D
    FERR_FREEZE = 0x7E
    SHUTDOWN = 0x7F
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    RDTSCP = 0x87
    ICEBP = 0x88
    WBINVD = 0x89
    MONITOR = 0x8A
    MWAIT = 0x8B
    NPF = 0x400


def exit_name(code: int) -> str:
    """Return the name of an exit code, or its number."""
    try:
        return ExitCode(code).name
    except ValueError:
        for first, name in _REGISTERS:
            if first <= code < first + 16:
                return name.format(code - first)
        if _EXCEPTIONS <= code < _EXCEPTIONS + 32:
            return f"vector {code - _EXCEPTIONS}"
        return f"{code:#x}"
