"""Compare the answers of a walker under test with the truth, as far as it claims to answer."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import agreements, choose, differing_fields
from crosswalk.emu.targets.answers import Answers, Listing
from crosswalk.emu.targets.capabilities import LISTS, Capability
from crosswalk.emu.targets.mapping_lists import look_up, true_listing
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import linear_addresses, translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import CR3, CR4, EFER, PagingContext
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.outcome import Entries, Outcome

__all__ = ["MAX_EXTRA", "TargetVerdict", "judge"]

MAX_EXTRA = 1024
"""The most wrongly listed mappings that are judged on top of those of the accesses."""

Fields = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """The answers of a walker under test to n accesses, and where they are wrong.

    `reported` is what it says, `expected` what is true in the same terms. `fields` are bool[n] by
    what differs: outcome, pa, size, flags, error_code, cr2, entries. `listed` bool[n]: the answer
    comes from its list of mappings, not from its translation of this access. `observed` are the
    outcomes of the accesses, None where they weren't made.
    """

    accesses: Accesses
    reported: Outcomes
    expected: Outcomes
    fields: Fields
    listed: NDArray[np.bool_]
    observed: Outcomes | None = None

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
) -> tuple[TargetVerdict, TargetVerdict]:
    """Return the verdicts on these accesses, whose outcomes are known, and on extra mappings.

    Extra mappings are those that the walker lists and that don't exist, lists wrongly or leaves
    out: each is judged as a read of its first byte. Whether and where an address is mapped, rights
    aside, the built-in walker decides, which every outcome tests. So it does for the words that an
    access which faults may change, where it predicts that fault. An answer may leave out any of
    them, but change no other: the manuals leave open whether a walk that faults sets A in the
    entries that it used.
    """
    listing = answers.listing
    verdict = _no_verdict(accesses, outcomes)
    if claims - LISTS:
        verdict = _judge_translations(claims, answers, memory, context, accesses, outcomes)
    extra = _no_verdict(accesses.take(slice(0)), outcomes.take(slice(0)))
    if listing is not None and claims & LISTS:
        lists = listing, true_listing(memory, context, listing.ranges)
        expected = _mapped(memory, context, accesses, outcomes)
        listed = _judge_list(claims, context, lists, accesses, expected)
        verdict = _either(verdict, listed) if claims - LISTS else listed
        others = _extra_mappings(claims, *lists, accesses)
        expected = _mapped(memory, context, others, translate_many(memory, context, others))
        extra = _judge_list(claims, context, lists, others, expected)
    return replace(verdict, observed=outcomes), extra


def _no_verdict(accesses: Accesses, outcomes: Outcomes) -> TargetVerdict:
    nothing = np.zeros(len(accesses), np.bool_)
    return TargetVerdict(accesses, outcomes, outcomes, _no_fields(len(accesses)), nothing)


def _no_fields(count: int) -> Fields:
    names = ("outcome", "pa", "size", "flags", "error_code", "cr2", "entries")
    return {name: np.zeros(count, np.bool_) for name in names}


def _judge_translations(
    claims: frozenset[Capability],
    answers: Answers,
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    outcomes: Outcomes,
) -> TargetVerdict:
    reported, expected = answers.outcomes, outcomes
    if not claims & {Capability.RIGHTS, Capability.FAULTS}:
        expected = _mapped(memory, context, accesses, outcomes)
    wrong = _no_fields(len(accesses))
    ok, really = reported.kind == Kind.OK, expected.kind == Kind.OK
    if Capability.FAULTS in claims:
        wrong |= differing_fields(reported, expected)
    else:
        wrong["outcome"] = ok != really
        wrong["pa"] = ok & really & (reported.pa != expected.pa)
    wrong["entries"][:] = False
    if Capability.MARKS in claims:
        expected = allowed_updates(memory, context, accesses, expected)
        expected = closest_updates(memory, reported, expected)
        wrong["entries"] = (ok == really) & differing_fields(expected, reported)["entries"]
    wrong = {name: column & ~answers.silent for name, column in wrong.items()}
    return TargetVerdict(accesses, reported, expected, wrong, np.zeros(len(accesses), np.bool_))


def _mapped(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, outcomes: Outcomes
) -> Outcomes:
    """Return the outcomes of the accesses if only mappings counted, and no rights.

    An address is mapped where the supervisor may read without SMAP, keys and LASS. LAM and UAI
    mask it first, but not the address of a fetch.
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
    mapped = found.kind == Kind.OK
    kind = np.where(outcomes.kind == Kind.OK, Kind.PAGE_FAULT, outcomes.kind)
    return replace(
        outcomes,
        kind=np.where(mapped, Kind.OK, kind).astype(np.uint8),
        pa=found.pa,
        page_size=found.page_size,
        rights=found.rights,
        error_code=np.where(mapped, 0, outcomes.error_code).astype(np.uint16),
        cr2=np.where(mapped, np.uint64(0), outcomes.cr2),
    )


def _judge_list(
    claims: frozenset[Capability],
    context: PagingContext,
    lists: tuple[Listing, Listing],
    accesses: Accesses,
    expected: Outcomes,
) -> TargetVerdict:
    """Judge accesses by the mappings that were listed for their linear addresses.

    `lists` are the walker's and the true one. Sizes and flags are compared where the range was
    listed as a whole.
    """
    listing, true = lists
    va = linear_addresses(context, accesses)
    row, found = look_up(listing, va)
    true_row, known = look_up(true, va)
    reported = Outcomes.empty(len(accesses))
    reported.kind[:] = np.where(found, Kind.OK, Kind.PAGE_FAULT)
    wrong = _no_fields(len(accesses))
    really = expected.kind == Kind.OK
    wrong["outcome"] = found != really
    if len(listing.mappings):
        mapping = listing.mappings.take(row)
        reported.pa[:] = np.where(found, mapping.pa + (va - mapping.va), np.uint64(0))
        reported.page_size[:] = np.where(found, mapping.size, np.uint64(0))
        wrong["pa"] = found & really & (reported.pa != expected.pa)
        if len(true.mappings):
            held = true.mappings.take(true_row)
            both = found & really & known
            wrong["size"] = both & ((mapping.size != held.size) | (mapping.va != held.va))
            if Capability.FLAGS in claims:
                wrong["flags"] = both & (mapping.flags != held.flags)
    return TargetVerdict(accesses, reported, expected, wrong, np.ones(len(accesses), np.bool_))


def _extra_mappings(
    claims: frozenset[Capability], listing: Listing, true: Listing, accesses: Accesses
) -> Accesses:
    """Return a read of each mapping of whole ranges that differs, `accesses` left out."""
    addresses: U64 = np.array(
        sorted(_rows(claims, listing) ^ _rows(claims, true)), np.uint64
    ).reshape(-1, 4)[:, 0]
    addresses = np.setdiff1d(addresses, accesses.va)[:MAX_EXTRA]
    count = len(addresses)
    return Accesses(
        addresses,
        np.full(count, AccessType.READ, np.uint8),
        np.zeros(count, np.uint8),
        np.zeros(count, np.bool_),
    )


def _rows(claims: frozenset[Capability], listing: Listing) -> set[tuple[int, ...]]:
    """Return the mappings of whole ranges: (first va in the range, pa, size, flags)."""
    whole = listing.ranges.whole[listing.at]
    mappings, at = listing.mappings.take(whole), listing.at[whole]
    begins = np.maximum(mappings.va, listing.ranges.first[at])
    flags = mappings.flags if Capability.FLAGS in claims else np.zeros_like(mappings.flags)
    columns = (begins, mappings.pa, mappings.size, flags)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def _either(one: TargetVerdict, other: TargetVerdict) -> TargetVerdict:
    """Return one verdict of two on the same accesses: the second where it alone finds errors."""
    chosen = other.wrong & ~one.wrong
    return TargetVerdict(
        one.accesses,
        choose(chosen, other.reported, one.reported),
        choose(chosen, other.expected, one.expected),
        {name: np.where(chosen, other.fields[name], one.fields[name]) for name in one.fields},
        chosen,
    )


def allowed_updates(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, expected: Outcomes
) -> Outcomes:
    """Return the outcomes, those that fault with all the words that the access may change.

    Those are the walker's, where it predicts this fault: a CPU shows one choice of several.
    """
    faults = np.flatnonzero(expected.kind == Kind.PAGE_FAULT)
    if not len(faults):
        return expected
    predicted = translate_many(memory, context, accesses.take(faults))
    same = agreements(predicted, expected.take(faults))
    rows, predicted = faults[same], predicted.take(same)
    entry_pa, entry_value = expected.entry_pa.copy(), expected.entry_value.copy()
    entry_pa[rows], entry_value[rows] = predicted.entry_pa, predicted.entry_value
    return replace(expected, entry_pa=entry_pa, entry_value=entry_value)


def closest_updates(memory: PhysicalMemory, reported: Outcomes, allowed: Outcomes) -> Outcomes:
    """Return what is allowed, where both fault with the allowed choice closest to the reported.

    That choice has the words that are reported, without the bits that may not be set in them. A
    word can hold two entries that a walk uses, so that less than all of its bits may be set.
    """
    differs = differing_fields(allowed, reported)["entries"]
    rows = np.flatnonzero(differs & (reported.kind != Kind.OK) & (allowed.kind != Kind.OK))
    if not len(rows):
        return allowed
    entry_pa, entry_value = allowed.entry_pa.copy(), allowed.entry_value.copy()
    for row in rows.tolist():
        entry_pa[row], entry_value[row] = 0, 0
        for at, (pa, value) in enumerate(_closest(memory, reported[row], allowed[row])):
            entry_pa[row, at], entry_value[row, at] = pa, value
    return replace(allowed, entry_pa=entry_pa, entry_value=entry_value)


def _closest(memory: PhysicalMemory, reported: Outcome, allowed: Outcome) -> Entries:
    """Return the words of an answer, each with no more bits set than is allowed."""
    most = dict(allowed.entries)
    before = {pa: memory.word(pa) or 0 for pa in most}
    chosen = [(pa, value & most[pa] | before[pa]) for pa, value in reported.entries if pa in most]
    return tuple((pa, value) for pa, value in chosen if value != before[pa])
