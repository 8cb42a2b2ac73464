"""The cross-check: what the walker predicts, put to the emulated CPU."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emu.check.compare import Divergence, agreements
from emu.check.known import known_divergence
from emu.check.plan import Place, Plan, make_plan
from emu.probe import ProbeError, Prober
from walker.access import AccessType
from walker.bulk import translate_many
from walker.columns import Accesses, Kind, Outcomes
from walker.context import PagingContext
from walker.memory import PhysicalMemory
from walker.translate import walk

__all__ = ["KEPT_DIVERGENCES", "Predictor", "Verdict", "check", "compare_all", "confirm"]

Predictor = Callable[[PhysicalMemory, PagingContext, Accesses], Outcomes]
Progress = Callable[[int, int], None]

KEPT_DIVERGENCES = 1000
"""How many divergences a verdict keeps in full; all are counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    `counts` has the number of accesses for each (place, type, CPL, predicted outcome);
    `divergences` the first `KEPT_DIVERGENCES` that no known emulator divergence explains;
    `known` the number explained by each. `seconds` is the time that the probes took.
    """

    probes: int
    divergent: int
    divergences: tuple[Divergence, ...]
    known: dict[str, int]
    counts: dict[tuple[Place, AccessType, int, Kind], int]
    seconds: float

    @property
    def agreements(self) -> int:
        """The number of accesses of which walker and CPU say the same."""
        return self.probes - self.divergent - sum(self.known.values())


def check(
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    plan: Plan | None = None,
    predict: Predictor = translate_many,
    progress: Progress | None = None,
) -> Verdict:
    """Check every mapping, and what isn't mapped, by real accesses in the emulator.

    `plan` says which accesses are made (see `make_plan`), `predict` whose predictions are
    checked. `progress` is called with the accesses done and their total.
    """
    plan = make_plan(memory, context) if plan is None else plan
    predicted = predict(memory, context, plan.accesses)
    began = time.perf_counter()
    prober = Prober(memory, context)
    done = None if progress is None else _of_total(progress, len(plan))
    observed = prober.probe(plan.accesses, done)
    seconds = time.perf_counter() - began
    confirm(prober, plan.accesses, observed, agreements(predicted, observed))
    divergences = compare_all(memory, context, plan.accesses, predicted, observed)
    known = Counter(divergence.known for divergence in divergences if divergence.known)
    unknown = [divergence for divergence in divergences if not divergence.known]
    return Verdict(
        len(plan),
        len(unknown),
        tuple(unknown[:KEPT_DIVERGENCES]),
        dict(sorted(known.items())),
        _count(plan, predicted),
        seconds,
    )


def compare_all(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    predicted: Outcomes,
    observed: Outcomes,
) -> list[Divergence]:
    """Return the accesses of which the two say different things, the known ones marked."""
    found = []
    for row in np.flatnonzero(~agreements(predicted, observed)).tolist():
        access = accesses[row]
        divergence = Divergence(
            access, predicted[row], observed[row], walk(memory, context, access.va)
        )
        found.append(known_divergence(context, divergence))
    return found


def confirm(
    prober: Prober, accesses: Accesses, observed: Outcomes, agree: NDArray[np.bool_]
) -> None:
    """Make every access that diverged once more, in an engine call of its own.

    `ProbeError` where that is not what the bulk run showed: the testbed would be wrong.
    """
    rows = np.flatnonzero(~agree)
    again = prober.probe(accesses.take(rows), bulk=False)
    for at, row in enumerate(rows.tolist()):
        if again[at] != observed[row]:
            raise ProbeError(
                f"bulk and single probes differ: {accesses[row]}: {observed[row]}, {again[at]}"
            )


def _of_total(progress: Progress, total: int) -> Callable[[int], None]:
    return lambda done: progress(done, total)


def _count(plan: Plan, predicted: Outcomes) -> dict[tuple[Place, AccessType, int, Kind], int]:
    shape = (len(Place), len(AccessType), 2, len(Kind))
    columns = (plan.place, plan.type, (plan.cpl == 3).astype(np.uint8), predicted.kind)
    cells = np.ravel_multi_index(tuple(column.astype(np.intp) for column in columns), shape)
    counts = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)
    return {
        (Place(place), AccessType(kind), 3 if user else 0, Kind(outcome)): int(count)
        for (place, kind, user, outcome), count in np.ndenumerate(counts)
        if count
    }
