"""Layouts put to a judge: what a machine says is held against the prediction for its own CPU."""

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.allowed_outcomes import part_accesses
from crosswalk.emu.check.compare import differing_fields
from crosswalk.emu.check.composites import CompositeVerdict
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.check.judged import (
    AccessVerdicts,
    CompositeVerdicts,
    SequenceJudgement,
    Status,
    Verdicts,
    access_verdicts,
    composite_verdicts,
    kind_of,
    sequence_verdict,
)
from crosswalk.emu.findings.findings import (
    Caseless,
    CompositeFinding,
    Finding,
    Findings,
    attempted,
    gathered_of,
)
from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.findings.signature import JUDGE, ended_signature, failed_signature
from crosswalk.emu.fuzz.coverage import CELLS, composite_coverage_of, coverage_of
from crosswalk.emu.fuzz.executor import LayoutResult
from crosswalk.emu.fuzz.generate.composites import composites_of
from crosswalk.emu.judges.judge import Judge, Question
from crosswalk.emu.judges.registry import open_judge
from crosswalk.emu.probe.composites import Composites
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.emu.report.text import outcome_text
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.errors import BadInput
from crosswalk.walker.memory import FRAME, PhysicalMemory, SparseWords
from crosswalk.walker.tlb import Sequence as TlbSequence

__all__ = [
    "SHARED",
    "JudgeExecutor",
    "Tallied",
    "found_in",
    "judge_executor_of",
    "judge_version",
    "require_campaign_judge",
    "require_own_loss",
    "tallied",
]

SHARED = "a prediction that the second walk shares"
"""What is due where Crosswalk's two walks differ in what they predict."""

_ROOT, _RAM = 0x20_0000, ((0x10_0000, 0x80_0000),)
_OF_ONE_IMAGE = ("log",)
"""Kinds of judges that answer the questions of one image alone."""
_OWN_LOSSES = ("not asked: ", "ended at it, but not when it was asked again, alone")
"""Words of why a probe has no answer that asking all again won't change."""


@dataclass(frozen=True, slots=True)
class Tallied:
    """How many accesses, or composites, there are of each kind of verdict.

    `divergent` counts those at which the machine ended, too; the last two have no outcome, and are
    counted by reason. `unproved` are agreements without the address that was reached.
    """

    agreements: int
    divergent: int
    known: Counter[str]
    not_shown: Counter[str]
    not_exportable: Counter[str]
    unproved: int = 0


def tallied(verdicts: Verdicts, unproved: NDArray[np.bool_] | None = None) -> Tallied:
    """Return the counts of verdicts; `ProcessLost` where somebody else ended the machine.

    What else is lost, as behind too many ends, is counted as not shown.
    """
    counts: Counter[Status] = Counter()
    details: dict[Status, Counter[str]] = {each: Counter() for each in Status}
    for (status, detail), count in verdicts.counts().items():
        if status is Status.LOST:
            require_own_loss(detail)
            status = Status.NOT_SHOWN  # noqa: PLW2901  # That is what it is, of this machine.
        counts[status] += count
        details[status][detail] += count
    return Tallied(
        counts[Status.AGREED],
        counts[Status.DIVERGED] + counts[Status.ENDED],
        details[Status.KNOWN],
        details[Status.NOT_SHOWN],
        details[Status.NOT_EXPORTABLE],
        0 if unproved is None else int((unproved & (verdicts.status == Status.AGREED)).sum()),
    )


def require_own_loss(why: str) -> None:
    """Raise `ProcessLost` where it was somebody else who left a probe without an answer."""
    if not any(words in why for words in _OWN_LOSSES):
        raise ProcessLost(f"the judge: {why}")


def _wrong(verdicts: Verdicts) -> NDArray[np.bool_]:
    """Return bool[n]: which rows speak against the judge, and not against Crosswalk."""
    found: NDArray[np.bool_] = (verdicts.status == Status.DIVERGED) & ~verdicts.unshared
    return found


def found_in(name: str, layout: Layout, memory: SparseWords, judged: AccessVerdicts) -> Findings:
    """Return what the judge `name` is found to be wrong about, and at what it ended."""
    context, verdicts = judged.context, judged.verdicts
    nothing = IntendedOutcomes.nothing(len(layout.accesses))
    found = Findings(replace(layout, context=context, intended=nothing), memory)
    fields = differing_fields(judged.predicted, judged.seen)
    wrong = _wrong(verdicts)
    fields = {part: column & wrong for part, column in fields.items()}
    found.add(f"{JUDGE}{name}", judged.seen, judged.predicted, fields)
    unshared = np.flatnonzero(verdicts.unshared & (verdicts.status == Status.DIVERGED))
    if len(unshared):
        signature = failed_signature(SHARED, "it isn't")
        found.add_failure(signature, judged.accesses.take(unshared[:1]), len(unshared))
    for how, kind in product(sorted(set(verdicts.details)), AccessType):
        at = verdicts.details.index(how)
        ended = (verdicts.status == Status.ENDED) & (verdicts.detail == at)
        rows = np.flatnonzero(ended & (judged.accesses.type == kind))
        if len(rows):
            signature = ended_signature(name, kind, how)
            found.add_failure(signature, judged.accesses.take(rows[:1]), len(rows))
    return found


def _composite_findings(
    name: str,
    memory: PhysicalMemory,
    judged: CompositeVerdicts,
    wrong: NDArray[np.bool_] | None = None,
) -> tuple[CompositeFinding | Caseless, ...]:
    """Return the same of composites, by default of all; where the machine ended, without a case."""
    verdicts, seen = judged.verdicts, judged.judged.outcomes
    wrong = _wrong(verdicts) if wrong is None else wrong
    verdict = CompositeVerdict(
        judged.allowed, seen, seen, wrong, np.zeros(len(wrong), np.bool_), {}
    )
    found = gathered_of(memory, judged.context, judged.composites, verdict, f"{JUDGE}{name}")
    failed = []
    unshared = int((verdicts.unshared & (verdicts.status == Status.DIVERGED)).sum())
    if unshared:
        failed.append(Caseless(failed_signature(SHARED, "it isn't"), unshared))
    for (status, how), count in sorted(verdicts.counts().items()):
        if status is Status.ENDED:
            failed.append(Caseless(ended_signature(name, "a composite", how), count))
    return (
        *(
            _with_way(each, memory) if isinstance(each, CompositeFinding) else each
            for each in found
        ),
        *failed,
    )


class JudgeExecutor:
    """Puts layouts to a judge, many together, and holds its answers to the predictions.

    `name` is what the command line calls the judge, `version` what it says of itself.
    """

    def __init__(self, judge: Judge, name: str, predict: Predictor = translate_many) -> None:
        self._judge, self.name, self._predict = judge, name, predict

    @functools.cached_property
    def version(self) -> str:
        """What the judge says of itself when it is asked for one access."""
        context = PagingContext(cr3=_ROOT)
        memory = SparseWords(_RAM, {})
        one = Accesses.of([Access(0, AccessType.READ, 0, ac=False)])
        self._judge.accesses([Question(memory, context, one)])
        return self._judge.version

    def run_many(
        self, layouts: Sequence[Layout], *, cross: Sequence[bool] | None = None
    ) -> list[LayoutResult]:
        """Put layouts to the judge, those of `cross` with their composites.

        Raises `ProcessLost` where somebody else ended the machine.
        """
        results = []
        for layout, judged in zip(layouts, self.verdicts_on(layouts), strict=True):
            counts = tallied(judged.verdicts, judged.unproved)
            failed: list[Caseless] = []
            coverage = attempted(
                "a layout whose cells can be counted", partial(_coverage, judged), failed
            )
            results.append(
                LayoutResult(
                    agreements=counts.agreements,
                    divergent=counts.divergent,
                    known=counts.known,
                    predicted_only=Counter(),
                    not_asked=Counter(),
                    masked=0,
                    copied=0,
                    tally=Tally(),
                    findings=(*self.found_in(layout, judged), *failed),
                    coverage=np.zeros(CELLS.count, np.bool_) if coverage is None else coverage,
                    seconds={},
                    not_shown=counts.not_shown,
                    not_exportable=counts.not_exportable,
                    unproved=counts.unproved,
                )
            )
        crossed = [at for at, each in enumerate(cross or ()) if each]
        return self._crossed(layouts, results, crossed)

    def _crossed(
        self, layouts: Sequence[Layout], results: list[LayoutResult], crossed: Sequence[int]
    ) -> list[LayoutResult]:
        """Add the results of composites made in some of the layouts, in 4- and 5-level paging."""
        crossed = [at for at in crossed if layouts[at].context.mode.long]
        asked = [
            (layouts[at].memory(), layouts[at].context, composites_of(layouts[at]))
            for at in crossed
        ]
        answers = self.composites_on(asked) if asked else []
        findings = self.composites_found(asked, answers)
        for at, (memory, _, made), judged, found in zip(
            crossed, asked, answers, findings, strict=True
        ):
            counts, before = tallied(judged.verdicts), results[at]
            right = np.array(judged.verdicts.rows(Status.AGREED), np.intp)
            seen = judged.judged.outcomes.take(right)
            results[at] = replace(
                before,
                agreements=before.agreements + counts.agreements,
                divergent=before.divergent + counts.divergent,
                known=before.known + counts.known,
                not_shown=before.not_shown + counts.not_shown,
                not_exportable=before.not_exportable + counts.not_exportable,
                findings=(*before.findings, *found),
                coverage=before.coverage
                | composite_coverage_of(memory, judged.context, made.take(right), seen),
            )
        return results

    def composites_found(
        self,
        asked: Sequence[tuple[SparseWords, PagingContext, Composites]],
        answers: Sequence[CompositeVerdicts],
    ) -> list[tuple[CompositeFinding | Finding | Caseless, ...]]:
        """Return what the judge is found to be wrong about in the composites of each question.

        Where it is wrong about an access of which one consists, asked by itself, that is the
        finding, and the composite none.
        """
        parts = [
            _parts_layout(memory, judged, made.take(np.flatnonzero(_wrong(judged.verdicts))))
            for (memory, _, made), judged in zip(asked, answers, strict=True)
        ]
        singly = iter(self.verdicts_on([each for each in parts if len(each.accesses)]))
        found = []
        for (memory, _, _), judged, layout in zip(asked, answers, parts, strict=True):
            wrong, single = _wrong(judged.verdicts), tuple[Finding | Caseless, ...]()
            if len(layout.accesses):
                by_itself = next(singly)
                single = self.found_in(layout, by_itself)
                status = by_itself.verdicts.status.reshape(2, -1)
                alone = (status == Status.DIVERGED) | (status == Status.ENDED)
                wrong[np.flatnonzero(wrong)[alone.any(axis=0)]] = False
            found.append((*single, *_composite_findings(self.name, memory, judged, wrong)))
        return found

    def findings_many(self, layouts: Sequence[Layout]) -> list[tuple[Finding, ...]]:
        """Put layouts to the judge, and return the findings of each."""
        return [
            tuple(
                each
                for each in map(
                    _as_judged, found_in(self.name, layout, layout.memory(), judged).all()
                )
                if isinstance(each, Finding)
            )
            for layout, judged in zip(layouts, self.verdicts_on(layouts), strict=True)
        ]

    def composite_findings(self, case: CompositeCase) -> tuple[CompositeFinding, ...]:
        """Put a composite's case to the judge, and return its findings."""
        memory, context = case.case.memory(), case.case.context()
        (judged,) = self.composites_on([(memory, context, case.composite)])
        found = _composite_findings(self.name, memory, judged)
        return tuple(each for each in found if isinstance(each, CompositeFinding))

    def found_in(self, layout: Layout, judged: AccessVerdicts) -> tuple[Finding | Caseless, ...]:
        """Return what the judge is found to be wrong about in a layout, and at what it ended."""
        found = found_in(self.name, layout, layout.memory(), judged)
        return tuple(map(_as_judged, found.gathered()))

    def verdicts_on(self, layouts: Sequence[Layout]) -> list[AccessVerdicts]:
        """Put the accesses of layouts to the judge, and return the verdicts on each."""
        questions = [
            Question(layout.memory(), layout.context, layout.accesses) for layout in layouts
        ]
        answers = self._judge.accesses(questions)
        return [
            access_verdicts(question, answer, self._who, self._predict)
            for question, answer in zip(questions, answers, strict=True)
        ]

    def composites_on(
        self, asked: Sequence[tuple[PhysicalMemory, PagingContext, Composites]]
    ) -> list[CompositeVerdicts]:
        """Put composites to the judge, and return the verdicts on each question."""
        answers = self._judge.composites(asked)
        return [
            composite_verdicts(memory, made, answer, self._who, self._predict)
            for (memory, _, made), answer in zip(asked, answers, strict=True)
        ]

    def sequences_on(self, asked: Sequence[TlbSequence]) -> list[SequenceJudgement]:
        """Put sequences to the judge, and return the verdict on each."""
        answers = self._judge.sequences(asked)
        return [
            sequence_verdict(each, answer, self._who)
            for each, answer in zip(asked, answers, strict=True)
        ]

    @property
    def _who(self) -> str:
        """By which name departures list the judge, once it was asked."""
        return kind_of(self.name, self._judge.version)

    def close(self) -> None:
        """End what runs."""
        self._judge.close()


def _parts_layout(memory: SparseWords, judged: CompositeVerdicts, some: Composites) -> Layout:
    """Return a layout with the accesses of composites, all the first ones and all the second."""
    accesses = Accesses.join(part_accesses(some))
    nothing = IntendedOutcomes.nothing(len(accesses))
    return Layout(judged.context, tuple(memory.ranges), *memory.content(), accesses, nothing)


def _coverage(judged: AccessVerdicts) -> NDArray[np.bool_]:
    answered = [each for each in Status if each.answered]
    rows = np.array(judged.verdicts.rows(*answered), np.intp)
    asked, truth = judged.accesses.take(rows), judged.predicted.take(rows)
    return coverage_of(judged.memory, judged.context, asked, truth)


def _as_judged(finding: Finding | Caseless) -> Finding | Caseless:
    """Return a finding whose case has the prediction; what the judge said is its answer in words.

    A case's `predicted` is Crosswalk's, unless it names a walker under test. Its entries are those
    that a judge may read which goes on where the walk stops.
    """
    if isinstance(finding, Caseless) or len(finding.case.probes) != 1:
        return finding
    (probe,) = finding.case.probes
    if probe.predicted is None:
        return finding
    probes = (replace(probe, predicted=probe.observed, observed=None),)
    more = _on_way(finding.whole.memory(), finding.whole.context(), probe.va)
    return replace(
        finding,
        case=replace(finding.case, entries={**finding.case.entries, **more}, probes=probes),
        whole=replace(finding.whole, probes=probes),
        answer=outcome_text(probe.predicted),
    )


def _with_way(finding: CompositeFinding, memory: PhysicalMemory) -> CompositeFinding:
    """Return a finding with such entries, too."""
    inner, some = finding.case.case, finding.case.composite
    entries = dict(inner.entries)
    for va in (int(some.va[0]), int(some.second_va()[0])):
        entries |= _on_way(memory, inner.context(), va)
    return replace(finding, case=replace(finding.case, case=replace(inner, entries=entries)))


def _on_way(memory: PhysicalMemory, context: PagingContext, va: int) -> dict[int, int]:
    """Return the words that an address selects, from the root down, whatever a walk stops at."""
    table, words = context.root, dict[int, int]()
    for number in range(context.levels, 0, -1):
        level = level_of(context, number)
        pa = table + level.entry_size * level.index(va)
        word = memory.word(pa & -8)
        if not word:
            break
        words[pa & -8] = word
        entry = word if level.entry_size == 8 else word >> 8 * (pa & 7) & 0xFFFF_FFFF
        table = entry & context.address_mask & -FRAME
    return words


def require_campaign_judge(judge: str) -> None:
    """Raise `BadInput` for a judge that can't be asked one question after another."""
    if kind_of(judge) in _OF_ONE_IMAGE:
        raise BadInput(f"--judge {judge}: a log answers the questions of one image alone")


def judge_version(judge: str) -> str:
    """Return what a judge says of itself; `BadInput` where it can't be had."""
    executor = JudgeExecutor(open_judge(judge), judge)
    try:
        return executor.version
    finally:
        executor.close()


def judge_executor_of(judge: str) -> JudgeExecutor:
    """Return this process's executor of a judge, the same one each time."""
    return _executor(os.getpid(), judge)


@functools.cache
def _executor(_process: int, judge: str) -> JudgeExecutor:
    # By process: a child doesn't share the machines of the one that forked it.
    return JudgeExecutor(open_judge(judge), judge)
