"""Holding a walker under test to what it claims, and to nothing else."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emu.check.compare import differing_fields
from emu.peers.claims import Claim
from walker.access import AccessType
from walker.bulk import translate_many
from walker.columns import Accesses, Kind, Outcomes
from walker.context import CR4, PagingContext
from walker.memory import U64, PhysicalMemory

__all__ = ["Truth", "as_claimed", "judge", "truth_of"]


@dataclass(frozen=True, slots=True)
class Truth:
    """What n accesses come to, and whether and where each address is mapped, rights aside.

    `mapped` bool[n]; `pa` uint64[n], 0 where not mapped.
    """

    outcomes: Outcomes
    mapped: NDArray[np.bool_]
    pa: U64


def truth_of(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, outcomes: Outcomes
) -> Truth:
    """Return the truth about these accesses, given what they come to.

    An address is mapped where the supervisor may read with SMAP and keys out of the way. For
    that the built-in walker's word is taken, of which every outcome is a test.
    """
    open_ = replace(context, cr4=context.cr4 & ~(CR4.SMAP | CR4.PKE))
    count = len(accesses)
    reads = Accesses(
        accesses.va,
        np.full(count, AccessType.READ, np.uint8),
        np.zeros(count, np.uint8),
        np.zeros(count, np.bool_),
    )
    found = translate_many(memory, open_, reads)
    return Truth(outcomes, found.kind == Kind.OK, found.pa)


def judge(
    claims: frozenset[Claim], answers: Outcomes, truth: Truth
) -> dict[str, NDArray[np.bool_]]:
    """Return bool[n] by field of an outcome: where an answer is wrong that was claimed."""
    outcomes = truth.outcomes
    nothing = np.zeros(len(outcomes), np.bool_)
    said = answers.kind == Kind.OK
    if Claim.FAULTS in claims:
        fields = differing_fields(answers, outcomes)
        if Claim.MARKS not in claims:
            fields["entries"] = nothing
        return fields
    if Claim.RIGHTS in claims:
        allowed, pa = outcomes.kind == Kind.OK, outcomes.pa
    else:
        allowed, pa = truth.mapped, truth.pa
    return {
        "outcome": said != allowed,
        "pa": said & allowed & (answers.pa != pa),
        "error_code": nothing,
        "cr2": nothing,
        "entries": nothing,
    }


def as_claimed(claims: frozenset[Claim], truth: Truth) -> Outcomes:
    """Return the truth in the terms of an answer: for a walker without rights, what is mapped."""
    if Claim.RIGHTS in claims or Claim.FAULTS in claims:
        return truth.outcomes
    outcomes = truth.outcomes
    kind = np.where(
        truth.mapped,
        Kind.OK,
        np.where(outcomes.kind == Kind.OK, Kind.PAGE_FAULT, outcomes.kind),
    )
    return replace(
        outcomes,
        kind=kind.astype(np.uint8),
        pa=truth.pa,
        error_code=np.where(truth.mapped, 0, outcomes.error_code).astype(np.uint16),
        cr2=np.where(truth.mapped, np.uint64(0), outcomes.cr2),
    )
