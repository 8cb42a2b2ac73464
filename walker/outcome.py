"""Outcomes of a translation. A fault is an outcome, not an exception."""

from dataclasses import dataclass
from enum import IntFlag

from crosswalk.walker.rights import Rights

__all__ = [
    "Entries",
    "ErrorCode",
    "GeneralProtection",
    "Outcome",
    "PageFault",
    "Translation",
    "error_names",
]

Entries = tuple[tuple[int, int], ...]
"""Words that an access changes: (physical address, new value), by address."""


class ErrorCode(IntFlag):
    """The error code of a page fault (Intel SDM vol. 3A, "Page-Fault Exceptions")."""

    P = 1 << 0
    WR = 1 << 1
    US = 1 << 2
    RSVD = 1 << 3
    ID = 1 << 4
    PK = 1 << 5


_NAMES = {
    ErrorCode.P: "P",
    ErrorCode.WR: "W/R",
    ErrorCode.US: "U/S",
    ErrorCode.RSVD: "RSVD",
    ErrorCode.ID: "I/D",
    ErrorCode.PK: "PK",
}


def error_names(code: int) -> str:
    """Return the manual's names of the bits set in an error code, or `none`."""
    names = [name for bit, name in _NAMES.items() if code & bit]
    rest = code & ~sum(_NAMES)
    return " ".join(names + ([f"{rest:#x}"] if rest else [])) or "none"


@dataclass(frozen=True, slots=True)
class Translation:
    """The access reached `pa`.

    `page_size` in bytes and the effective `rights` are there in predictions, None in
    observations. `entries` are the words whose A or D the access set: (physical address, new
    value), by address.
    """

    pa: int
    page_size: int | None = None
    rights: Rights | None = None
    entries: Entries = ()


@dataclass(frozen=True, slots=True)
class PageFault:
    """The access raised #PF with this error code and CR2.

    Observed, `entries` are the words whose A the walk set all the same. Predicted, they are
    those it may set, each or none: the manuals leave open whether a walk that faults sets A in
    the upper levels it used, and, of a fault for want of rights, in the leaf. A word that holds two
    of them, as in 32-bit paging, is there as each choice leaves it, all of it last.

    Source: Intel SDM vol. 3A, "Interrupt 14—Page-Fault Exception (#PF)", "Accessed and Dirty
    Flags"; AMD APM vol. 2, "Notes on Accessed and Dirty Bits".

    `cr2` is the linear address, without the bits that LAM masks (or UAI, which doesn't promise
    that).
    """

    error_code: int
    cr2: int
    entries: Entries = ()


@dataclass(frozen=True, slots=True)
class GeneralProtection:
    """The access raised #GP(0): its linear address is not canonical, or LASS refuses it.

    Or its address space can't be entered at all: see `crosswalk.walker.tables.invalid_pdpte`. An
    access to the stack would raise #SS(0) for the first two: none is by SS here.
    """

    entries: Entries = ()


Outcome = Translation | PageFault | GeneralProtection
