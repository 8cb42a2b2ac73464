"""A unit of work: some control states of a section, address spaces, or sequences."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from crosswalk.emu.check.compare import by_the_manuals, differing_fields, spread
from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.check.crosscheck import Predictor, confirm
from crosswalk.emu.check.sequences import judge
from crosswalk.emu.findings.findings import (
    INTENDED,
    WALKER,
    Caseless,
    CompositeFinding,
    Finding,
    Findings,
    findings_of,
)
from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.generate.intended import linear_of
from crosswalk.emu.matrix.section import Choice, Combination, Section, SequenceSection, Space
from crosswalk.emu.probe import ProbeError, ProberCache
from crosswalk.emu.probe.composites import Composites, Family
from crosswalk.emu.probe.scope import FEATURES, Lacking, by_feature
from crosswalk.emu.probe.sequences import Runner
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import CR3, CR4, EFER, PagingContext, Vendor
from crosswalk.walker.tlb import SequenceRecord, dump_sequence

__all__ = [
    "AnyFinding",
    "AnySection",
    "Result",
    "Unit",
    "Violation",
    "Worker",
    "units_of",
    "without_features",
]

AnySection = Section | SequenceSection

UNIT = 1 << 19
"""The most single accesses in a unit, unless one control state has more."""

COMPOSITE_UNIT = 1 << 15
"""The same for composites, each of which takes as long as some ten single accesses."""

SEQUENCE_UNIT = 2000
"""The same for sequences."""

_REMOVABLE = np.array([name in ("LAM", "UAI", "LASS") for name in ("", *FEATURES)])
"""bool: values of `lacking` for features that can be removed, their effect put in the address."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The items [first, last) of a section, by their order: address spaces, or sequences."""

    section: str
    first: int
    last: int
    combinations: int

    @property
    def of_sequences(self) -> bool:
        """Whether it is one of a section of sequences."""
        return self.section.startswith("tlb-")

    def __str__(self) -> str:
        """Return which part of the matrix it is."""
        what = "sequences" if self.of_sequences else "control states"
        return f"{self.section}, {what} {self.first} to {self.last - 1}"


def units_of(section: AnySection, choice: Choice) -> Iterator[Unit]:
    """Yield the units of a section, in order; none if the choice leaves nothing of it."""
    limit = SEQUENCE_UNIT
    if isinstance(section, Section):
        limit = COMPOSITE_UNIT if section.composite else UNIT
    first = count = 0
    sizes = [size for size in section.sizes(choice) if size]
    for last, size in enumerate(sizes, 1):
        count += size
        if count + size > limit or last == len(sizes):
            yield Unit(section.name, first, last, count)
            first, count = last, 0


@dataclass(frozen=True, slots=True)
class Violation:
    """Violations with the same causes: how many, and the first one's name and case file."""

    signature: str
    count: int
    select: str
    sequence: bytes


AnyFinding = Finding | CompositeFinding | Violation | Caseless


@dataclass(slots=True)
class Result:
    """The result of a unit.

    `counts` are the numbers of observed outcomes by `Kind`; of sequences, of forced, fresh and
    stale accesses, as `SequenceVerdict` has them. `divergent` is the
    number of unexplained divergences, `known` that of explained ones by id. `predicted_only` counts
    the accesses that the emulated CPU lacks a feature for, by its name, unless their prediction
    isn't the intended outcome: these are divergent. `masked` counts accesses made with an
    encryption mask removed. `not_shown` and `not_exportable` count, by reason, what a judge has no
    outcome for, `unproved` the accesses of which it doesn't show which address they reached.
    """

    unit: Unit
    counts: list[int] = field(default_factory=lambda: [0] * len(Kind))
    divergent: int = 0
    known: Counter[str] = field(default_factory=Counter)
    findings: dict[Signature | str, AnyFinding] = field(default_factory=dict)
    predicted_only: Counter[str] = field(default_factory=Counter)
    masked: int = 0
    not_shown: Counter[str] = field(default_factory=Counter)
    not_exportable: Counter[str] = field(default_factory=Counter)
    unproved: int = 0

    def count(self, *numbers: int) -> None:
        """Add to the counts."""
        self.counts = [sum(pair) for pair in zip(self.counts, numbers, strict=True)]

    def keep(self, finding: AnyFinding) -> None:
        """Add a finding to those of its signature, of which the first one's case is kept."""
        first = self.findings.get(finding.signature, replace(finding, count=0))
        self.findings[finding.signature] = replace(first, count=first.count + finding.count)


class Worker:
    """Does units, one after the other; engines are kept in between."""

    def __init__(
        self, sections: tuple[AnySection, ...], choice: Choice, predict: Predictor = translate_many
    ) -> None:
        self._sections = {section.name: section for section in sections}
        self._choice = choice
        self._predict = predict
        self._probers = ProberCache()
        self._composites = CompositeChecker(predict)
        self._runner = Runner()

    def do(self, unit: Unit) -> Result:
        """Put every combination of a unit to walker and CPU; raises as the probers do."""
        section, result = self._sections[unit.section], Result(unit)
        if isinstance(section, SequenceSection):
            for named in islice(section.combinations(self._choice), unit.first, unit.last):
                self._run_sequence(section, named, result)
            return result
        for space in islice(section.spaces(self._choice), unit.first, unit.last):
            if isinstance(space.accesses, Composites):
                self._make_composites(space, space.accesses, result)
            else:
                self._make_accesses(space, space.accesses, result)
        return result

    def _make_accesses(self, space: Space, accesses: Accesses, result: Result) -> None:
        """Make the single accesses of a space.

        Those that the emulated CPU lacks a feature for are predicted only, and compared with the
        intended outcomes.
        """
        context, shape = space.context, space.shape
        nothing = IntendedOutcomes.nothing(len(accesses))
        layout = Layout(context, space.ram, shape.frames, shape.words, accesses, nothing)
        memory = layout.memory()
        predicted = self._predict(memory, context, accesses)
        prober = self._probers.prober(memory, context)
        lacking = prober.lacking(accesses)
        asked = lacking == 0
        seen = prober.probe(accesses.take(np.flatnonzero(asked)))
        observed = spread(predicted, asked, seen)
        found = Findings(layout, memory, asked)
        found.add(WALKER, predicted, observed, differing_fields(predicted, observed))
        confirm(prober, layout.accesses, observed, found.rows)
        intended = intended_outcomes(self._probers, layout, predicted, lacking)
        differ = differing_fields(predicted, intended)
        wrong = np.logical_or.reduce(list(differ.values()))
        if wrong.any():
            again = intended_outcomes(self._probers, layout, predicted, lacking, bulk=False)
            if np.logical_or.reduce(list(differing_fields(again, intended).values())).any():
                raise ProbeError("bulk and single probes differ where a feature leads to")
        found.add(INTENDED, intended, predicted, differ)
        result.count(*np.bincount(seen.kind, minlength=len(Kind)).tolist())
        result.divergent += found.divergent
        result.known += found.known
        result.predicted_only += by_feature(lacking[~asked & ~wrong])
        result.masked += len(seen) if context.encryption_mask else 0
        for finding in found.all():
            result.keep(finding)

    def _make_composites(self, space: Space, composites: Composites, result: Result) -> None:
        memory = space.memory()
        judged = self._composites.judge(memory, space.context, composites)
        # Of two accesses the second is counted.
        last = composites.family(Family.TWICE).astype(np.intp)
        kinds = judged.seen.kind[np.arange(len(last)), last]
        result.count(*np.bincount(kinds, minlength=len(Kind)).tolist())
        result.divergent += int(judged.differ.sum())
        result.known += Counter(judged.known)
        for finding in findings_of(memory, space.context, composites, judged):
            result.keep(finding)

    def _run_sequence(self, section: SequenceSection, named: Combination, result: Result) -> None:
        """Run one sequence and judge it by the model of what a TLB may cache."""
        sequence, name = section.make(named), section.text(named)
        try:
            observed = self._runner.run(sequence)
        except ProbeError as error:
            raise ProbeError(f"{name}: {error}") from error
        judged = judge(sequence, observed)
        result.count(judged.forced, judged.fresh, judged.stale)
        violation = judged.violation
        if violation is not None and violation.known is not None:
            result.known[violation.known] += 1
        elif violation is not None:
            result.divergent += 1
            record = SequenceRecord(sequence, name, judged.allowed, observed)
            causes = "; ".join(violation.causes)
            result.keep(Violation(causes, 1, name, dump_sequence(record)))


def without_features(context: PagingContext) -> PagingContext:
    """Return the context without LAM, UAI and LASS."""
    return replace(
        context,
        cr3=context.cr3 & ~(CR3.LAM_U48 | CR3.LAM_U57),
        cr4=context.cr4 & ~(CR4.LAM_SUP | CR4.LASS),
        efer=context.efer & ~EFER.UAIE,
    )


def intended_outcomes(
    probers: ProberCache,
    layout: Layout,
    predicted: Outcomes,
    lacking: Lacking,
    *,
    bulk: bool = True,
) -> Outcomes:
    """Return the predictions, with the intended outcomes of the accesses that lack a feature.

    LAM, UAI and LASS are removed, and their effect is put in the address: the outcome observed at
    the address without its metadata is the intended outcome of the tagged pointer. Where the
    address leads is stated by the generator of layouts, apart from the walker. Of addresses that
    are too wide, and of an AMD processor, the second walk by the manuals states the outcomes.
    Raises as `Prober.probe` does; the cache is left with a prober of another address space.
    """
    stated = (lacking != 0) & ~_REMOVABLE[lacking] | (layout.context.vendor is Vendor.AMD)
    if stated.any():
        some = layout.accesses.take(np.flatnonzero(stated))
        manuals = by_the_manuals(layout.memory(), layout.context, some)
        predicted = spread(predicted, stated, manuals)
    chosen = _REMOVABLE[lacking]
    if not chosen.any():
        return predicted
    accesses = layout.accesses.take(np.flatnonzero(chosen))
    linear, non_canonical, barred = linear_of(layout.context, accesses)
    walks = ~non_canonical & ~barred
    outcomes = Outcomes.empty(len(accesses))
    outcomes.kind[~walks] = Kind.GENERAL_PROTECTION
    prober = probers.prober(layout.memory(), without_features(layout.context))
    asked = replace(accesses, va=linear).take(np.flatnonzero(walks))
    seen = spread(outcomes, walks, prober.probe(asked, bulk=bulk))
    return spread(predicted, chosen, seen)
