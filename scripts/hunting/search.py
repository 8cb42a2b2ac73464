"""One campaign against all planted bugs at once: what the CPU does is the same for each of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from crosswalk.emu.check.compare import agreements
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.check.explain import explain
from crosswalk.emu.findings.layout import Layout
from crosswalk.emu.fuzz.campaign.plan import LAG, ROUND, Plan
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap, coverage_of
from crosswalk.emu.probe import ProberCache
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Outcomes
from crosswalk.walker.memory import SparseWords

__all__ = ["Bug", "Found", "Search", "search"]


class Bug(Protocol):
    """A walker with a bug: what it is called, and what it says."""

    @property
    def name(self) -> str:
        """The rule that is broken."""
        ...

    @property
    def predict(self) -> Predictor:
        """What it says of accesses."""
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
    """What a campaign came to: each bug found, by name; the cells reached after each layout."""

    found: dict[str, Found]
    cells: tuple[int, ...]


class _Truths:
    """Says what accesses come to: what is observed, or the manuals' word where that is known."""

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
        rows = np.flatnonzero(~agreements(predicted, observed))
        names = explain(
            memory, context, accesses.take(rows), predicted.take(rows), observed.take(rows)
        )
        known = rows[[name is not None for name in names]]
        for field in fields(Outcomes):
            getattr(observed, field.name)[known] = getattr(predicted, field.name)[known]
        return layout, observed


def search(plan: Plan, limit: int, bugs: Sequence[Bug]) -> Search:
    """Try so many layouts of a campaign, as `Campaign` makes them, and say when each bug showed."""
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
                said = bug.predict(memory, layout.context, layout.accesses)
                if not agreements(said, truth).all():
                    found[bug.name] = Found(index + 1, seconds, known)
    return Search(found, tuple(cells))
