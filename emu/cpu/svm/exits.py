"""Exit codes: why a guest isn't running any more.

Source: AMD APM vol. 2, "SVM Intercept Exit Codes"; "Nested versus Guest Page Faults, Fault
Ordering".
"""

from enum import IntEnum

__all__ = ["FIRST_EXIT", "ExitCode", "exit_name"]

FIRST_EXIT = 0x100
"""An exit comes to Unicorn's hook of exceptions with this added to its code."""

_EXCEPTIONS = 0x40
_CR0_WRITE = 0x10


class ExitCode(IntEnum):
    """Those that are used here; 0x10 + n is a write to control register n, 0x40 + n vector n."""

    CR0_WRITE = 0x10
    CR3_WRITE = 0x13
    CR4_WRITE = 0x14
    UD = 0x46
    GP = 0x4D
    PF = 0x4E
    HLT = 0x78
    INVLPGA = 0x7A
    MSR = 0x7C
    SHUTDOWN = 0x7F
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    NPF = 0x400


def exit_name(code: int) -> str:
    """Return the name of an exit code, or its number."""
    try:
        return ExitCode(code).name
    except ValueError:
        if _CR0_WRITE <= code < _CR0_WRITE + 16:
            return f"CR{code - _CR0_WRITE}_WRITE"
        if _EXCEPTIONS <= code < _EXCEPTIONS + 32:
            return f"vector {code - _EXCEPTIONS}"
        return f"{code:#x}"
