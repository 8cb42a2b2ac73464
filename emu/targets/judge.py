"""Compare the answers of a walker under test with the truth, as far as it claims to answer."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import agreements, choose, differing_fields
from crosswalk.emu.targets.answers import Answers, Given, Listing, Unplaced
from crosswalk.emu.targets.capabilities import LISTS, Capability
from crosswalk.emu.targets.mapping_lists import differences, look_up, range_of, true_listing
from crosswalk.emu.targets.tally import Tally
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import linear_addresses, translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import CR0, CR3, CR4, EFER, PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.outcome import Entries, Outcome, Translation
from crosswalk.walker.rights import GRANTS, Grant, Rights

__all__ = ["MAX_EXTRA", "Contradiction", "Judgement", "TargetVerdict", "judge"]

MAX_EXTRA = 1024
"""The most wrongly listed mappings that are judged on top of those of the accesses."""

Fields = dict[str, NDArray[np.bool_]]


class Contradiction(CrosswalkError):
    """Crosswalk's own effective rights of a page don't agree with what the CPU did there."""


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """The answers of a walker under test to n accesses, and where they are wrong.

    `reported` is what it says, `expected` what is true in the same terms. `fields` are bool[n] by
    what differs: outcome, pa, size, flags, effective, error_code, cr2, entries. `listed` bool[n]:
    the answer comes from its list of mappings, not from its translation of this access: then the
    rights of both are effective rights, as the supervisor and the user have them with CR0.WP set
    and without SMEP, SMAP and protection keys. `unplaced` bool[n]: the list says that this address
    is mapped, and not where to. `observed` are the outcomes of the accesses, None where they
    weren't made.
    """

    accesses: Accesses
    reported: Outcomes
    expected: Outcomes
    fields: Fields
    listed: NDArray[np.bool_]
    unplaced: NDArray[np.bool_]
    observed: Outcomes | None = None

    def said(self, row: int) -> Outcome:
        """Return what the walker says of an access, `Unplaced` where it leaves out where to."""
        said = self.reported[row]
        if not self.unplaced[row] or not isinstance(said, Translation):
            return said
        return Unplaced(said.pa, said.page_size, said.rights, said.entries)

    def claims_of(self, row: int, claims: frozenset[Capability]) -> frozenset[Capability]:
        """Return which of the walker's claims one answer is about."""
        return claims & LISTS if self.listed[row] else claims - LISTS

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """bool[n]: which answers are wrong."""
        found: NDArray[np.bool_] = np.logical_or.reduce(list(self.fields.values()))
        return found


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on the accesses that were asked about, that on extra mappings, and the tally.

    Extra mappings are those that the walker lists and that don't exist, lists wrongly or leaves
    out: each is judged as a read of its first byte. `silent` bool[n]: the accesses to which the
    walker answers nothing; `unasked` counts those that weren't put to it after too many failures,
    `unlisted` those that concern none of its claims: they aren't canonical, and it only lists.
    """

    verdict: TargetVerdict
    extra: TargetVerdict
    tally: Tally
    silent: NDArray[np.bool_]
    unasked: int
    unlisted: int

    @property
    def verdicts(self) -> tuple[TargetVerdict, TargetVerdict]:
        """Both verdicts."""
        return self.verdict, self.extra


def judge(
    claims: frozenset[Capability],
    answers: Answers,
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    outcomes: Outcomes,
) -> Judgement:
    """Return what is right and wrong of the answers to these accesses, whose outcomes are known.

    Whether and where an address is mapped, rights aside, and with which effective rights, the
    built-in walker decides, which every outcome tests; `Contradiction` where one doesn't agree
    with the effective rights. So it does for the words that an access which faults may change,
    where it predicts that fault. An answer may leave out any of them, but change no other: the
    manuals leave open whether a walk that faults sets A in the entries that it used.
    """
    space = _Space(memory, context, accesses, outcomes)
    listing = answers.listing
    verdict = _no_verdict(accesses, outcomes)
    if claims - LISTS:
        verdict = _judge_translations(claims, answers, space)
    extra = _no_verdict(accesses.take(slice(0)), outcomes.take(slice(0)))
    if listing is not None and claims & LISTS:
        true = true_listing(memory, context, listing.ranges)
        if Capability.EFFECTIVE in claims:
            _require_agreement(space, true)
        listed = _judge_list(claims, (listing, true), space)
        verdict = _either(verdict, listed) if claims - LISTS else listed
        others = _extra_mappings(claims, listing, true, accesses)
        beside = _Space(memory, context, others, translate_many(memory, context, others))
        extra = _judge_list(claims, (listing, true), beside)
    return Judgement(replace(verdict, observed=outcomes), extra, *_count(claims, answers, space))


@dataclass(frozen=True)
class _Space:
    """An address space, and accesses to it with their outcomes."""

    memory: PhysicalMemory
    context: PagingContext
    accesses: Accesses
    outcomes: Outcomes

    @cached_property
    def mapped(self) -> Outcomes:
        """The outcomes if only mappings counted, and no rights; the rights are effective rights."""
        return _mapped(self.memory, self.context, self.accesses, self.outcomes)


_OF_A_PAGE = {Capability.FLAGS: Given.FLAGS, Capability.EFFECTIVE: Given.RIGHTS}

Asked = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]
"""bool[n] each: the accesses that concern a claim; those of them that it answers; those that it
neither answers nor declines."""


def _count(
    claims: frozenset[Capability], answers: Answers, space: _Space
) -> tuple[Tally, NDArray[np.bool_], int, int]:
    """Return the tally of the questions, and the last three columns of a `Judgement`."""
    every = np.ones(len(space.accesses), np.bool_)
    aside, failing = ~every, ~every
    aside[answers.aside] = True
    for failure in answers.failures:
        failing[failure.rows] = True
    parts: dict[Capability, Asked] = dict.fromkeys(claims - LISTS, (every, ~answers.silent, aside))
    if claims & LISTS:
        parts |= _asked_of_list(claims, answers.listing, space)
    tally, mode = Tally(), space.context.mode
    answered, declined, failed, unasked, concerned = (~every for _ in range(5))
    for claim, (asked, said, without) in parts.items():
        silent, missed = asked & ~said & ~without, asked & without & failing
        tally.add(mode, claim, *(int(each.sum()) for each in (said, silent, missed)))
        answered, declined, failed = answered | said, declined | silent, failed | missed
        unasked, concerned = unasked | asked & without, concerned | asked
    declined &= ~answered
    failed &= ~(answered | declined)
    tally.add(mode, None, *(int(each.sum()) for each in (answered, declined, failed)))
    unasked &= ~(answered | declined | failed)
    return tally, ~answered, int(unasked.sum()), int((~concerned).sum())


def _asked_of_list(
    claims: frozenset[Capability], listing: Listing | None, space: _Space
) -> dict[Capability, Asked]:
    """Return the accesses that a list was asked for, and answers; without a list it answers none.

    Flags and rights are those of what is mapped, flags of whole ranges alone. Ranges are no
    question of their own: they say how leaves may be listed.
    """
    mapped = space.mapped.kind == Kind.OK
    nothing = np.zeros_like(mapped)
    chosen = [claim for claim in _OF_A_PAGE if claim in claims]
    if listing is None:
        none = dict.fromkeys(chosen, (mapped, nothing, nothing))
        return {Capability.LEAVES: (~nothing, nothing, nothing), **none}
    va = linear_addresses(space.context, space.accesses)
    number, within = range_of(listing.ranges, va)
    row, found = look_up(listing, va)
    silent, whole = _at(listing.silent, number), _at(listing.ranges.whole, number)
    given = _at(listing.mappings.given, row)
    aside = np.zeros_like(listing.silent)
    aside[listing.aside] = True
    aside = within & _at(aside, number)
    parts: dict[Capability, Asked] = {Capability.LEAVES: (within, within & ~silent, aside)}
    for claim in chosen:
        asked = within & mapped & (whole | (claim is not Capability.FLAGS))
        parts[claim] = asked, asked & found & ((given & _OF_A_PAGE[claim]) != 0), aside
    return parts


def _at(column: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Return the chosen rows of a column, zeros where it has none."""
    return column[rows] if len(column) else np.zeros(len(rows), column.dtype)


def _no_verdict(accesses: Accesses, outcomes: Outcomes) -> TargetVerdict:
    nothing = np.zeros(len(accesses), np.bool_)
    return TargetVerdict(accesses, outcomes, outcomes, _no_fields(len(accesses)), nothing, nothing)


def _no_fields(count: int) -> Fields:
    names = ("outcome", "pa", "size", "flags", "effective", "error_code", "cr2", "entries")
    return {name: np.zeros(count, np.bool_) for name in names}


def _judge_translations(
    claims: frozenset[Capability], answers: Answers, space: _Space
) -> TargetVerdict:
    memory, context, accesses = space.memory, space.context, space.accesses
    reported, expected = answers.outcomes, space.outcomes
    if not claims & {Capability.RIGHTS, Capability.FAULTS}:
        expected = space.mapped
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
    nothing = np.zeros(len(accesses), np.bool_)
    return TargetVerdict(accesses, reported, expected, wrong, nothing, nothing)


def _mapped(
    memory: PhysicalMemory, context: PagingContext, accesses: Accesses, outcomes: Outcomes
) -> Outcomes:
    """Return the outcomes of the accesses if only mappings counted, and no rights.

    An address is mapped where the supervisor may read without SMAP, keys and LASS. LAM and UAI
    mask it first, but not the address of a fetch. Without SMEP and with WP the rights of a page
    are those that its entries leave.
    """
    plain = replace(
        context,
        cr0=context.cr0 | CR0.WP,
        cr3=context.cr3 & ~(CR3.LAM_U48 | CR3.LAM_U57) if context.mode.long else context.cr3,
        cr4=context.cr4 & ~(CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.PKS | CR4.LAM_SUP | CR4.LASS),
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


def _rights_of(grant: int) -> Rights:
    """Return effective rights as those of the supervisor and of the user.

    The supervisor reads whatever is mapped; the user does what it does, on pages that are its own.
    """
    rights = Rights.SUPERVISOR_READ
    rights |= Rights.SUPERVISOR_WRITE if grant & Grant.WRITE else Rights(0)
    rights |= Rights.SUPERVISOR_EXECUTE if grant & Grant.EXECUTE else Rights(0)
    return rights | Rights(rights << 3) if grant & Grant.USER else rights


_RIGHTS = np.array([_rights_of(grant) for grant in range(GRANTS)], np.uint8)


def _require_agreement(space: _Space, true: Listing) -> None:
    """Raise `Contradiction` where effective rights don't explain the outcome of an access.

    Both statements of them are tested: that of the translation, and that of the true list. A page
    that has the right can be withheld by a protection key alone.

    Source: Intel SDM vol. 3A, "Determination of Access Rights", "Protection Keys".
    """
    context, accesses, mapped = space.context, space.accesses, space.mapped
    rows = np.flatnonzero(
        (mapped.kind == Kind.OK) & (space.outcomes.kind != Kind.GENERAL_PROTECTION)
    )
    some, rights = accesses.take(rows), mapped.rights[rows]
    user, writes, executes = (
        (rights & bit) != 0
        for bit in (Rights.USER_READ, Rights.SUPERVISOR_WRITE, Rights.SUPERVISOR_EXECUTE)
    )
    data, by_user = some.type != AccessType.EXECUTE, some.cpl == 3
    needed = np.where(by_user, user, ~(user & context.smap & ~some.ac) | ~data)
    needed &= writes | (some.type != AccessType.WRITE) | (~by_user & (not context.wp))
    needed &= (executes & ~(user & context.smep & ~by_user)) | data
    made = space.outcomes.kind[rows] == Kind.OK
    keys = user & data & context.pke
    wrong = (made & ~needed) | (~made & needed & ~keys)
    row, known = look_up(true, linear_addresses(context, some))
    if len(true.mappings):
        wrong |= known & (_RIGHTS[true.mappings.rights[row]] != rights)
    if wrong.any():
        at = int(rows[np.argmax(wrong)])
        access = accesses[at]
        raise Contradiction(
            f"effective rights of {access.va:#x}: the walk states {_text(int(mapped.rights[at]))}, "
            f"which does not explain the {access.type.name.lower()} at CPL {access.cpl}"
        )


def _text(rights: int) -> str:
    bits = (Rights.USER_READ, Rights.SUPERVISOR_WRITE, Rights.SUPERVISOR_EXECUTE)
    return "".join(name if rights & bit else "-" for name, bit in zip("uwx", bits, strict=True))


def _judge_list(
    claims: frozenset[Capability], lists: tuple[Listing, Listing], space: _Space
) -> TargetVerdict:
    """Judge accesses by the mappings that were listed for their linear addresses.

    `lists` are the walker's and the true one. Sizes and flags are compared where the range was
    listed as a whole; sizes not where neighbours may be listed as one; nothing where the walker
    declined the range, and of a mapping no part that it doesn't give.
    """
    listing, true = lists
    accesses, expected = space.accesses, space.mapped
    va = linear_addresses(space.context, accesses)
    row, found = look_up(listing, va)
    true_row, known = look_up(true, va)
    number, within = range_of(listing.ranges, va)
    declined = within & _at(listing.silent, number)
    reported = Outcomes.empty(len(accesses))
    reported.kind[:] = np.where(found, Kind.OK, Kind.PAGE_FAULT)
    wrong = _no_fields(len(accesses))
    really = expected.kind == Kind.OK
    wrong["outcome"] = ~declined & (found != really)
    unplaced = np.zeros(len(accesses), np.bool_)
    if len(listing.mappings):
        mapping = listing.mappings.take(row)
        both = found & really
        unplaced = found & ((mapping.given & Given.PA) == 0)
        gives = {part: both & ((mapping.given & part) != 0) for part in Given}
        # What isn't given is that of the truth, as other parts of answers that aren't claimed.
        unsaid = both & ~gives[Given.PA]
        said = np.where(unsaid, expected.pa, mapping.pa + (va - mapping.va))
        reported.pa[:] = np.where(found, said, np.uint64(0))
        reported.page_size[:] = np.where(found, mapping.size, np.uint64(0))
        unsaid = both & ~gives[Given.RIGHTS]
        rights = np.where(unsaid, expected.rights, _RIGHTS[mapping.rights])
        reported.rights[:] = np.where(found, rights, 0)
        wrong["pa"] = gives[Given.PA] & (reported.pa != expected.pa)
        if Capability.EFFECTIVE in claims:
            wrong["effective"] = gives[Given.RIGHTS] & (reported.rights != expected.rights)
        if len(true.mappings):
            held = true.mappings.take(true_row)
            if Capability.RANGES not in claims:
                other = (mapping.size != held.size) | (mapping.va != held.va)
                wrong["size"] = both & known & other
            if Capability.FLAGS in claims:
                wrong["flags"] = gives[Given.FLAGS] & known & (mapping.flags != held.flags)
    listed = np.ones(len(accesses), np.bool_)
    return TargetVerdict(accesses, reported, expected, wrong, listed, unplaced)


def _extra_mappings(
    claims: frozenset[Capability], listing: Listing, true: Listing, accesses: Accesses
) -> Accesses:
    """Return a read of each place where the lists of whole ranges differ, `accesses` left out."""
    addresses = np.setdiff1d(differences(claims, listing, true), accesses.va)[:MAX_EXTRA]
    count = len(addresses)
    return Accesses(
        addresses,
        np.full(count, AccessType.READ, np.uint8),
        np.zeros(count, np.uint8),
        np.zeros(count, np.bool_),
    )


def _either(one: TargetVerdict, other: TargetVerdict) -> TargetVerdict:
    """Return one verdict of two on the same accesses: the second where it alone finds errors."""
    chosen = other.wrong & ~one.wrong
    return TargetVerdict(
        one.accesses,
        choose(chosen, other.reported, one.reported),
        choose(chosen, other.expected, one.expected),
        {name: np.where(chosen, other.fields[name], one.fields[name]) for name in one.fields},
        chosen,
        chosen & other.unplaced,
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
