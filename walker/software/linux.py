"""Entries of Linux on x86-64 that aren't present.

As Linux has them since 4.19, and stable kernels since August 2018: physical addresses and offsets
are inverted, so that a speculative access goes nowhere (L1TF). Older kernels have another layout.

A state that is certain has a name of its own. Not certain from the entry alone: whether a
`prot-none` page has PROT_NONE or awaits a NUMA hint (the area decides), and which of the special
types a number from 22 on is: hardware poison, migration, device memory and markers are numbered
from 31 downwards by what the kernel was built with, and swap files from 0 upwards.

Source: Linux arch/x86/include/asm/pgtable_64.h, pgtable.h (`pte_present`, `pmd_present`,
`pmd_mkinvalid`, `pte_none`), pgtable-invert.h; include/linux/swap.h (`MAX_SWAPFILES`).
"""

from crosswalk.walker.software.states import Field, StateKind, System

__all__ = ["FIRST_SPECIAL", "LINUX"]

FIRST_SPECIAL = 22
"""The lowest type that any kernel takes for something else than a swap file."""

_ACCESSED_DIRTY = 0x60
_PSE, _PROTNONE = 1 << 7, 1 << 8
_ALL = (1 << 64) - 1

_PA = Field("pa", 12, 40, inverted=True, unit=4096, whole=True)
_SWAP = (Field("type", 59, 5), Field("offset", 9, 50, inverted=True))
_SWAP_FLAGS = {"soft-dirty": 1, "uffd-wp": 2, "exclusive": 3}
_PAGE_FLAGS = {"writable": 1, "user": 2, "accessed": 5, "dirty": 6, "no-execute": 63}

LINUX = System(
    "linux",
    "Linux",
    (
        StateKind(
            "none",
            "empty: A or D was set by an erratum of the processor",
            mask=_ALL & ~_ACCESSED_DIRTY,
        ),
        StateKind(
            "invalid",
            "a page of the kernel that was made not present",
            upper=True,
            fields=(_PA,),
            flags=_PAGE_FLAGS,
        ),
        StateKind(
            "prot-none",
            "PROT_NONE, or a NUMA hint",
            mask=_PROTNONE,
            value=_PROTNONE,
            levels=(1,),
            fields=(_PA,),
            flags=_PAGE_FLAGS,
        ),
        StateKind(
            "prot-none",
            "PROT_NONE, or a NUMA hint",
            mask=_PROTNONE | _PSE,
            value=_PROTNONE | _PSE,
            levels=(2, 3),
            fields=(_PA,),
            flags=_PAGE_FLAGS,
        ),
        StateKind(
            "splitting",
            "a huge page that is being split or moved",
            mask=_PROTNONE | _PSE,
            value=_PSE,
            levels=(2, 3),
            fields=(_PA,),
            flags=_PAGE_FLAGS,
        ),
        StateKind(
            "swap",
            "a page in the swap file of this type",
            mask=_PROTNONE | _PSE,
            fields=_SWAP,
            flags=_SWAP_FLAGS,
            below=FIRST_SPECIAL,
            levels=(1, 2, 3),
        ),
        StateKind(
            "special",
            "hardware poison, migration, device memory, a marker, or a swap file",
            mask=_PROTNONE | _PSE,
            fields=_SWAP,
            flags=_SWAP_FLAGS,
            at_least=FIRST_SPECIAL,
            levels=(1, 2, 3),
        ),
        StateKind("unknown", "nothing that Linux writes"),
    ),
)
