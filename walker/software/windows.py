"""Entries of 64-bit Windows that aren't present: the software forms of MMPTE.

Above the last level such an entry is about the page table that is absent, not about a large page.

What depends on the version, or on more than the entry: the number of a page file is in bits 15:12
on Windows 10 and 11, and was in bits 4:1 before; and since 2018 the system may write addresses and
offsets with some upper bits inverted (its InvalidPteMask), unless `swizzle` is set. They are given
as they stand.

Source: the types _MMPTE_SOFTWARE, _MMPTE_TRANSITION and _MMPTE_PROTOTYPE in the public symbols of
ntkrnlmp; Windows Internals, 7th edition, part 1, "Invalid PTEs" and "Prototype PTEs".
"""

from crosswalk.walker.software.states import Field, StateKind, System

__all__ = ["WINDOWS"]

_PROTOTYPE, _TRANSITION = 1 << 10, 1 << 11
_PROTECTION_MASK = 0x1F << 5
_PAGE_FILE_HIGH = (1 << 64) - (1 << 32)
_PROTO_ADDRESS = (1 << 64) - (1 << 16)
_BY_VAD = 0xFFFF_FFFF_0000 << 16

_BASIC = ("none", "r--", "--x", "r-x", "rw-", "rw- copy", "rwx", "rwx copy")
_PROTECTION = Field(
    "protection",
    5,
    5,
    names=(
        *_BASIC,
        *(f"{each} uncached" for each in _BASIC),
        "decommitted",
        *(f"{each} guard" for each in _BASIC[1:]),
        "no access",
        *(f"{each} write-combined" for each in _BASIC[1:]),
    ),
)
_SWIZZLE = {"swizzle": 4}

WINDOWS = System(
    "windows",
    "Windows",
    (
        StateKind(
            "prototype-vad",
            "its prototype is found by the VAD of the address",
            mask=_PROTOTYPE | _PROTO_ADDRESS,
            value=_PROTOTYPE | _BY_VAD,
            fields=(_PROTECTION,),
        ),
        StateKind(
            "prototype",
            "shared: its state is in a prototype PTE at this address",
            mask=_PROTOTYPE,
            value=_PROTOTYPE,
            fields=(Field("prototype", 16, 48, signed=True), _PROTECTION),
            flags={"read-only": 3, **_SWIZZLE, "combined": 11},
        ),
        StateKind(
            "transition",
            "still in memory, on a list of pages that may be taken",
            mask=_TRANSITION,
            value=_TRANSITION,
            fields=(Field("pa", 12, 40, unit=4096), _PROTECTION),
            flags={"write": 1, **_SWIZZLE},
        ),
        StateKind(
            "demand-zero",
            "a page of zeros when it is touched",
            mask=_PAGE_FILE_HIGH,
            fields=(_PROTECTION,),
            at_least=1,
        ),
        StateKind(
            "unknown",
            "nothing that Windows writes: no protection, and no page file",
            mask=_PAGE_FILE_HIGH | _PROTECTION_MASK,
        ),
        StateKind(
            "pagefile",
            "in a page file",
            fields=(Field("number", 12, 4), Field("offset", 32, 32, unit=4096), _PROTECTION),
            flags=_SWIZZLE,
        ),
    ),
)
