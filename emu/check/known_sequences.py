"""Where the emulator's caching is known to depart from the manuals.

As `known` is for single accesses: each entry recognises its own violations by as narrow a test
as possible, and its sequence, under tests/cases/known-sequences, must still show it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from walker.tlb import Invpcid, Rule, Sequence

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
        "Intel SDM vol. 2A, INVPCID: #UD only where CPUID.07H.EBX.INVPCID is 0, or in real mode "
        "with LOCK.",
        "The instruction isn't implemented, nor does CPUID of this model claim it.",
        "invpcid-undefined.json",
        _invpcid,
    ),
)
