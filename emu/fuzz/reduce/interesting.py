"""Interestingness: a smaller case shows the same when walker and CPU are asked again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crosswalk.emu.findings.findings import Finding
from crosswalk.emu.findings.layout import case_layout
from crosswalk.emu.findings.note import with_detail
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce.composite import reduced_composite
from crosswalk.emu.fuzz.reduce.judge_trial import JudgeTrial
from crosswalk.emu.fuzz.reduce.passes import reduce_case
from crosswalk.emu.fuzz.reduce.reducer import Reduced, too_many
from crosswalk.emu.fuzz.reduce.sequence import reduced_sequence
from crosswalk.emu.fuzz.reduce.trial import Trial
from crosswalk.emu.report.composites import CompositeCase, dump_composite
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.formats import Case
from crosswalk.walker.tlb import Sequence as Steps

__all__ = [
    "MAX_HANGING",
    "composite_reduced_to",
    "composite_signature_to_keep",
    "reduced_to",
    "sequence_reduced_to",
    "signature_to_keep",
    "signatures_of",
]

Tries = Executor | Trial | JudgeTrial
"""Who tries cases: in this process, in one of its own, or with a judge."""

MAX_HANGING = 24
"""The most hanging cases that are waited for: each costs seconds."""


def signatures_of(by: Tries, case: Case) -> list[Signature]:
    """Return the signatures of a case, sorted; raises as `Executor.findings` and `Case.context`."""
    return sorted(each.signature for each in _findings(by, case))


def signature_to_keep(by: Tries, case: Case) -> Signature | None:
    """Return the signature that a case's note names, or else its first; None if it has none."""
    return _named(signatures_of(by, case), case.note)


def _named(found: list[Signature], note: str | None) -> Signature | None:
    named = [each for each in found if note is not None and note.startswith(str(each))]
    return next(iter(named or found), None)


def composite_signature_to_keep(trial: Trial | JudgeTrial, case: CompositeCase) -> Signature | None:
    """Return the same for a composite's case."""
    return _named(trial.composite_signatures(case), case.case.note)


def reduced_to(by: Tries, case: Case, signature: Signature) -> Reduced[Case]:
    """Return the case reduced while it shows this signature, with its outcomes."""
    bare = replace(
        case, probes=tuple(replace(each, predicted=None, observed=None) for each in case.probes)
    )

    def shows(cases: Sequence[Case]) -> Iterator[bool]:
        for some in _more_and_more(cases, by.at_once if isinstance(by, JudgeTrial) else 1):
            for each, found in zip(some, _findings_many(by, some), strict=True):
                yield not isinstance(found, CrosswalkError) and _shows(found, each, signature)

    reduced = reduce_case(bare, shows, lambda tries: _enough(by, tries))
    for finding in _findings(by, reduced.case):
        if finding.signature == signature and len(reduced.case.probes) == 1:
            note = with_detail(case.note, case.walker, finding.answer)
            judged = replace(reduced.case, probes=finding.case.probes, note=note)
            if isinstance(by, JudgeTrial):  # The outcomes are those of the CPU that it has.
                judged = replace(judged, cpu=finding.case.cpu)
            return Reduced(judged, reduced.tries, reduced.done)
    return reduced


def _more_and_more(cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    """Yield the cases by one, two, four and so on, or from another size on.

    Those that are tried together take a fraction of the time, but all that are behind one that
    shows the same are tried in vain.
    """
    at = 0
    while at < len(cases):
        yield cases[at : at + size]
        at, size = at + size, 2 * size


def _shows(found: tuple[Finding, ...], case: Case, signature: Signature) -> bool:
    """Return whether a case shows this: what a list says elsewhere is no finding of its probe."""
    vas = {probe.va for probe in case.probes}
    return any(
        each.signature == signature
        and (len(each.case.probes) != 1 or each.case.probes[0].va in vas)
        for each in found
    )


def composite_reduced_to(
    trial: Trial | JudgeTrial, case: CompositeCase, signature: Signature
) -> tuple[Reduced[CompositeCase], bytes]:
    """Return a composite's case reduced the same way, and its file, with its outcomes."""
    reduced = reduced_composite(
        case,
        lambda each: signature in trial.composite_signatures(each),
        lambda tries: _enough(trial, tries),
    )
    for finding in trial.composite_findings(reduced.case):
        if finding.signature == signature:
            asked = reduced.case
            if isinstance(trial, JudgeTrial):
                asked = replace(asked, case=replace(asked.case, cpu=finding.case.case.cpu))
            return reduced, dump_composite(asked, finding.allowed, finding.seen)
    return reduced, dump_composite(reduced.case)


def sequence_reduced_to(trial: Trial | JudgeTrial, sequence: Steps, departs: str) -> Reduced[Steps]:
    """Return a sequence reduced while an access of it departs for these causes."""
    return reduced_sequence(
        sequence,
        lambda each: trial.departure(each) == departs,
        lambda tries: _enough(trial, tries),
    )


def _enough(by: Tries, tries: int) -> bool:
    return too_many(tries) or (not isinstance(by, Executor) and by.hung >= MAX_HANGING)


def _findings_many(by: Tries, cases: Sequence[Case]) -> list[tuple[Finding, ...] | CrosswalkError]:
    if not isinstance(by, Executor):
        return by.findings_many(cases)
    found = by.findings_many([case_layout(case) for case in cases], confirmed=False)
    return [each if isinstance(each, CrosswalkError) else each.all() for each in found]


def _findings(by: Tries, case: Case) -> tuple[Finding, ...]:
    if not isinstance(by, Executor):
        return by.findings(case)
    return by.findings(case_layout(case)).all()
