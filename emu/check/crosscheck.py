"""The cross-check: what the walker predicts, put to the emulated CPU."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.compare import Divergence, agreements, choose, explain
from crosswalk.emu.check.listing import ListingDivergence, listed_pages, mapping_at, unlike_list
from crosswalk.emu.check.selection import Lister, Place, Reader, Targets
from crosswalk.emu.check.survey import Plan, Survey, accesses_to
from crosswalk.emu.check.verdict import KEPT_DIVERGENCES, Tally, Verdict
from crosswalk.emu.probe import ProbeError, Prober, mapped, subset_of
from crosswalk.emu.probe.scope import by_feature
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Kind, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.leaves import walk_leaves
from crosswalk.walker.memory import U64, PhysicalMemory
from crosswalk.walker.outcome import ErrorCode
from crosswalk.walker.translate import walk_access

__all__ = [
    "Checker",
    "Predictor",
    "check",
    "compare_all",
    "confirm",
    "expected_accesses",
]

Predictor = Callable[[PhysicalMemory, PagingContext, Accesses], Outcomes]
Progress = Callable[[int, int], None]

MAX_WIDTH = 52
"""The widest physical addresses that an entry can hold."""

# Accesses to a small page.
_EACH = 14


class Checker:
    """Checks pieces of one address space, one after the other; the engines are kept.

    `told` gets the accesses of each that were made, and their true outcomes: those observed, and
    where the emulator is known to be wrong those predicted.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        context: PagingContext,
        *,
        predict: Predictor = translate_many,
        walk: Lister = walk_leaves,
        assumed_width: bool = False,
        told: Callable[[Accesses, Outcomes], None] | None = None,
    ) -> None:
        self._memory, self._context, self._told = memory, context, told
        self._predict, self._walk = predict, walk
        self._assumed_width = assumed_width
        self._prober: Prober | None = None

    def check(self, piece: Targets, progress: Callable[[int], None] | None = None) -> Verdict:
        """Check the accesses to these targets; raises as `Prober` and its `probe` do."""
        return self.check_plan(accesses_to(self._context, piece), progress)

    def check_plan(self, plan: Plan, progress: Callable[[int], None] | None = None) -> Verdict:
        """Check these accesses."""
        began = time.perf_counter()
        prober = self._ready(plan.va)
        seconds = time.perf_counter() - began
        lacking = prober.lacking(plan.accesses)
        plan = plan.take(lacking == 0)
        predicted = self._predict(self._memory, self._context, plan.accesses)
        if self._assumed_width:
            sure = ~self._needs_width(plan.accesses, predicted)
            plan, predicted = plan.take(sure), predicted.take(sure)
        accesses = plan.accesses
        began, roots = time.perf_counter(), Counter(prober.roots)
        observed = prober.probe(accesses, progress)
        seconds += time.perf_counter() - began
        roots = Counter(prober.roots) - roots
        found = self._compared(plan, predicted, observed, prober)
        return replace(
            found,
            seconds=seconds,
            predicted_only=dict(by_feature(lacking)),
            roots=dict(roots),
        )

    def _compared(
        self, plan: Plan, predicted: Outcomes, observed: Outcomes, prober: Prober
    ) -> Verdict:
        """Compare observations with predictions and the list; make again what differs."""
        memory, context, accesses = self._memory, self._context, plan.accesses
        agree = agreements(predicted, observed)
        rows = np.flatnonzero(~agree)
        names = _explained(memory, context, accesses, predicted, observed, rows)
        known = np.zeros(len(plan), np.bool_)
        known[rows] = [name is not None for name in names]
        # Where the emulator is known to be wrong, the list is held to what is predicted; and what
        # the prediction is wrong about counts once.
        truth = choose(known, predicted, observed)
        if self._told is not None:
            self._told(accesses, truth)
        pages, listed = listed_pages(memory, context, self._walk, accesses.va)
        unlike = unlike_list(context, accesses, pages, listed, truth)
        # A page that only the probe's own reading finds, and that can be reached, is in no list.
        unlike |= ~plan.listed & (truth.kind == Kind.OK)
        unlike &= agree | known
        confirm(prober, accesses, observed, np.flatnonzero(~agree | unlike))
        counts = Counter(
            name for row, name in zip(rows.tolist(), names, strict=True) if name and not unlike[row]
        )
        divergent, unlisted = np.flatnonzero(~agree & ~known), np.flatnonzero(unlike)
        return Verdict(
            len(plan),
            len(divergent) + len(unlisted),
            tuple(
                _divergence(memory, context, accesses, predicted, observed, row)
                for row in divergent[:KEPT_DIVERGENCES].tolist()
            ),
            dict(sorted(counts.items())),
            _count(plan, predicted),
            0.0,
            tuple(
                ListingDivergence(
                    accesses[row],
                    mapping_at(context, pages, int(listed[row])),
                    observed[row],
                    walk_access(memory, context, accesses[row]),
                )
                for row in unlisted[:KEPT_DIVERGENCES].tolist()
            ),
        )

    def _ready(self, va: U64) -> Prober:
        """Return the prober, with the tables that these addresses are translated with.

        The memory that earlier pieces made it touch is given back.
        """
        subset = subset_of(self._memory, self._context, va)
        if self._prober is None:
            self._prober = Prober(subset, self._context)
        else:
            self._prober.enter(subset, self._context)
        return self._prober

    def _needs_width(self, accesses: Accesses, predicted: Outcomes) -> NDArray[np.bool_]:
        """Return bool[n]: which outcomes depend on a physical-address width that was assumed."""
        needs: NDArray[np.bool_] = (predicted.error_code & ErrorCode.RSVD) != 0
        rows = np.flatnonzero(needs)
        wide = replace(self._context, maxphyaddr=MAX_WIDTH)
        again = self._predict(self._memory, wide, accesses.take(rows))
        needs[rows] = (again.error_code & ErrorCode.RSVD) == 0
        return needs


def check(
    memory: PhysicalMemory,
    context: PagingContext,
    *,
    plan: Plan | None = None,
    predict: Predictor = translate_many,
    walk: Lister = walk_leaves,
    read: Reader = mapped,
    progress: Progress | None = None,
) -> Verdict:
    """Check every mapping, and what isn't mapped, by real accesses in the emulator.

    `predict` says whose predictions are checked, `walk` whose list of pages; `read` is the other
    reading that says where to look (see `make_plan`). With `plan` those accesses are made, and
    no others. `progress` is called with the accesses done and their total, as far as known.
    """
    checker = Checker(memory, context, predict=predict, walk=walk)
    if plan is not None:
        return checker.check_plan(plan, _of_total(progress, 0, len(plan)))
    survey = Survey(memory, context, walk=walk, read=read)
    tally = Tally(survey)
    for piece in survey.pieces():
        report = _of_total(progress, tally.probes, expected_accesses(survey))
        tally.add(checker.check(piece, report))
    return tally.verdict()


def expected_accesses(survey: Survey) -> int:
    """Return the approximate number of accesses of a survey, as if all its pages were small."""
    return _EACH * survey.expected


def compare_all(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    predicted: Outcomes,
    observed: Outcomes,
) -> list[Divergence]:
    """Return the accesses of which the two say different things, the known ones marked."""
    rows = np.flatnonzero(~agreements(predicted, observed))
    names = _explained(memory, context, accesses, predicted, observed, rows)
    return [
        replace(_divergence(memory, context, accesses, predicted, observed, row), known=name)
        for row, name in zip(rows.tolist(), names, strict=True)
    ]


def _explained(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    predicted: Outcomes,
    observed: Outcomes,
    rows: NDArray[np.intp],
) -> list[str | None]:
    """Return for each of these rows the known divergence that explains it, or None."""
    some = accesses.take(rows), predicted.take(rows), observed.take(rows)
    return list(explain(memory, context, *some))


def _divergence(
    memory: PhysicalMemory,
    context: PagingContext,
    accesses: Accesses,
    predicted: Outcomes,
    observed: Outcomes,
    row: int,
) -> Divergence:
    access = accesses[row]
    path = walk_access(memory, context, access)
    return Divergence(access, predicted[row], observed[row], path)


def confirm(prober: Prober, accesses: Accesses, observed: Outcomes, rows: NDArray[np.intp]) -> None:
    """Make these accesses once more, in an engine call each.

    `ProbeError` where that is not what the bulk run showed: the testbed would be wrong.
    """
    again = prober.probe(accesses.take(rows), bulk=False)
    for at, row in enumerate(rows.tolist()):
        if again[at] != observed[row]:
            raise ProbeError(
                f"bulk and single probes differ: {accesses[row]}: {observed[row]}, {again[at]}"
            )


def _of_total(progress: Progress | None, before: int, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(before + done, total)


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
