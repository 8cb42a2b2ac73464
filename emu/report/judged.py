"""What judges said, as text and as JSON: of each probe, and of all of them by judge."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from msgspec import UNSET, UnsetType

from crosswalk.emu.check.departures import differs
from crosswalk.emu.check.judged import (
    AccessVerdicts,
    CompositeVerdicts,
    SequenceJudgement,
    Status,
)
from crosswalk.emu.report.composites import CompositeCase, outcomes_at
from crosswalk.emu.report.conclusion import Conclusion, agreement
from crosswalk.emu.report.text import count_text
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats.documents import (
    FaultJson,
    OkJson,
    OutcomeJson,
    ProtectionJson,
    hex_words,
)
from crosswalk.walker.formats.judged import (
    EndedJson,
    JudgedCompositeJson,
    JudgedCpuJson,
    JudgedFaultJson,
    JudgedJson,
    JudgedOkJson,
    JudgedProtectionJson,
    JudgedSequenceJson,
    JudgeJson,
    LostJson,
    NotExportableJson,
    NotShownJson,
    VerdictName,
)
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.tlb import Halted

__all__ = [
    "JudgeTally",
    "composite_document",
    "concluded",
    "count_lines",
    "counts_text",
    "judge_document",
    "judged_probes",
    "sequence_document",
    "table_lines",
]


@dataclass(slots=True)
class JudgeTally:
    """What came of all probes that were put to one judge.

    `counts` has how many there are of each status and, behind it, of each rule that it is wrong
    about, each name of departures, each reason. Of those that agree, `unproved` could not be shown
    the address of. `unshared` diverge because Crosswalk's own two walks differ. `refutes` counts
    the probes on which it agrees with the prediction and another judge, for a CPU of which the same
    is predicted, doesn't: by that judge, and what it is wrong about. `failed` is why it couldn't be
    asked, or not further. `name` is that of the command line, `short` what lines call it.
    """

    name: str
    short: str
    version: str = ""
    counts: Counter[tuple[Status, str]] = field(default_factory=Counter)
    unproved: int = 0
    unshared: int = 0
    refutes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: str = ""

    def of(self, *statuses: Status) -> int:
        """Return how many probes have one of these statuses."""
        return sum(count for (status, _), count in self.counts.items() if status in statuses)

    @property
    def probes(self) -> int:
        """How many there are."""
        return self.counts.total()

    @property
    def answered(self) -> int:
        """How many have an outcome."""
        return self.of(*(status for status in Status if status.answered))


def table_lines(tallies: Sequence[JudgeTally]) -> Iterator[str]:
    """Yield the table by judge, and behind it what each number of it is made of."""
    statuses = [
        status
        for status in Status
        if status in {Status.AGREED, Status.DIVERGED} or any(each.of(status) for each in tallies)
    ]
    rows = [["judge", "probes", *(status.text for status in statuses)]]
    for each in tallies:
        if each.failed and not each.probes:
            continue
        numbers = [each.probes, *(each.of(status) for status in statuses)]
        rows.append([each.short, *(f"{number:,}" for number in numbers)])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for name, *cells in rows:
        shown = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        yield f"{name:<{widths[0]}}  {'  '.join(shown)}"
    for each in tallies:
        yield f"{each.short}: {_about(each)}"
        yield from (f"  {line}" for line in count_lines(each))


def _about(tally: JudgeTally) -> str:
    """Return what a judge is, and why it wasn't asked to the end."""
    failed = tally.failed and f"not asked{' further' * bool(tally.probes)}: {tally.failed}"
    return "; ".join(part for part in (tally.version, failed) if part)


def count_lines(tally: JudgeTally) -> Iterator[str]:
    """Yield what the numbers of a judge are made of: rules, departures and reasons, counted.

    Before them its name as it was given, where lines have a shorter one.
    """
    if tally.name != tally.short:
        yield f"given as {printable(tally.name)}"
    if tally.unproved:
        yield f"{tally.unproved:,} agreed in all but the address, which can't be shown"
    for status in Status:
        found = [(detail, count) for (its, detail), count in tally.counts.items() if its is status]
        for detail, count in sorted(found):
            if status is Status.KNOWN:
                yield f"{count:,} known, {detail}: {differs(detail)}"
            elif detail:
                yield f"{count:,} {status.text}: {detail}"
    for (other, what), count in sorted(tally.refutes.items()):
        yield f"refutes {other} on {count_text(count, 'probe')}: {what}"


def concluded(tally: JudgeTally) -> Conclusion:
    """Return the last word on a judge: agreement is for what was asked and answered alone."""
    beyond = tally.probes - tally.answered
    clauses = [
        f"{title}: {count:,}"
        for title, count in (
            ("known divergences", tally.of(Status.KNOWN)),
            *((status.text, tally.of(status)) for status in _NO_ANSWER),
            ("without the address", tally.unproved),
        )
        if count
    ]
    agreed = tally.of(Status.AGREED)
    if any(tally.of(status) for status in Status if status.wrong):
        status, words = 1, f"FAILED: {agreed:,} of {tally.probes:,} probes agree"
        clauses[:0] = [f"diverged: {tally.of(Status.DIVERGED):,}"]
    elif tally.failed and not tally.probes:
        status, words = 2, "not asked"
    elif tally.failed:
        status, words = 2, f"not asked to the end; {agreed:,} of {tally.probes:,} probes agree"
    elif not tally.answered:
        status, words = 2, "nothing answered"
    elif tally.of(Status.LOST):
        status, words = 2, f"not finished; {agreed:,} of {tally.probes:,} probes agree"
    else:
        status, words = 0, agreement(agreed, tally.answered, beyond)
    return Conclusion(status, "; ".join([words, *clauses, f"by {tally.version or tally.short}"]))


_NO_ANSWER = tuple(status for status in Status if not status.answered)


def counts_text(counts: Mapping[tuple[Status, str], int]) -> str:
    """Return how many probes there are of each status in one line, departures by name."""
    totals: Counter[str] = Counter()
    for (status, detail), count in sorted(counts.items()):
        totals[f"{status.text} ({detail})" if status is Status.KNOWN else status.text] += count
    return ", ".join(f"{count:,} {text}" for text, count in totals.items()) or "nothing asked"


def judge_document(version: str, context: PagingContext) -> JudgeJson:
    """Return a judge, with the CPU that it had."""
    cpu = JudgedCpuJson(context.vendor, context.maxphyaddr, context.page1gb)
    return JudgeJson(version, cpu)


_NO_OUTCOME: dict[Status, Callable[[str], JudgedJson]] = {
    Status.NOT_SHOWN: NotShownJson,
    Status.NOT_EXPORTABLE: NotExportableJson,
    Status.ENDED: EndedJson,
    Status.LOST: LostJson,
}


def judged_probes(
    found: AccessVerdicts, predicted: Sequence[Outcome | None]
) -> Iterator[JudgedJson]:
    """Yield what a judge said of each access; `predicted` is what the document has of it."""
    for row in range(len(found.verdicts)):
        status, detail = found.verdicts.of(row)
        none = _NO_OUTCOME.get(status)
        if none is not None:
            yield none(detail)
            continue
        own, said = found.predicted[row], predicted[row]
        shared: dict[str, Any] = {
            "verdict": _name(status),
            "known": detail if status is Status.KNOWN else UNSET,
            "predicted": UNSET if said is not None and _same(own, said) else _document(own),
        }
        yield _judged(found.seen[row], shared, placed=not found.unproved[row])


def _judged(outcome: Outcome, shared: dict[str, Any], *, placed: bool) -> JudgedJson:
    shared["entries"] = _words(outcome.entries)
    match outcome:
        case Translation():
            return JudgedOkJson(pa=hex(outcome.pa) if placed else UNSET, **shared)
        case PageFault(code, cr2):
            return JudgedFaultJson(error_code=hex(code), cr2=hex(cr2), **shared)
    return JudgedProtectionJson(**shared)


def _same(one: Outcome, other: Outcome) -> bool:
    """Return whether two predictions are the same, whatever words a fault may change."""
    match one, other:
        case Translation(), Translation():
            return (one.pa, one.entries) == (other.pa, other.entries)
        case PageFault(), PageFault():
            return (one.error_code, one.cr2) == (other.error_code, other.cr2)
    return isinstance(one, GeneralProtection) and isinstance(other, GeneralProtection)


def _document(outcome: Outcome) -> OutcomeJson:
    match outcome:
        case Translation():
            return OkJson(pa=hex(outcome.pa), entries=_words(outcome.entries))
        case PageFault(code, cr2):
            # Words that a fault may or may not change are no part of an outcome in a file.
            return FaultJson(error_code=hex(code), cr2=hex(cr2))
    return ProtectionJson()


def _words(words: Sequence[tuple[int, int]]) -> dict[str, str] | UnsetType:
    return hex_words(words) if words else UNSET


def _name(status: Status) -> VerdictName:
    return cast("VerdictName", status.name.lower())


def _parts_of(status: Status, detail: str) -> dict[str, Any]:
    return {
        "verdict": _name(status),
        "known": detail if status is Status.KNOWN else UNSET,
        "why": UNSET if status.answered else detail,
    }


def composite_document(case: CompositeCase, found: CompositeVerdicts) -> JudgedCompositeJson:
    """Return what a judge said of the one composite of a case."""
    status, detail = found.verdicts.of(0)
    shared = _parts_of(status, detail)
    if not status.answered:
        return JudgedCompositeJson(**shared)
    seen = found.judged.outcomes
    words = zip(seen.entry_pa[0].tolist(), seen.entry_value[0].tolist(), strict=True)
    return JudgedCompositeJson(
        outcomes=[_document(each) for each in outcomes_at(seen, case.access)],
        entries=_words([each for each in words if each[1]]),
        **shared,
    )


def sequence_document(
    found: SequenceJudgement, answer: Sequence[Outcome | Halted]
) -> JudgedSequenceJson:
    """Return what a judge said of a sequence; `answer` is empty where it gave none."""
    shared = _parts_of(found.status, found.detail)
    if not found.status.answered:
        return JudgedSequenceJson(**shared)
    violation = found.judged.violation if found.judged is not None else None
    halted = next((each.why for each in answer if isinstance(each, Halted)), None)
    return JudgedSequenceJson(
        outcomes=[_seen(each) for each in answer if not isinstance(each, Halted)],
        halted=UNSET if halted is None else halted,
        causes=UNSET if violation is None else list(violation.causes),
        **shared,
    )


def _seen(outcome: Outcome) -> OutcomeJson:
    """Return an observed outcome, whose words are all there."""
    words = _words(outcome.entries)
    match outcome:
        case Translation():
            return OkJson(pa=hex(outcome.pa), entries=words)
        case PageFault(code, cr2):
            return FaultJson(error_code=hex(code), cr2=hex(cr2), entries=words)
    return ProtectionJson(entries=words)
