"""`replay`: predicted and observed for every probe of a case."""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check import Divergence, compare_all
from crosswalk.emu.check.compare import choose, spread
from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.cli.ask_walker import Asked, asked, asked_case, asked_lines
from crosswalk.emu.cli.output import emit_document, remark
from crosswalk.emu.cli.walker_options import Chosen, chosen_walker, names_another
from crosswalk.emu.probe import FEATURES, Prober, subset_of
from crosswalk.emu.report.composites import (
    CompositeCase,
    composite_lines,
    dump_composite,
    load_composite,
)
from crosswalk.emu.report.source import encryption_lines
from crosswalk.emu.report.text import access_text, outcome_text
from crosswalk.emu.report.verdict import divergence_lines, replayed_case
from crosswalk.emu.targets import Target
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, SourceKind, dump_case, open_source
from crosswalk.walker.formats.located_errors import printable

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A case's accesses, what was predicted and observed, and where those differ.

    `lacking` is 0 for those that were made, else 1 + the index in `FEATURES` of what the emulated
    CPU lacks for them; what stands for their observation is the prediction.
    """

    accesses: Accesses
    predicted: Outcomes
    observed: Outcomes
    lacking: NDArray[np.uint8]
    divergences: list[Divergence]

    @property
    def made(self) -> NDArray[np.intp]:
        """The rows of the accesses that were made."""
        return np.flatnonzero(self.lacking == 0)

    @property
    def divergent(self) -> int:
        """How many divergences are none of the known ones."""
        return sum(divergence.known is None for divergence in self.divergences)

    @property
    def truth(self) -> Outcomes:
        """What was observed; where the emulator is known to be wrong, what was predicted."""
        wrong = {divergence.access for divergence in self.divergences if divergence.known}
        rows = [self.accesses[row] in wrong for row in range(len(self.accesses))]
        return choose(np.array(rows, np.bool_), self.predicted, self.observed)


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many probes a case has, how many of them were made, and how much of that is wrong."""

    probes: int
    made: int
    wrong: int


def run(options: argparse.Namespace) -> int:
    """Replay each case, and return the exit status."""
    chosen = chosen_walker(options)
    limit = options.time_limit
    with chosen.opened() as target:
        counts = [_one(path, chosen, target, limit, as_json=options.json) for path in options.cases]
    if any(each.wrong for each in counts):
        return 1
    if any(each.probes for each in counts) and not any(each.made for each in counts):
        remark("nothing asked: the emulated CPU lacks what the probes need")
        return 2
    return 0


def _one(path: str, chosen: Chosen, target: Target | None, limit: int, *, as_json: bool) -> _Counts:
    """Replay one case and return what of it was made, and how much of that is wrong."""
    name = printable(path)
    composite = load_composite(path)
    if composite is not None:
        if target is not None:
            raise BadInput(f"{name}: a walker can't be asked for a composite")
        return _Counts(1, 1, int(_composite(name, composite, limit, as_json=as_json)))
    source = open_source(path, kind=SourceKind.CASE)
    case = source.case
    if case is None:
        raise BadInput(f"{name}: not a case")
    names_another(name, case, chosen)
    replayed = contained(lambda: _outcomes(case), limit, again=True)
    if not len(replayed.made):
        for line in encryption_lines(source):
            remark(f"{name}: {line}")
    told = None
    made = replayed.made
    if target is not None:
        told = asked(target, case.memory(), case.context(), replayed.accesses, replayed.truth)
    if as_json:
        lacking = (replayed.lacking != 0).tolist()
        filled = replayed_case(case, replayed.predicted, replayed.observed, lacking)
        if told is not None:
            filled = asked_case(case, told, replayed.truth, replayed.observed, lacking)
            if told.failure is not None:
                remark(f"{name}: {told.failure}")
        emit_document(dump_case(filled))
    else:
        _tell(name, case, replayed, told)
    wrong = replayed.divergent + (0 if told is None else told.wrong)
    return _Counts(len(case.probes), len(made), wrong)


def _composite(name: str, case: CompositeCase, limit: int, *, as_json: bool) -> bool:
    """Replay a composite's case, and return whether it diverges for no known reason."""
    inner = case.case
    judged = contained(
        lambda: CompositeChecker().judge(inner.memory(), inner.context(), case.composite),
        limit,
        again=True,
    )
    if as_json:
        emit_document(dump_composite(case, judged.allowed, judged.seen))
    else:
        for line in composite_lines(name, case, judged):
            print(line)
    return bool(judged.differ[0])


def _outcomes(case: Case) -> _Replayed:
    memory, context = case.memory(), case.context()
    accesses = Accesses.of([probe.asked for probe in case.probes])
    predicted = translate_many(memory, context, accesses)
    prober = Prober(subset_of(memory, context, accesses.va), context)
    lacking = prober.lacking(accesses)
    made = lacking == 0
    some, said = accesses.take(made), predicted.take(made)
    seen = prober.probe(some)
    divergences = compare_all(memory, context, some, said, seen)
    return _Replayed(accesses, predicted, spread(predicted, made, seen), lacking, divergences)


def _tell(name: str, case: Case, replayed: _Replayed, told: Asked | None) -> None:
    counts = f"{name}: probes {len(case.probes)}, divergences {len(replayed.divergences)}"
    lacks = Counter(FEATURES[each - 1] for each in replayed.lacking[replayed.lacking != 0].tolist())
    if lacks:
        counts += f", predicted only {', '.join(f'{lacks[each]} ({each})' for each in lacks)}"
    print(
        counts if told is None else f"{counts}, wrong answers of {told.target.name}: {told.wrong}"
    )
    for line in _probe_lines(case, replayed, asked=told is not None):
        print(line)
    if told is not None:
        lacking = [FEATURES[each - 1] if each else None for each in replayed.lacking.tolist()]
        both = replayed.predicted, replayed.observed
        for line in asked_lines(case.memory(), case.context(), told, *both, lacking):
            print(line)
    if not case.probes:
        remark(f"{name}: no probes to replay")


def _probe_lines(case: Case, replayed: _Replayed, *, asked: bool) -> Iterator[str]:
    """Yield what became of each probe; where a walker is asked it tells of those that agree."""
    by_access = {divergence.access: divergence for divergence in replayed.divergences}
    for row in range(len(replayed.accesses)):
        access = replayed.accesses[row]
        divergence = by_access.get(access)
        lacking = int(replayed.lacking[row])
        if lacking and not asked:
            said = outcome_text(replayed.predicted[row], may=True)
            yield f"predicted only: {FEATURES[lacking - 1]}: {access_text(access)}: {said}"
        elif divergence is not None:
            yield from divergence_lines(divergence, case.context())
            if divergence.known:
                yield f"  known emulator divergence: {divergence.known}"
        elif not asked:
            yield f"agree: {access_text(access)}: {outcome_text(replayed.observed[row])}"
