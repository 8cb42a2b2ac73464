"""What a translation under nested paging answers: an outcome of the guest's, or an exit."""

from dataclasses import dataclass
from enum import IntFlag

from crosswalk.walker.outcome import Entries, Outcome, error_names

__all__ = ["NestedError", "NestedOutcome", "NestedPageFault", "nested_error_names"]


class NestedError(IntFlag):
    """EXITINFO1 of a nested page fault.

    TABLE says that the address of a guest table's entry was translated, FINAL that the
    address of the page was.

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

    `gpa` is the guest-physical address that couldn't be translated: that of a guest table's
    entry, or that of the byte accessed. `entries` as in `PageFault`, of guest tables and of
    nested ones, by system-physical address.

    Predicted, `open` are the bits of EXITINFO1 that may be set or clear, ID or none: where the
    host's EFER.NXE is clear, a processor may tell a code read or not (see `refused`). Observed it
    is 0.
    """

    error_code: int
    gpa: int
    entries: Entries = ()
    open: int = 0


NestedOutcome = Outcome | NestedPageFault
"""`Translation.pa` is system-physical, and so are the addresses of all `entries`.

A word of `entries` has all the bits set that the access sets; where a fault leaves it open
whether any are set at all, each bit may be.
"""
