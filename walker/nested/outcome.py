"""Outcomes of a translation in two dimensions: the guest's own, or what the host's tables say."""

from dataclasses import dataclass
from enum import IntFlag

from crosswalk.walker.outcome import Entries, Outcome, error_names

__all__ = [
    "EptMisconfiguration",
    "EptViolation",
    "HostFault",
    "NestedError",
    "NestedOutcome",
    "NestedPageFault",
    "Qualification",
    "nested_error_names",
    "qualification_names",
]


class NestedError(IntFlag):
    """EXITINFO1 of a nested page fault.

    TABLE: the address translated was that of a guest entry; FINAL: that of the page.

    Source: AMD APM vol. 2, "Nested versus Guest Page Faults, Fault Ordering".
    """

    P = 1 << 0
    WR = 1 << 1
    US = 1 << 2
    RSVD = 1 << 3
    ID = 1 << 4
    FINAL = 1 << 32
    TABLE = 1 << 33


_STAGES = {NestedError.FINAL: "final", NestedError.TABLE: "table"}


def nested_error_names(code: int) -> str:
    """Return the names of the bits set in EXITINFO1; `final` and `table` name the stage."""
    stages = [name for bit, name in _STAGES.items() if code & bit]
    return " ".join([error_names(code & ~int(sum(_STAGES))), *stages])


@dataclass(frozen=True, slots=True)
class NestedPageFault:
    """The access ended in #VMEXIT(NPF) with this EXITINFO1, and `gpa` in EXITINFO2.

    `gpa` is the guest-physical address that couldn't be translated: that of a guest entry, or that
    of the byte accessed. `entries` as in `PageFault`, guest and nested entries by system-physical
    address.

    `open` are the bits of a predicted EXITINFO1 that may be set or clear: ID, where the host's
    EFER.NXE is clear (see `nested_fault_code` in `crosswalk.walker.nested.translate`), U/S under
    GMET, or none. It is 0 for an observed fault.
    """

    error_code: int
    gpa: int
    entries: Entries = ()
    open: int = 0


class Qualification(IntFlag):
    """The exit qualification of an EPT violation.

    READ, WRITE, FETCH: the access. READABLE, WRITABLE, EXECUTABLE, USER_EXECUTABLE: what all EPT
    entries of the address let through; EXECUTABLE is the supervisor's alone under mode-based
    execute control, and USER_EXECUTABLE is defined under it alone. GLA_VALID: the access has a
    linear address. PAGE: the address is that of the page, not that of a guest entry. GUEST_USER,
    GUEST_WRITABLE, GUEST_NO_EXECUTE: what the guest's tables say of the page (advanced VM-exit
    information). NMI_UNBLOCKED, SHADOW_STACK, SHADOW_STACK_PAGE, PAGING_VERIFICATION and
    ASYNCHRONOUS name what isn't modelled: IRET, shadow stacks, guest-paging verification, accesses
    of no instruction.

    Source: Intel SDM vol. 3C, "Basic VM-Exit Information".
    """

    READ = 1 << 0
    WRITE = 1 << 1
    FETCH = 1 << 2
    READABLE = 1 << 3
    WRITABLE = 1 << 4
    EXECUTABLE = 1 << 5
    USER_EXECUTABLE = 1 << 6
    GLA_VALID = 1 << 7
    PAGE = 1 << 8
    GUEST_USER = 1 << 9
    GUEST_WRITABLE = 1 << 10
    GUEST_NO_EXECUTE = 1 << 11
    NMI_UNBLOCKED = 1 << 12
    SHADOW_STACK = 1 << 13
    SHADOW_STACK_PAGE = 1 << 14
    PAGING_VERIFICATION = 1 << 15
    ASYNCHRONOUS = 1 << 16


_QUALIFICATION_NAMES = {bit: (bit.name or "").lower().replace("_", "-") for bit in Qualification}


def qualification_names(qualification: int) -> str:
    """Return the names of the bits set in an exit qualification, or `none`."""
    names = [name for bit, name in _QUALIFICATION_NAMES.items() if qualification & bit]
    rest = qualification & ~int(sum(Qualification))
    return " ".join(names + ([f"{rest:#x}"] if rest else [])) or "none"


@dataclass(frozen=True, slots=True)
class EptViolation:
    """The access ended in a VM exit for an EPT violation, with this exit qualification.

    `gpa` is the guest-physical address that couldn't be accessed: that of a guest entry, or that
    of the byte accessed; `gla` is the linear address, which bit 7 of the qualification says is
    valid. `entries` as in `PageFault`, guest and EPT entries by physical address.

    `open` are the bits of a predicted qualification that may be set or clear, because the manual
    leaves them undefined or to the processor. It is 0 for an observed violation.

    Source: Intel SDM vol. 3C, "EPT Violations".
    """

    qualification: int
    gpa: int
    gla: int
    entries: Entries = ()
    open: int = 0


@dataclass(frozen=True, slots=True)
class EptMisconfiguration:
    """The access ended in a VM exit for an EPT misconfiguration, on the way from `gpa`.

    It has no exit qualification, and no linear address. `entries` as in `PageFault`.

    Source: Intel SDM vol. 3C, "EPT Misconfigurations".
    """

    gpa: int
    entries: Entries = ()


HostFault = NestedPageFault | EptViolation | EptMisconfiguration
"""What the host's tables end an access with."""

NestedOutcome = Outcome | HostFault
"""`Translation.pa` is system-physical, as are the addresses in `entries`.

The words in `entries` have every A and D bit set that the access sets; after a fault, each of
these bits may be clear.
"""
