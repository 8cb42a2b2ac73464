"""What is put to judges, by `judge`: cases, composites and sequences, and the verdicts on them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crosswalk.emu.check.judged import (
    AccessVerdicts,
    CompositeVerdicts,
    SequenceJudgement,
    Status,
    access_verdicts,
    composite_verdicts,
    kind_of,
    sequence_verdict,
)
from crosswalk.emu.cli.output import progress
from crosswalk.emu.findings.judged import rules_of_rows
from crosswalk.emu.findings.signature import WALKER, Signature
from crosswalk.emu.judges.judge import Interrupted, Judge, Question, Reason, unheard
from crosswalk.emu.probe.composites import NAMES
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.emu.report.judged import JudgeTally
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import PhysicalMemory, SparseWords
from crosswalk.walker.outcome import Outcome
from crosswalk.walker.tlb import Halted, SequenceRecord

__all__ = ["Answer", "Asked", "Result", "ask", "asked_of"]

Q = TypeVar("Q")
A = TypeVar("A")
Result = AccessVerdicts | CompositeVerdicts | SequenceJudgement


@dataclass(frozen=True, slots=True)
class Asked:
    """What is put to the judges: a case, a composite or a sequence, and where its accesses are."""

    name: str
    content: Case | CompositeCase | SequenceRecord
    question: Question

    @property
    def probes(self) -> int:
        """How many verdicts there are on it: one on a composite or a sequence as a whole."""
        return len(self.content.probes) if isinstance(self.content, Case) else 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge said of one, and the rule of each divergence, by row.

    `seen` are a sequence's outcomes.
    """

    result: Result
    rules: Mapping[int, Signature | str]
    seen: tuple[Outcome | Halted, ...] = ()

    @property
    def context(self) -> PagingContext:
        """The CPU that the judge had."""
        result = self.result
        return result.sequence.context if isinstance(result, SequenceJudgement) else result.context

    def statuses(self) -> list[tuple[Status, str]]:
        """Return the status of each probe, and what it is about."""
        result = self.result
        if isinstance(result, SequenceJudgement):
            wrong = result.status is Status.DIVERGED
            return [(result.status, _told(self.rules[0]) if wrong else result.detail)]
        rows = map(result.verdicts.of, range(len(result.verdicts)))
        return [
            (status, _told(self.rules[row]) if status is Status.DIVERGED else detail)
            for row, (status, detail) in enumerate(rows)
        ]


def asked_of(name: str, content: Case | CompositeCase | SequenceRecord) -> Asked:
    """Return what there is to ask; raises where registers or memory are none."""
    if isinstance(content, SequenceRecord):
        sequence = content.sequence
        memory: PhysicalMemory = SparseWords(sequence.ram, sequence.entries)
        return Asked(name, content, Question(memory, sequence.context, Accesses.of([])))
    inner = content.case if isinstance(content, CompositeCase) else content
    accesses = Accesses.of([probe.asked for probe in inner.probes])
    return Asked(name, content, Question(inner.memory(), inner.context(), accesses))


def ask(tally: JudgeTally, judge: Judge, asked: Sequence[Asked], found: dict[int, Answer]) -> None:
    """Put all that is asked to a judge, and find what it says of each by its id.

    What it says before it is interrupted is found; then `KeyboardInterrupt` is raised.
    """
    total, done = sum(each.probes for each in asked), 0
    with progress(f"probes by {tally.short}", lines=True) as report:

        def heard(more: int) -> None:
            nonlocal done
            done = min(total, done + more)
            if report is not None:
                report(done, total)

        heard(0)
        judge.heard = heard
        try:
            for each, answer in _answers(tally, judge, asked):
                found[id(each)] = answer
        finally:
            judge.heard = unheard
        heard(total)


def _answers(
    tally: JudgeTally, judge: Judge, asked: Sequence[Asked]
) -> Iterator[tuple[Asked, Answer]]:
    """Yield what a judge says of each, those of a kind together."""
    who = kind_of(tally.name, judge.version)
    cases = [each for each in asked if isinstance(each.content, Case)]
    if cases:
        questions = [each.question for each in cases]
        for each, judged in _said(cases, lambda: judge.accesses(questions)):
            verdicts = access_verdicts(each.question, judged, who)
            yield each, Answer(verdicts, rules_of_rows(verdicts, tally.short))
    composites = [
        (each, (each.question.memory, each.question.context, each.content.composite))
        for each in asked
        if isinstance(each.content, CompositeCase)
    ]
    if composites:
        rows = [some for _, some in composites]
        for (each, some), several in _said(composites, lambda: judge.composites(rows)):
            memory, _, composite = some
            verdicts_of = composite_verdicts(memory, composite, several, who)
            wrong = verdicts_of.verdicts.rows(Status.DIVERGED)
            rule = f"{NAMES[int(composite.form[0])]}: none of the outcomes allowed"
            yield each, Answer(verdicts_of, dict.fromkeys(wrong, rule))
    sequences = [
        (each, each.content.sequence) for each in asked if isinstance(each.content, SequenceRecord)
    ]
    if sequences:
        steps = [own for _, own in sequences]
        for (each, own), answer in _said(sequences, lambda: judge.sequences(steps)):
            verdict = sequence_verdict(own, answer, who)
            seen = () if isinstance(answer.answer, Reason) else answer.answer
            yield each, Answer(verdict, dict.fromkeys((0,), _causes(verdict)), seen)


def _said(asked: Sequence[Q], put: Callable[[], Sequence[A]]) -> Iterator[tuple[Q, A]]:
    """Yield each of what is asked with its answer; those there are, where it is interrupted."""
    try:
        yield from zip(asked, put(), strict=True)
    except Interrupted as interrupted:
        for each, answer in zip(asked, interrupted.answers, strict=True):
            if answer is not None:
                yield each, answer
        raise


def _causes(found: SequenceJudgement) -> str:
    violation = found.judged.violation if found.judged is not None else None
    return "" if violation is None else "; ".join(violation.causes)


def _told(rule: Signature | str) -> str:
    """Return a rule with both answers; where a judge is wrong, without its name."""
    if isinstance(rule, str):
        return rule
    if rule.witness == WALKER:
        return f"Crosswalk's own two walks differ: {rule}"
    return f"{rule.rule}: says {rule.said}, it is {rule.truth}"
