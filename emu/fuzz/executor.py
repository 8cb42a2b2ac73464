"""Runs a layout: its accesses are put to all witnesses, and their answers compared."""

import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import (
    as_emulated,
    by_the_manuals,
    choose,
    differing_fields,
    spread,
    unlike_fields,
)
from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.check.crosscheck import Predictor, confirm
from crosswalk.emu.findings.findings import (
    EXPLAINED,
    INTENDED,
    SECOND_WALK,
    WALKER,
    Caseless,
    CompositeFinding,
    Finding,
    Findings,
    attempted,
    findings_in,
    gathered_of,
)
from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.findings.note import failure_text
from crosswalk.emu.findings.signature import (
    failed_signature,
    failure_signature,
    without_numbers,
)
from crosswalk.emu.fuzz.coverage import (
    CELLS,
    composite_coverage_of,
    coverage_of,
    departure_coverage_of,
)
from crosswalk.emu.fuzz.generate.composites import composites_of
from crosswalk.emu.fuzz.generate.intended import intended_outcomes
from crosswalk.emu.probe.many import FEW, ManyProber, Observation
from crosswalk.emu.probe.scope import Lacking, by_feature
from crosswalk.emu.report.composites import CompositeCase
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.judge import Contradiction, judge
from crosswalk.emu.targets.questions import NOT_LISTED, PUT_ASIDE
from crosswalk.emu.targets.registry import open_target
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import SparseWords

__all__ = ["AnyFinding", "Executor", "LayoutResult", "executor_of"]

IMPOSSIBLE = "composites that may reach a paging structure, no RAM, or the probe's own pages"
"""The reason for which a composite isn't asked."""


_ALL_MODES = frozenset(PagingMode)

AnyFinding = Finding | CompositeFinding | Caseless


@dataclass(frozen=True, slots=True)
class LayoutResult:
    """The result of one layout.

    `agreements` counts the accesses and composites that the CPU made and on which all witnesses
    agree, `divergent` the divergences that no known one of the emulator explains, `known` the
    explained ones. `predicted_only` counts undisputed predictions of what the emulated CPU lacks,
    by feature; `not_asked` composites, and accesses not put to a walker under test, by reason;
    `masked` accesses made with an encryption mask removed, `copied` those made under a copy of the
    root; `tally` the questions to a walker under test. `coverage` is bool[n] as `coverage_of`
    returns it, `seconds` are by part.

    Of a judge `not_shown` and `not_exportable` count, by reason, what it has no outcome for, and
    `unproved` the accesses of which it doesn't show which address they reached.
    """

    agreements: int
    divergent: int
    known: Counter[str]
    predicted_only: Counter[str]
    not_asked: Counter[str]
    masked: int
    copied: int
    tally: Tally
    findings: tuple[AnyFinding, ...]
    coverage: NDArray[np.bool_]
    seconds: dict[str, float]
    not_shown: Counter[str] = field(default_factory=Counter)
    not_exportable: Counter[str] = field(default_factory=Counter)
    unproved: int = 0

    @property
    def probes(self) -> int:
        """The number of accesses asked and answered."""
        return self.agreements + self.divergent + self.known.total()

    @property
    def answered(self) -> int:
        """The number of accesses that a walker under test answered."""
        return self.tally.total[1]

    @property
    def declined(self) -> int:
        """The number of accesses that a walker under test declined."""
        return self.tally.total[2]


class Executor:
    """Runs one layout after another; engines and the process of a walker under test are kept.

    `predict` is the walker that is compared with the CPU, `target` another one under test, which
    is asked in the paging modes `modes`, by default in all.
    """

    def __init__(
        self,
        predict: Predictor = translate_many,
        target: Target | None = None,
        modes: frozenset[PagingMode] = _ALL_MODES,
    ) -> None:
        self._predict = predict
        self._target, self._modes = target, modes
        self.forget()

    def run(self, make: Callable[[], Layout], *, cross: bool = False) -> LayoutResult:
        """Make a layout and run it; `ProbeError` if the emulator gives no outcome.

        With `cross` its composites are made as well.
        """
        clock = _Clock()
        with clock.part("generate"):
            layout = make()
            memory = layout.memory()
        found, truth, lacking, copied = self._run(layout, memory, clock)
        failed: list[Caseless] = []
        with clock.part("cover"):
            coverage = attempted(
                "a layout whose cells can be counted",
                lambda: coverage_of(memory, layout.context, layout.accesses, truth),
                failed,
            )
        asked = lacking == 0
        tally = LayoutResult(
            int((asked & found.undisputed).sum()),
            found.divergent,
            +found.known,
            by_feature(lacking[found.undisputed]),
            +Counter({PUT_ASIDE: found.unasked, NOT_LISTED: found.unlisted}),
            int(asked.sum()) if layout.context.encryption_mask else 0,
            copied,
            found.tally,
            found.gathered(),
            np.zeros(CELLS.count, np.bool_) if coverage is None else coverage,
            clock.seconds,
        )
        if cross and layout.context.mode.long:
            with clock.part("cross"):
                crossed = attempted(
                    "a layout whose composites can be judged",
                    lambda: self._cross(layout, memory, tally),
                    failed,
                )
            tally = tally if crossed is None else crossed
        return replace(
            tally,
            findings=(*tally.findings, *failed),
            coverage=tally.coverage | departure_coverage_of(tally.known),
        )

    def _cross(self, layout: Layout, memory: SparseWords, tally: LayoutResult) -> LayoutResult:
        """Make composites, and add their results."""
        context = layout.context
        crossed = self._composites.judge_possible(memory, context, composites_of(layout))
        made, judged = crossed.made, crossed.judged
        known = Counter(judged.known)
        divergent = int(judged.differ.sum())
        rows = np.flatnonzero(~judged.differ)
        cells = composite_coverage_of(memory, context, made.take(rows), judged.seen.take(rows))
        return replace(
            tally,
            agreements=tally.agreements + len(made) - divergent - known.total(),
            divergent=tally.divergent + divergent,
            known=tally.known + known,
            predicted_only=tally.predicted_only + by_feature(crossed.lacking),
            not_asked=tally.not_asked + Counter({IMPOSSIBLE: crossed.impossible}),
            masked=tally.masked + (len(made) if context.encryption_mask else 0),
            findings=(*tally.findings, *gathered_of(memory, context, made, judged)),
            coverage=tally.coverage | cells,
        )

    def findings(self, layout: Layout) -> Findings:
        """Run a layout and return its findings."""
        return self._run(layout, layout.memory(), _Clock())[0]

    def findings_many(
        self, layouts: Sequence[Layout], *, confirmed: bool = True
    ) -> list[Findings | CrosswalkError]:
        """Run small layouts, and return the findings of each, or the error that it raised.

        Their accesses are made together, which takes a fraction of the time. Unless `confirmed`,
        those that diverge aren't made again alone: for what is asked again in the end.
        """
        memories = [layout.memory() for layout in layouts]
        observed = self._probers.probe(
            [
                (memory, layout.context, layout.accesses)
                for memory, layout in zip(memories, layouts, strict=True)
            ]
        )
        found: list[Findings | CrosswalkError] = []
        for layout, memory, each in zip(layouts, memories, observed, strict=True):
            try:
                found.append(self._run(layout, memory, _Clock(), each, confirmed=confirmed)[0])
            except CrosswalkError as error:
                found.append(error)
        return found

    def composite_findings(self, case: CompositeCase) -> tuple[CompositeFinding, ...]:
        """Run a composite's case and return its findings; the walker under test isn't asked."""
        return findings_in(self._composites, case)

    def forget(self) -> None:
        """Drop the engines: the next layout gets new ones."""
        self._probers = ManyProber()
        self._composites = CompositeChecker(self._predict)

    def _run(
        self,
        layout: Layout,
        memory: SparseWords,
        clock: "_Clock",
        observation: Observation | None = None,
        *,
        confirmed: bool = True,
    ) -> tuple[Findings, Outcomes, Lacking, int]:
        """Return findings, true outcomes, lacking features, and accesses under a copy of the root.

        The accesses are made unless there is an `observation` of them. The walker's prediction is
        taken for the truth where the CPU wasn't asked, and where the emulator is known to be wrong.
        """
        context, accesses = layout.context, layout.accesses
        with clock.part("predict"):
            predicted = self._predict(memory, context, accesses)
        with clock.part("probe"):
            case = memory, context, accesses
            if observation is None:
                few = len(accesses) <= FEW
                observation = self._probers.probe([case])[0] if few else self._probers.alone(case)
            lacking, copied = observation.lacking, observation.copied
            asked = lacking == 0
            observed = spread(predicted, asked, observation.outcomes)
        found = Findings(layout, memory, asked)
        with clock.part("compare"):
            differ = differing_fields(predicted, observed)
            known = found.add(WALKER, predicted, observed, differ)
            stated = _stated(memory, layout, asked)
            unlike = unlike_fields(stated, observed)
            # A divergence from the prediction is reported once.
            agree = ~np.logical_or.reduce(list(differ.values())) | known
            unlike = {name: column & agree for name, column in unlike.items()}
            found.add(SECOND_WALK, stated, observed, unlike)
            truth = choose(known, predicted, observed)
            intended = intended_outcomes(layout, truth)
            found.add(INTENDED, intended, truth, differing_fields(intended, truth))
        if self._target is not None and context.mode in self._modes and len(accesses):
            with clock.part("peer"):
                _ask(self._target, layout, memory, truth, found)
        with clock.part("confirm"):
            if confirmed and len(found.rows):
                prober = self._probers.prober(memory, context)
                confirm(prober, layout.accesses, observed, found.rows)
        return found, truth, lacking, copied


def _stated(memory: SparseWords, layout: Layout, asked: NDArray[np.bool_]) -> Outcomes:
    """Return the second walk's outcomes: as emulated, or by the manuals where not asked."""
    context, accesses = layout.context, layout.accesses
    rest = by_the_manuals(memory, context, accesses.take(np.flatnonzero(~asked)))
    return spread(as_emulated(memory, context, accesses), ~asked, rest)


def _ask(
    target: Target, layout: Layout, memory: SparseWords, truth: Outcomes, found: Findings
) -> None:
    """Add the divergences of the walker under test, or its failure to answer."""
    context, accesses = layout.context, layout.accesses
    answers = target.answer(memory, context, accesses)
    for each in answers.failures:
        signature = failure_signature(target.name, each.failure)
        found.add_failure(signature, each.accesses, each.count, failure_text(each))
    try:
        judged = judge(target.claims, answers, memory, context, accesses, truth)
    except Contradiction as error:
        found.add_failure(failed_signature(EXPLAINED, without_numbers(str(error))), accesses)
        return
    found.tally += judged.tally
    found.unasked, found.unlisted = judged.unasked, judged.unlisted
    for verdict in judged.verdicts:
        found.add_verdict(f"peer:{target.name}", target.claims, verdict)


class _Clock:
    """Seconds, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time within to this part."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def executor_of(
    walker: str | None,
    claims: str | None,
    limits: Limits | None,
    modes: frozenset[PagingMode] | None = _ALL_MODES,
) -> Executor:
    """Return this process's executor, the same one each time, of a walker under test or of none.

    The walker is asked in these paging modes; with None in those that it states, or in 4- and
    5-level paging where it states none.
    """
    return _executor(os.getpid(), walker, claims, limits, modes)


@functools.cache
def _executor(
    _process: int,
    walker: str | None,
    claims: str | None,
    limits: Limits | None,
    modes: frozenset[PagingMode] | None,
) -> Executor:
    # By process: a child doesn't share the engines, or the walker, of the one that forked it.
    target = None if walker is None else open_target(walker, limits, claims=claims)
    if modes is None:
        stated = None if target is None else target.modes
        modes = frozenset(mode for mode in PagingMode if mode.long) if stated is None else stated
    return Executor(target=target, modes=modes)
