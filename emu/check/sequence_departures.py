"""What the emulator's TLB does, recognised in a violation: by its cause and the step it is at."""

from collections.abc import Callable

from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.tlb import Invpcid, MovCr3, Rule, Sequence
from crosswalk.walker.tlb.steps import NO_FLUSH

__all__ = ["SequenceTest", "bit_63", "fault", "invpcid", "large", "pcide", "pke"]

SequenceTest = Callable[[Sequence, int, str], bool]
"""Says of a violation in a sequence, at this step and for this cause, whether it is one."""


def pcide(_sequence: Sequence, _at: int, cause: str) -> bool:
    """Return whether clearing CR4.PCIDE left the TLB as it was."""
    return cause == Rule.PCIDE


def pke(_sequence: Sequence, _at: int, cause: str) -> bool:
    """Return whether rights outlived a change of CR4.PKE."""
    return cause == Rule.PKE


def invpcid(sequence: Sequence, at: int, cause: str) -> bool:
    """Return whether INVPCID raised #UD."""
    return isinstance(sequence.steps[at], Invpcid) and cause.endswith("raises #UD")


def fault(_sequence: Sequence, _at: int, cause: str) -> bool:
    """Return whether a translation outlived a page fault."""
    return cause == Rule.FAULT


def large(sequence: Sequence, at: int, cause: str) -> bool:
    """Return whether a fetch used what INVLPG of its large page has to have invalidated."""
    step = sequence.steps[at]
    fetch = isinstance(step, Access) and step.type is AccessType.EXECUTE
    return fetch and cause == Rule.INVLPG_LARGE


def bit_63(sequence: Sequence, at: int, cause: str) -> bool:
    """Return whether CR3 kept bit 63 under five levels, so that nothing translates."""
    step = sequence.steps[at]
    return (
        isinstance(step, MovCr3)
        and bool(step.value & NO_FLUSH)
        and sequence.context.levels == 5
        and cause.endswith("raises #PF")
    )
