"""The emulated CPU of the probe as a judge: each access made in Unicorn, proved as ever."""

import re
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.judges.judge import (
    Heard,
    Judged,
    JudgedComposites,
    JudgedSequence,
    Question,
    Reason,
    Unjudged,
    unheard,
)
from crosswalk.emu.probe.composite import CompositeProber
from crosswalk.emu.probe.composites import CompositeOutcomes, Composites
from crosswalk.emu.probe.errors import ProbeError
from crosswalk.emu.probe.many import FEW, ManyProber, Observation
from crosswalk.emu.probe.scope import FEATURES, LACKS, Lacking
from crosswalk.emu.probe.sequences import Runner
from crosswalk.emu.probe.subset import subset_of
from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.tlb import Sequence as TlbSequence

__all__ = ["UnicornJudge"]

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_UNMARKED = Reason(
    Unjudged.NOT_SHOWN, "a page that it may reach has no RAM, or is a paging structure"
)


class UnicornJudge:
    """Asks the emulated CPU, which is what each question's registers and features say it is.

    With `seconds`, each call is made in a child process that may take so long; what ends that
    process is then the outcome of the question that did. Without, calls are made in this one.
    """

    name = "unicorn"

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self.heard: Heard = unheard
        self._prober = ManyProber()
        self._composites: CompositeProber | None = None
        self._runner: Runner | None = None

    @property
    def version(self) -> str:
        """What the emulator is."""
        return f"Unicorn {metadata.version('unicorn')}"

    def close(self) -> None:
        """Give the engines back."""
        self._prober = ManyProber()
        self._composites = self._runner = None

    def accesses(self, questions: Sequence[Question]) -> list[Judged]:
        """Return what it says of each question, in order."""
        return self._contained(questions, self._accesses, _ended_accesses)

    def composites(
        self, questions: Sequence[tuple[PhysicalMemory, PagingContext, Composites]]
    ) -> list[JudgedComposites]:
        """Return what it says of each question, in order."""
        return self._contained(
            questions, lambda some: [self._composite(*each) for each in some], _ended_composites
        )

    def sequences(self, sequences: Sequence[TlbSequence]) -> list[JudgedSequence]:
        """Return what it says of each sequence, in order."""
        return self._contained(
            sequences,
            lambda some: [self._sequence(each) for each in some],
            lambda each, reason: JudgedSequence(each.context, reason),
        )

    def _contained(
        self,
        asked: Sequence[Asked],
        ask: Callable[[Sequence[Asked]], list[Answer]],
        ended: Callable[[Asked, Reason], Answer],
    ) -> list[Answer]:
        """Ask in a child process if need be; where that ends, each question by itself."""
        if self._seconds is None or not asked:
            return ask(asked)
        try:
            return contained(lambda: ask(asked), self._seconds, again=True)
        except EmulatorCrash as crash:
            if len(asked) == 1:
                return [ended(asked[0], Reason(Unjudged.ENDED, _unnumbered(crash)))]
        return [answer for each in asked for answer in self._contained([each], ask, ended)]

    def _accesses(self, questions: Sequence[Question]) -> list[Judged]:
        few = [at for at, each in enumerate(questions) if len(each.accesses) <= FEW]
        cases = [
            (questions[at].memory, questions[at].context, questions[at].accesses) for at in few
        ]
        made = dict(zip(few, self._prober.probe(cases), strict=True))
        return [
            self._judged(each, made.get(at) or self._alone(each))
            for at, each in enumerate(questions)
        ]

    def _alone(self, question: Question) -> Observation:
        # Of large tables those that its accesses are translated with.
        some = subset_of(question.memory, question.context, question.accesses.va)
        return self._prober.alone((some, question.context, question.accesses))

    def _judged(self, question: Question, seen: Observation) -> Judged:
        if isinstance(seen.made, CrosswalkError):
            return _ended_accesses(question, _reason_of(seen.made))
        count = len(question.accesses)
        outcomes = Outcomes.empty(count)
        made = seen.lacking == 0
        for name in Outcomes.__slots__:
            getattr(outcomes, name)[made] = getattr(seen.made, name)
        why, reasons = _lacking_reasons(seen.lacking)
        return Judged(question.context, outcomes, why, np.zeros(count, np.bool_), reasons)

    def _composite(
        self, memory: PhysicalMemory, context: PagingContext, composites: Composites
    ) -> JudgedComposites:
        try:
            prober = self._composite_prober(memory, context)
            lacking = prober.lacking(composites)
            possible = prober.possible(composites)
            made = prober.probe(composites.take(np.flatnonzero(possible)))
        except CrosswalkError as error:
            self._composites = None  # Engines that did this are not to be trusted again.
            return _ended_composites((memory, context, composites), _reason_of(error))
        outcomes = CompositeOutcomes.empty(len(composites))
        _put(outcomes, possible, made)
        why, reasons = _lacking_reasons(lacking)
        # What may reach a page that can't be marked has an outcome where it faults before.
        for row in np.flatnonzero(~possible & (lacking == 0)).tolist():
            try:
                alone = self._composite_prober(memory, context).probe(
                    composites.take(slice(row, row + 1))
                )
                _put(outcomes, np.array([row]), alone)
            except CrosswalkError:
                self._composites = None
                reasons = reasons if _UNMARKED in reasons else (*reasons, _UNMARKED)
                why[row] = 1 + reasons.index(_UNMARKED)
        return JudgedComposites(context, outcomes, why, reasons)

    def _composite_prober(self, memory: PhysicalMemory, context: PagingContext) -> CompositeProber:
        """Return the prober for an address space; its engine is kept where it fits."""
        if self._composites is None:
            self._composites = CompositeProber(memory, context)
        else:
            self._composites.enter(memory, context)
        return self._composites

    def _sequence(self, sequence: TlbSequence) -> JudgedSequence:
        if self._runner is None:
            self._runner = Runner()
        try:
            seen = self._runner.run(sequence)
        except CrosswalkError as error:
            self._runner = None
            return JudgedSequence(sequence.context, _reason_of(error))
        return JudgedSequence(sequence.context, seen)


def _put(
    into: CompositeOutcomes, rows: NDArray[np.bool_] | NDArray[np.intp], made: CompositeOutcomes
) -> None:
    """Put outcomes into these rows."""
    for name in CompositeOutcomes.__slots__:
        getattr(into, name)[rows] = getattr(made, name)


def _lacking_reasons(lacking: Lacking) -> tuple[Lacking, tuple[Reason, ...]]:
    """Return what the emulated CPU lacks as `why` of `Judged`, and its reasons."""
    why = np.zeros(len(lacking), np.uint8)
    reasons: list[Reason] = []
    for at in np.unique(lacking[lacking != 0]).tolist():
        name = FEATURES[at - 1]
        reasons.append(Reason(Unjudged.NOT_SHOWN, f"the CPU has no {LACKS[name]}"))
        why[lacking == at] = len(reasons)
    return why, tuple(reasons)


def _ended_accesses(question: Question, reason: Reason) -> Judged:
    count = len(question.accesses)
    nothing = Outcomes.empty(count), np.ones(count, np.uint8), np.zeros(count, np.bool_)
    return Judged(question.context, *nothing, (reason,))


def _ended_composites(
    question: tuple[PhysicalMemory, PagingContext, Composites], reason: Reason
) -> JudgedComposites:
    _, context, composites = question
    count = len(composites)
    outcomes = CompositeOutcomes.empty(count)
    return JudgedComposites(context, outcomes, np.ones(count, np.uint8), (reason,))


def _reason_of(error: CrosswalkError) -> Reason:
    """Return why there is none: the emulator did what is no outcome, or it can't be asked."""
    kind = Unjudged.ENDED if isinstance(error, ProbeError) else Unjudged.NOT_SHOWN
    return Reason(kind, _unnumbered(error))


def _unnumbered(error: CrosswalkError) -> str:
    """Return an error without its addresses, so that equal ones are counted together."""
    return re.sub(r"\b0x[0-9a-f]+", "…", str(error))
