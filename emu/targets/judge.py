"""Holding a walker under test to what it claims, and to nothing else."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import choose, differing_fields
from crosswalk.emu.targets.ad_updates import allowed_marks, by_choice
from crosswalk.emu.targets.answers import Answers, Listing
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.mapping_lists import look_up, true_listing
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import linear_addresses, translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import CR3, CR4, EFER, PagingContext
from crosswalk.walker.memory import U64, PhysicalMemory

__all__ = ["LISTS", "MAX_BESIDE", "Judged", "judge"]

MAX_BESIDE = 1024
"""Of how many mappings that differ, beside those of accesses, the rule is found out."""

LISTS = frozenset({Capability.LEAVES, Capability.FLAGS})
"""Claims that a list of mappings answers."""

Fields = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a walker said of n accesses, what is true in the same terms, and where it is wrong.

    `fields` are bool[n] by what differs: outcome, pa, size, flags, error_code, cr2, entries.
    `listed` bool[n]: it was said by a list of mappings, and not of this access. `seen` is what
    the accesses came to, None where they weren't made.
    """

    accesses: Accesses
    said: Outcomes
    truth: Outcomes
    fields: Fields
    listed: NDArray[np.bool_]
    seen: Outcomes | None = None

    def claims_of(self, row: int, claims: frozenset[Capability]) -> frozenset[Capability]:
        """Return which of the walker's claims one answer is about."""
        return claims & LISTS if self.listed[row] else claims - LISTS

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """bool[n]: which answers are wrong."""
        found: NDArray[np.bool_] = np.logical_or.reduce(list(self.fields.values()))
        return found


def judge(
    claims: frozenset[Capability],
    answers: Answers,
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    outcomes: Outcomes,
) -> tuple[Judged, Judged]:
    """Return what is wrong of these accesses, given what they come to, and what is beside them.

    Beside them are mappings that a walker lists which aren't there, or as they aren't, or
    leaves out: each as a read of its first byte. Whether and where an address is mapped, rights
    aside, the built-in walker says, of which every outcome is a test; so it does of the words that
    an access which faults may change, where it predicts that fault. An answer about those is right
    if it sets nothing else, and leaves out what it likes: the manuals leave open whether a walk
    that faults sets A in the entries that it used.
    """
    listing = answers.listing
    one = _nothing(accesses, outcomes)
    if claims - LISTS:
        one = _translations(claims, answers, memory, context, accesses, outcomes)
    nothing = one.accesses.take(slice(0))
    beside = _nothing(nothing, outcomes.take(slice(0)))
    if listing is not None and claims & LISTS:
        true = true_listing(memory, context, listing.ranges)
        truth = _mapped(memory, context, accesses, outcomes)
        listed = _listed(claims, context, (listing, true), accesses, truth)
        one = _either(one, listed) if claims - LISTS else listed
        others = _beside(claims, listing, true, accesses)
        truth = _mapped(memory, context, others, translate_many(memory, context, others))
        beside = _listed(claims, context, (listing, true), others, truth)
    return replace(one, seen=outcomes), replace(beside, seen=None)


def _nothing(accesses: Accesses, outcomes: Outcomes) -> Judged:
    nothing = np.zeros(len(accesses), np.bool_)
    return Judged(accesses, outcomes, outcomes, _no_fields(len(accesses)), nothing)


def _no_fields(count: int) -> Fields:
    names = ("outcome", "pa", "size", "flags", "error_code", "cr2", "entries")
    return {name: np.zeros(count, np.bool_) for name in names}


def _translations(
    claims: frozenset[Capability],
    answers: Answers,
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    outcomes: Outcomes,
) -> Judged:
    said, truth = answers.outcomes, outcomes
    if not claims & {Capability.RIGHTS, Capability.FAULTS}:
        truth = _mapped(memory, context, accesses, outcomes)
    found = _no_fields(len(accesses))
    ok, really = said.kind == Kind.OK, truth.kind == Kind.OK
    if Capability.FAULTS in claims:
        found |= differing_fields(said, truth)
    else:
        found["outcome"] = ok != really
        found["pa"] = ok & really & (said.pa != truth.pa)
    found["entries"][:] = False
    if Capability.MARKS in claims:
        truth = by_choice(memory, said, allowed_marks(memory, context, accesses, truth))
        found["entries"] = (ok == really) & differing_fields(truth, said)["entries"]
    found = {name: column & ~answers.silent for name, column in found.items()}
    return Judged(accesses, said, truth, found, np.zeros(len(accesses), np.bool_))


def _mapped(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, outcomes: Outcomes
) -> Outcomes:
    """Return what the accesses come to where only mappings count, and no rights.

    An address is mapped where the supervisor may read with SMAP, keys and LASS out of the way. LAM
    and UAI come before, and mask the address of a fetch no more here than there.
    """
    plain = replace(
        context,
        cr3=context.cr3 & ~(CR3.LAM_U48 | CR3.LAM_U57) if context.mode.long else context.cr3,
        cr4=context.cr4 & ~(CR4.SMAP | CR4.PKE | CR4.LAM_SUP | CR4.LASS),
        efer=context.efer & ~EFER.UAIE,
    )
    found = translate_many(
        memory,
        plain,
        replace(
            accesses,
            va=linear_addresses(context, accesses),
            type=np.full(len(accesses), AccessType.READ, np.uint8),
            cpl=np.zeros(len(accesses), np.uint8),
        ),
    )
    there = found.kind == Kind.OK
    kind = np.where(outcomes.kind == Kind.OK, Kind.PAGE_FAULT, outcomes.kind)
    return replace(
        outcomes,
        kind=np.where(there, Kind.OK, kind).astype(np.uint8),
        pa=found.pa,
        page_size=found.page_size,
        rights=found.rights,
        error_code=np.where(there, 0, outcomes.error_code).astype(np.uint16),
        cr2=np.where(there, np.uint64(0), outcomes.cr2),
    )


def _listed(
    claims: frozenset[Capability],
    context: PagingContext,
    lists: tuple[Listing, Listing],
    accesses: Accesses,
    truth: Outcomes,
) -> Judged:
    """Judge accesses by the mappings that were listed for the linear addresses they go to.

    `lists` are the walker's and the true one. Sizes and flags are compared where the range was
    listed as a whole.
    """
    listing, true = lists
    va = linear_addresses(context, accesses)
    at, there = look_up(listing, va)
    true_at, known = look_up(true, va)
    said = Outcomes.empty(len(accesses))
    said.kind[:] = np.where(there, Kind.OK, Kind.PAGE_FAULT)
    found = _no_fields(len(accesses))
    really = truth.kind == Kind.OK
    found["outcome"] = there != really
    if len(listing.mappings):
        mapping = listing.mappings.take(at)
        said.pa[:] = np.where(there, mapping.pa + (va - mapping.va), np.uint64(0))
        said.page_size[:] = np.where(there, mapping.size, np.uint64(0))
        found["pa"] = there & really & (said.pa != truth.pa)
        if len(true.mappings):
            held = true.mappings.take(true_at)
            both = there & really & known
            found["size"] = both & ((mapping.size != held.size) | (mapping.va != held.va))
            if Capability.FLAGS in claims:
                found["flags"] = both & (mapping.flags != held.flags)
    return Judged(accesses, said, truth, found, np.ones(len(accesses), np.bool_))


def _beside(
    claims: frozenset[Capability], listing: Listing, true: Listing, accesses: Accesses
) -> Accesses:
    """Return reads where the lists differ, of what is listed as a whole; none of `accesses`."""
    addresses: U64 = np.array(
        sorted(_rows(claims, listing) ^ _rows(claims, true)), np.uint64
    ).reshape(-1, 4)[:, 0]
    addresses = np.setdiff1d(addresses, accesses.va)[:MAX_BESIDE]
    count = len(addresses)
    return Accesses(
        addresses,
        np.full(count, AccessType.READ, np.uint8),
        np.zeros(count, np.uint8),
        np.zeros(count, np.bool_),
    )


def _rows(claims: frozenset[Capability], listing: Listing) -> set[tuple[int, ...]]:
    """Return the mappings of whole ranges; each with where it begins in its range."""
    whole = listing.ranges.whole[listing.at]
    mappings, at = listing.mappings.take(whole), listing.at[whole]
    begins = np.maximum(mappings.va, listing.ranges.first[at])
    flags = mappings.flags if Capability.FLAGS in claims else np.zeros_like(mappings.flags)
    columns = (begins, mappings.pa, mappings.size, flags)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def _either(one: Judged, other: Judged) -> Judged:
    """Return both verdicts of the same accesses as one: the second where only it finds fault."""
    chosen = other.wrong & ~one.wrong
    return Judged(
        one.accesses,
        choose(chosen, other.said, one.said),
        choose(chosen, other.truth, one.truth),
        {name: np.where(chosen, other.fields[name], one.fields[name]) for name in one.fields},
        chosen,
    )
