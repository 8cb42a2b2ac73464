"""One campaign against all planted bugs at once: the CPU's answers are the same for each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from crosswalk.emu.check.compare import agreements, choose, explain
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND, Plan
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap, coverage_of
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.reduce.interesting import reduced_to
from crosswalk.emu.probe import ProberCache
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.formats import Case
from crosswalk.walker.memory import SparseWords

__all__ = ["Bug", "Found", "Search", "reduced_finding", "search"]


class Bug(Protocol):
    """A walker with a bug."""

    @property
    def name(self) -> str:
        """The rule that is broken."""
        ...

    @property
    def predict(self) -> Predictor:
        """Its predictions."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """When a bug was found: in which layout, counted from 1, after how many seconds of CPU.

    Those are of generating, predicting once, probing, comparing, and counting coverage where
    that steers. `seen` is the map that the layout was made with, packed.
    """

    layouts: int
    seconds: float
    seen: bytes


@dataclass(frozen=True, slots=True)
class Search:
    """The result of a campaign: each bug found, by name; the cells reached after each layout."""

    found: dict[str, Found]
    cells: tuple[int, ...]


class _Truths:
    """True outcomes: those observed, or predicted where the emulator is known to be wrong."""

    def __init__(self) -> None:
        self._probers = ProberCache()

    def of(self, memory: SparseWords, layout: Layout) -> tuple[Layout, Outcomes]:
        """Return the layout with the accesses that the CPU can be asked for, and their outcomes."""
        context = layout.context
        prober = self._probers.prober(memory, context)
        asked = np.flatnonzero(prober.lacking(layout.accesses) == 0)
        accesses = layout.accesses.take(asked)
        layout = replace(layout, accesses=accesses, intended=layout.intended.take(asked))
        predicted = translate_many(memory, context, accesses)
        observed = prober.probe(accesses)
        known = ~agreements(predicted, observed)
        rows = np.flatnonzero(known)
        names = explain(
            memory, context, accesses.take(rows), predicted.take(rows), observed.take(rows)
        )
        known[rows] = [name is not None for name in names]
        return layout, choose(known, predicted, observed)


def search(plan: Plan, limit: int, bugs: Sequence[Bug]) -> Search:
    """Try `limit` layouts of a campaign, made as `Campaign` makes them; return which found what."""
    truths, seen = _Truths(), CoverageMap()
    maps: dict[int, bytes] = {}
    nothing = seen.pack()
    found: dict[str, Found] = {}
    cells = []
    seconds = 0.0
    for index in range(limit):
        began = time.process_time()
        known = maps.get(index // ROUND - LAG, nothing)
        layout = plan.layout(index, known)
        memory = layout.memory()
        layout, truth = truths.of(memory, layout)
        steering = time.process_time()
        seen.add(coverage_of(memory, layout.context, layout.accesses, truth) & CELLS.possible)
        if index % ROUND == ROUND - 1:
            maps[index // ROUND] = seen.pack()
        cells.append(int(seen.bits.sum()))
        seconds += (time.process_time() if plan.guided else steering) - began
        for bug in bugs:
            if bug.name not in found:
                answers = bug.predict(memory, layout.context, layout.accesses)
                if not agreements(answers, truth).all():
                    found[bug.name] = Found(index + 1, seconds, known)
    return Search(found, tuple(cells))


def reduced_finding(bug: Bug, plan: Plan, found: Found) -> Case:
    """Return the first finding of the layout that showed the bug, reduced."""
    executor = Executor(predict=bug.predict)
    findings = executor.findings(plan.layout(found.layouts - 1, found.seen)).all()
    return reduced_to(executor, findings[0].case, findings[0].signature).case
