"""A unit of work: some control states of a section, and some of its paths."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from crosswalk.emu.check.compare import differing_fields, spread
from crosswalk.emu.check.composite_check import CompositeStand
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.findings.composite_finding import CompositeFinding, findings_of
from crosswalk.emu.findings.findings import INTENDED, WALKER, Finding, Findings, confirm
from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.matrix.composite import SECOND, CompositeSection
from crosswalk.emu.matrix.intended import intended_outcomes
from crosswalk.emu.matrix.section import Choice, Section
from crosswalk.emu.probe import ProbeError, ProberCache
from crosswalk.emu.probe.composites import Family
from crosswalk.emu.probe.scope import FEATURES, Lacking, by_feature
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Kind, Outcomes

__all__ = ["COMPOSITE_UNIT", "UNIT", "AnySection", "Result", "Unit", "Worker", "units_of"]

AnySection = Section | CompositeSection

UNIT = 1 << 19
"""The number of combinations that a unit has at the most, unless one control state has more."""

COMPOSITE_UNIT = 1 << 15
"""The same for composites, each of which takes as long as some ten single accesses."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The control states [first, last) of a section, by their order; of composites, the spaces."""

    section: str
    first: int
    last: int
    combinations: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a unit: `outcomes` counts the observed ones by `Kind`.

    `predicted_only` counts the accesses that the emulated CPU lacks a feature for, by its name,
    but for those whose prediction isn't what is intended: these are divergent. `masked` counts
    the accesses asked with an encryption mask taken off.
    """

    unit: Unit
    outcomes: tuple[int, int, int]
    divergent: int
    known: dict[str, int]
    findings: tuple[Finding | CompositeFinding, ...]
    predicted_only: dict[str, int] = field(default_factory=dict)
    masked: int = 0


def units_of(section: AnySection, choice: Choice) -> Iterator[Unit]:
    """Yield the units of a section, in order; none if the choice leaves nothing of it."""
    if isinstance(section, CompositeSection):
        yield from _composite_units(section, choice)
        return
    if not SECOND.isdisjoint(choice):
        return
    variants = section.variants(choice)
    if not all(len(each.word) for each in variants):
        return
    paths = section.paths(variants)
    each = len(section.accesses_to(paths, choice))
    count = sum(1 for _ in section.contexts(choice))
    step = max(1, UNIT // each) if each else 0
    for first in range(0, count if each else 0, step or 1):
        last = min(first + step, count)
        yield Unit(section.name, first, last, each * (last - first))


def _composite_units(section: CompositeSection, choice: Choice) -> Iterator[Unit]:
    first = count = 0
    sizes = [size for size in section.sizes(choice) if size]
    for at, size in enumerate(sizes, 1):
        count += size
        if count + size > COMPOSITE_UNIT or at == len(sizes):
            yield Unit(section.name, first, at, count)
            first, count = at, 0


class Worker:
    """Does units, one after the other; engines are kept in between."""

    def __init__(
        self, sections: tuple[AnySection, ...], choice: Choice, predict: Predictor = translate_many
    ) -> None:
        self._sections = {section.name: section for section in sections}
        self._choice = choice
        self._predict = predict
        self._probers = ProberCache()
        self._composites = CompositeStand(predict)

    def do(self, unit: Unit) -> Result:
        """Put every combination of a unit to walker and CPU; raises as `Prober.probe` does."""
        section = self._sections[unit.section]
        if isinstance(section, CompositeSection):
            return self._do_composites(unit, section)
        layouts = self._layouts(section)
        outcomes = np.zeros(len(Kind), np.int64)
        known: Counter[str] = Counter()
        findings: dict[Signature, Finding] = {}
        lacks: Counter[str] = Counter()
        divergent = masked = 0
        for layout in islice(layouts, unit.first, unit.last):
            seen, found, only = self._put(layout)
            outcomes += np.bincount(seen.kind, minlength=len(Kind))
            divergent += found.divergent
            known.update(found.known)
            lacks += by_feature(only)
            masked += len(seen) if layout.context.encryption_mask else 0
            for finding in found.all():
                before = findings.get(finding.signature)
                count = finding.count + (before.count if before else 0)
                findings[finding.signature] = replace(before or finding, count=count)
        return Result(
            unit,
            (int(outcomes[0]), int(outcomes[1]), int(outcomes[2])),
            divergent,
            {name: count for name, count in sorted(known.items()) if count},
            tuple(findings.values()),
            {name: lacks[name] for name in FEATURES if lacks[name]},
            masked,
        )

    def _do_composites(self, unit: Unit, section: CompositeSection) -> Result:
        outcomes = np.zeros(len(Kind), np.int64)
        known: Counter[str] = Counter()
        findings: dict[Signature, CompositeFinding] = {}
        divergent = 0
        for space in islice(section.spaces(self._choice), unit.first, unit.last):
            memory = space.memory()
            judged = self._composites.judge(memory, space.context, space.composites)
            # Of two accesses the second is counted.
            last = space.composites.family(Family.TWICE).astype(np.intp)
            seen = judged.seen.kind[np.arange(len(last)), last]
            outcomes += np.bincount(seen, minlength=len(Kind))
            divergent += int(judged.differ.sum())
            known.update(judged.known)
            for finding in findings_of(memory, space.context, space.composites, judged):
                before = findings.get(finding.signature)
                count = finding.count + (before.count if before else 0)
                findings[finding.signature] = replace(before or finding, count=count)
        return Result(
            unit,
            (int(outcomes[0]), int(outcomes[1]), int(outcomes[2])),
            divergent,
            dict(sorted(known.items())),
            tuple(findings.values()),
        )

    def _layouts(self, section: Section) -> Iterator[Layout]:
        variants = section.variants(self._choice)
        frames, words = section.tables(variants)
        accesses = section.accesses_to(section.paths(variants), self._choice)
        count = len(accesses)
        nothing = IntendedOutcomes.nothing(count)
        for context in section.contexts(self._choice):
            yield Layout(context, section.ram, frames, words, accesses, nothing)

    def _put(self, layout: Layout) -> tuple[Outcomes, Findings, Lacking]:
        """Return what was observed, what diverges, and the other accesses, as `lacking` has them.

        Those that the emulated CPU lacks a feature for are predicted only, and held against what
        is intended.
        """
        memory = layout.memory()
        predicted = self._predict(memory, layout.context, layout.accesses)
        prober = self._probers.prober(memory, layout.context)
        lacking = prober.lacking(layout.accesses)
        asked = lacking == 0
        seen = prober.probe(layout.accesses.take(np.flatnonzero(asked)))
        observed = spread(predicted, asked, seen)
        found = Findings(layout, memory, asked)
        found.add(WALKER, predicted, observed, differing_fields(predicted, observed))
        confirm(prober, layout, observed, found.rows)
        intended = intended_outcomes(self._probers, layout, predicted, lacking)
        differ = differing_fields(predicted, intended)
        wrong = np.logical_or.reduce(list(differ.values()))
        if wrong.any():
            again = intended_outcomes(self._probers, layout, predicted, lacking, bulk=False)
            if np.logical_or.reduce(list(differing_fields(again, intended).values())).any():
                raise ProbeError("bulk and single probes differ where a feature leads to")
        found.add(INTENDED, intended, predicted, differ)
        return seen, found, lacking[~asked & ~wrong]
