"""Outcomes of a translation under nested paging: the guest's own, or a nested page fault."""

from dataclasses import dataclass
from enum import IntFlag

from crosswalk.walker.outcome import Entries, Outcome, error_names

__all__ = ["NestedError", "NestedOutcome", "NestedPageFault", "nested_error_names"]


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
    EFER.NXE is clear (see `nested_fault_code` in `crosswalk.walker.nested.translate`), or none. It
    is 0 for an observed fault.
    """

    error_code: int
    gpa: int
    entries: Entries = ()
    open: int = 0


NestedOutcome = Outcome | NestedPageFault
"""`Translation.pa` is system-physical, as are the addresses in `entries`.

The words in `entries` have every A and D bit set that the access sets; after a fault, each of
these bits may be clear.
"""
