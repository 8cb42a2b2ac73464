"""Where the emulator's caching is known to depart from the manuals.

As `known` is for single accesses: each entry recognises its own violations by as narrow a test
as possible, and its sequence, under tests/cases/known-sequences, must still show it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from walker.access import Access, AccessType
from walker.tlb import Invpcid, MovCr3, Rule, Sequence
from walker.tlb.steps import NO_FLUSH

__all__ = ["KNOWN_SEQUENCES", "KnownSequence", "known_sequence"]


@dataclass(frozen=True, slots=True)
class KnownSequence:
    """One departure: `explains` tells of a violation at a step, for a cause, whether it is one."""

    id: str
    differs: str
    manual: str
    reason: str
    sequence: str
    explains: Callable[[Sequence, int, str], bool]


def known_sequence(sequence: Sequence, at: int, cause: str) -> str | None:
    """Return the id of the entry that explains a violation at step `at`, if any."""
    return next(
        (entry.id for entry in KNOWN_SEQUENCES if entry.explains(sequence, at, cause)), None
    )


def _pcide(_sequence: Sequence, _at: int, cause: str) -> bool:
    return cause == Rule.PCIDE


def _pke(_sequence: Sequence, _at: int, cause: str) -> bool:
    return cause == Rule.PKE


def _invpcid(sequence: Sequence, at: int, cause: str) -> bool:
    return isinstance(sequence.steps[at], Invpcid) and cause.endswith("raises #UD")


def _fault(_sequence: Sequence, _at: int, cause: str) -> bool:
    return cause == Rule.FAULT


def _large(sequence: Sequence, at: int, cause: str) -> bool:
    step = sequence.steps[at]
    fetch = isinstance(step, Access) and step.type is AccessType.EXECUTE
    return fetch and cause == Rule.INVLPG_LARGE


def _bit_63(sequence: Sequence, at: int, cause: str) -> bool:
    step = sequence.steps[at]
    return (
        isinstance(step, MovCr3)
        and bool(step.value & NO_FLUSH)
        and sequence.context.levels == 5
        and cause.endswith("raises #PF")
    )


KNOWN_SEQUENCES = (
    KnownSequence(
        "pcide-cleared-keeps-tlb",
        "Clearing CR4.PCIDE leaves the TLB as it is: a translation from before is used after it.",
        "Intel SDM vol. 3A 4.10.4.1: MOV to CR4 that changes PCIDE from 1 to 0 invalidates all "
        "TLB entries and all entries of the paging-structure caches, for all PCIDs.",
        "MOV to CR4 empties the TLB for changes of other bits alone; PCIDE, which CPUID says "
        "there isn't, can be set and cleared, and means nothing.",
        "pcide-cleared-keeps-tlb.json",
        _pcide,
    ),
    KnownSequence(
        "pke-change-keeps-rights",
        "After a change of CR4.PKE, a page that is in the TLB still has the rights from before.",
        "Intel SDM vol. 3A 4.6.2 and 4.10.2.2: the key is cached with a translation; what it "
        "allows is for CR4.PKE and PKRU to say at each access.",
        "A TLB entry holds the rights that a walk found under PKE and PKRU; WRPKRU empties the "
        "TLB, MOV to CR4 doesn't when PKE changes.",
        "pke-change-keeps-rights.json",
        _pke,
    ),
    KnownSequence(
        "invpcid-undefined",
        "INVPCID raises #UD, so that none of its types can be tried.",
        "Intel SDM vol. 2A, INVPCID, and vol. 3A 4.10.4.1: what each of the four types "
        "invalidates. A processor without it, by CPUID.07H:EBX.INVPCID, raises #UD.",
        "The instruction isn't implemented, and CPUID doesn't claim it; real processors of this "
        "model have it.",
        "invpcid-undefined.json",
        _invpcid,
    ),
    KnownSequence(
        "fault-keeps-tlb",
        "A page fault leaves a translation of its page in the TLB, for other accesses.",
        "Intel SDM vol. 3A 4.10.4.1: a page fault invalidates the TLB entries for the page number "
        "of its address, and the paging-structure-cache entries that it would use.",
        "CPL 0 and 3 have TLBs of their own, in which an entry holds an address for each type of "
        "access. Where one is missing, a walk looks for it; if that faults, the others stay as "
        "they are. Of a large page, each 4 KiB is an entry of its own.",
        "fault-keeps-tlb.json",
        _fault,
    ),
    KnownSequence(
        "invlpg-large-keeps-fetch",
        "INVLPG of one address in a large page lets fetches from others in it go on as before.",
        "Intel SDM vol. 3A 4.10.2.3 and 4.10.4.1: INVLPG invalidates what is cached of all of a "
        "large page, however it is cached.",
        "INVLPG empties the TLB if the address lies in a large page, but of the table that leads "
        "from an address to translated code it clears that page of 4 KiB and the one before.",
        "invlpg-large-keeps-fetch.json",
        _large,
    ),
    KnownSequence(
        "cr3-bit-63-under-la57",
        "With five levels, MOV to CR3 with bit 63 set makes every translation fault.",
        "Intel SDM vol. 2B, MOV to control registers: with CR4.PCIDE set, bit 63 of the source "
        "says what to invalidate, and isn't loaded into CR3.",
        "CR3 keeps bit 63. A walk of four levels masks it out of the root's address, one of five "
        "doesn't, and finds no memory there.",
        "cr3-bit-63-under-la57.json",
        _bit_63,
    ),
)
