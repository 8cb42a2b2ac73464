"""Where the emulator is known to depart from the manuals in composites.

Each entry states what the emulator does instead as claims; what meets them is an instance.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emu.check.combine import Claim, Parts, claims_of, met, parts_of, sequence
from emu.check.explain import ACCESSED_LEAF, large_pdptes
from emu.probe.composites import Composites, Family, Seen
from walker.access import AccessType
from walker.bulk import translate_many
from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext
from walker.entry import Entry
from walker.memory import U64, PhysicalMemory

__all__ = ["KNOWN_COMPOSITE", "KnownComposite", "explanations"]

_Claims = Callable[[PhysicalMemory, PagingContext, Composites], list[Claim]]


@dataclass(frozen=True, slots=True)
class KnownComposite:
    """One departure of the emulator: `claims` are what it does in place of what it should."""

    id: str
    differs: str
    manual: str
    reason: str
    case: str
    claims: _Claims


def explanations(
    memory: PhysicalMemory, context: PagingContext, composites: Composites, seen: Seen
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the id of each entry, and bool[n]: what was seen of which composites it explains.

    None of what the manuals allow: whoever says otherwise is wrong, and not the emulator.
    """
    departs = ~met(claims_of(composites, parts_of(memory, context, composites)), seen)
    for entry in KNOWN_COMPOSITE:
        yield entry.id, departs & met(entry.claims(memory, context, composites), seen)
    yield ACCESSED_LEAF, departs & met(_accessed_leaf(memory, context, composites), seen)


def _read_first(
    memory: PhysicalMemory, context: PagingContext, composites: Composites
) -> list[Claim]:
    """Claim that a locked read-modify-write is a read, and then a write if that succeeded."""
    parts = [
        translate_many(
            memory,
            context,
            Accesses(
                composites.va,
                np.full(len(composites), kind, np.uint8),
                composites.cpl,
                composites.ac,
            ),
        )
        for kind in (AccessType.READ, AccessType.WRITE)
    ]
    return [_only(sequence(Parts(*parts)), composites.family(Family.RMW))]


def _honours_ac(
    memory: PhysicalMemory, context: PagingContext, composites: Composites
) -> list[Claim]:
    """Claim that AC lets an implicit access through as it does an explicit one."""
    about = composites.family(Family.IMPLICIT) & composites.ac & (composites.cpl == 0)
    claims = claims_of(composites, parts_of(memory, context, composites, heeded=True))
    return [_only(claim, about) for claim in claims]


def _accessed_leaf(
    memory: PhysicalMemory, context: PagingContext, composites: Composites
) -> list[Claim]:
    """Claim that a fault marks the PDPTE that maps the page as accessed."""
    parts = parts_of(memory, context, composites)
    second = composites.second_va()
    marked = [
        _marked(memory, context, va, part)
        for va, part in ((composites.va, parts.first), (second, parts.second))
    ]
    return claims_of(composites, Parts(*marked))


def _marked(
    memory: PhysicalMemory, context: PagingContext, va: U64, outcomes: Outcomes
) -> Outcomes:
    """Return the outcomes with A of a 1-GiB leaf among the words that a fault may change."""
    pa, entry = large_pdptes(memory, context, va)
    faults = (outcomes.kind == Kind.PAGE_FAULT) & (entry != 0)
    entry_pa, entry_value = outcomes.entry_pa.copy(), outcomes.entry_value.copy()
    # A walk that ends at a PDPTE marks two words above it at the most.
    entry_pa[faults, -1] = pa[faults]
    entry_value[faults, -1] = entry[faults] | np.uint64(Entry.A)
    return replace(outcomes, entry_pa=entry_pa, entry_value=entry_value)


def _only(claim: Claim, rows: NDArray[np.bool_]) -> Claim:
    return replace(claim, valid=claim.valid & rows)


KNOWN_COMPOSITE = (
    KnownComposite(
        "locked-rmw-reads-first",
        "A locked read-modify-write faults as a read where the page can't be read (W/R is clear "
        "in the error code), and has set A of the leaf where it can be read but not written.",
        "Intel SDM vol. 3A 9.1.2 and 4.7: the read and the write are one locked operation, which "
        "needs the right to write; W/R tells that the access was a write. 4.8: A of a leaf is set "
        "by a translation that is used.",
        "With one processor a locked instruction is made of a load and a store, each with its own "
        "page walk.",
        "locked-rmw-reads-first.json",
        _read_first,
    ),
    KnownComposite(
        "implicit-access-honours-ac",
        "With CR4.SMAP set, RFLAGS.AC lets CPL 0 read a segment descriptor from a user page.",
        "Intel SDM vol. 3A 4.6.1: AC concerns explicit supervisor-mode accesses; data may not be "
        "read from a user-mode address by an implicit one while CR4.SMAP is set.",
        "Implicit accesses go by AC when they come from CPL 0; from CPL 3 they don't.",
        "implicit-access-honours-ac.json",
        _honours_ac,
    ),
)
"""The departures that composites alone show."""
