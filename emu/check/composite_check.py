"""Composites, put to the emulated CPU and compared with what they may come to."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.allowed_outcomes import (
    AllowedOutcome,
    allowed_outcomes,
    is_allowed,
    parts_of,
)
from crosswalk.emu.check.composite_emulated import (
    composites_as_emulated,
    explain_composites,
    same_seen,
)
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.probe.composite import CompositeProber
from crosswalk.emu.probe.composites import CompositeOutcomes, Composites
from crosswalk.emu.probe.scope import Lacking
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory

__all__ = ["CompositeStand", "Judged", "Possible"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What n composites came to, and what was said of them.

    `stated` is what the second walk has the emulated CPU do. `differ` bool[n]: which diverge,
    from the allowed and unexplained, or from what is stated; `known` has the number explained by
    each name of departures, `explained` bool[n] which those are.
    """

    allowed: list[AllowedOutcome]
    stated: CompositeOutcomes
    seen: CompositeOutcomes
    differ: NDArray[np.bool_]
    explained: NDArray[np.bool_]
    known: dict[str, int]


@dataclass(frozen=True, slots=True)
class Possible:
    """Of n composites those that were `made`, and what they came to.

    `lacking` uint8[n] is what the emulated CPU lacks for each, as the prober says, `impossible`
    the number of the others that have no outcome here.
    """

    made: Composites
    judged: Judged
    lacking: Lacking
    impossible: int


class CompositeStand:
    """Judges composites in one address space after the other; the engine is kept in between."""

    def __init__(self, predict: Predictor = translate_many) -> None:
        self._predict = predict
        self._prober: CompositeProber | None = None

    def judge(
        self, memory: PhysicalMemory, context: PagingContext, composites: Composites
    ) -> Judged:
        """Make composites, and return what they came to; raises as the prober does."""
        return self._judge(self._entered(memory, context), memory, context, composites)

    def judge_possible(
        self, memory: PhysicalMemory, context: PagingContext, composites: Composites
    ) -> Possible:
        """Make those that can be asked and have an outcome."""
        prober = self._entered(memory, context)
        lacking = prober.lacking(composites)
        possible = prober.possible(composites)
        made = composites.take(np.flatnonzero(possible & (lacking == 0)))
        judged = self._judge(prober, memory, context, made)
        return Possible(made, judged, lacking, int((~possible & (lacking == 0)).sum()))

    def _entered(self, memory: PhysicalMemory, context: PagingContext) -> CompositeProber:
        if self._prober is None:
            self._prober = CompositeProber(memory, context)
        else:
            self._prober.enter(memory, context)
        return self._prober

    def _judge(
        self,
        prober: CompositeProber,
        memory: PhysicalMemory,
        context: PagingContext,
        composites: Composites,
    ) -> Judged:
        seen = prober.probe(composites)
        allowed = allowed_outcomes(composites, parts_of(memory, context, composites, self._predict))
        differ = ~is_allowed(allowed, seen)
        explained = np.zeros(len(composites), np.bool_)
        rows = np.flatnonzero(differ)
        names = explain_composites(
            memory,
            context,
            composites.take(rows),
            [option.take(rows) for option in allowed],
            seen.take(rows),
        )
        explained[rows] = [name is not None for name in names]
        known = Counter(name for name in names if name is not None)
        stated = composites_as_emulated(memory, context, composites)
        differ = (differ & ~explained) | ~same_seen(stated, seen)
        return Judged(allowed, stated, seen, differ, explained, dict(sorted(known.items())))
