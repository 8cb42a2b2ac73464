"""`replay`: predicted and observed outcomes of a case's probes, and a walker's answers."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check import Divergence, compare_all
from crosswalk.emu.check.compare import choose, spread
from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.cli.output import emit_document, remark
from crosswalk.emu.cli.walker_options import Chosen, chosen_walker, report_others
from crosswalk.emu.cli.walker_report import Variants
from crosswalk.emu.findings.baseline import read_muting
from crosswalk.emu.findings.describe import (
    described,
    described_answer,
    described_divergence,
)
from crosswalk.emu.findings.findings import wrong_answers
from crosswalk.emu.findings.note import claimed_text, failure_text
from crosswalk.emu.findings.signature import Signature, failure_signature
from crosswalk.emu.probe import FEATURES, subset_of
from crosswalk.emu.probe.many import FEW, ManyProber
from crosswalk.emu.report.composites import (
    CompositeCase,
    composite_lines,
    dump_composite,
    load_composite,
)
from crosswalk.emu.report.finding import finding_lines
from crosswalk.emu.report.source import encryption_lines
from crosswalk.emu.report.text import access_text, count_text, outcome_text
from crosswalk.emu.report.verdict import divergence_lines, replayed_case
from crosswalk.emu.targets import Target
from crosswalk.emu.targets.answers import Unanswered
from crosswalk.emu.targets.capabilities import LISTS
from crosswalk.emu.targets.judge import TargetVerdict, judge
from crosswalk.emu.targets.questions import PUT_ASIDE
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.workers.contained import EmulatorCrash, contained
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.errors import BadInput, CrosswalkError
from crosswalk.walker.formats import Case, Source, SourceKind, dump_case, open_source
from crosswalk.walker.formats.located_errors import printable

__all__ = ["run"]

_TOGETHER = 256
"""So many cases are put to the emulated CPU at once."""

_UNREAD = "not replayed"
_ENDS = (
    *("right", "wrong", "declined", "agree", "diverge", "known to diverge", "predicted only"),
    *("without an answer", "without probes", _UNREAD),
)
"""What may come of a case: of a walker's answers, or without one of Crosswalk's own."""


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
class _Answered:
    """Verdicts about a walker's answers to the accesses of a case, and its failures.

    The first verdict is about the probes, others about accesses that were added to them; `silent`
    are the rows without an answer, `unasked` those of them that weren't put to it after too many
    failures.
    """

    target: Target
    verdicts: tuple[TargetVerdict, ...]
    silent: frozenset[int]
    unasked: frozenset[int]
    failures: tuple[Unanswered, ...]
    tally: Tally

    def signatures(self, case: Case) -> Iterator[Signature]:
        """Yield the signature of each wrong answer, and of each failure."""
        name, memory, context = self.target.name, case.memory(), case.context()
        for each in self.failures:
            yield failure_signature(name, each.failure)
        for verdict in self.verdicts:
            given = memory, context, f"peer:{name}", self.target.claims, verdict
            yield from (signature for _, signature, _ in wrong_answers(*given))

    @property
    def wrong(self) -> int:
        """How many answers are wrong; a failure is one."""
        return sum(int(each.wrong.sum()) for each in self.verdicts) + len(self.failures)

    @property
    def failed(self) -> frozenset[int]:
        """The rows that it failed to answer."""
        return frozenset(row for each in self.failures for row in each.rows.tolist()) & self.silent


@dataclass(slots=True)
class _Counts:
    """What all cases have: probes, those that were made, divergences, and a walker's answers.

    `wrong` counts its wrong answers and failures by signature, `tally` the questions to it. `ends`
    counts what comes of the cases, in words; `others` are those that name another walker, each
    with it.
    """

    probes: int = 0
    made: int = 0
    divergent: int = 0
    wrong: Counter[Signature] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    ends: Counter[str] = field(default_factory=Counter)
    others: list[tuple[str, str]] = field(default_factory=list)

    @property
    def total(self) -> str:
        """How many cases there are, and what came of them."""
        ends = ", ".join(f"{self.ends[end]:,} {end}" for end in _ENDS if self.ends[end])
        return f"{count_text(self.ends.total(), 'case')}: {ends}"


def run(options: argparse.Namespace) -> int:
    """Replay each case, and return the exit status."""
    chosen = chosen_walker(options)
    muting = read_muting(options.ignore, options.baseline)
    show = remark if options.json else print
    with chosen.opened() as target:
        replay = _Replay(chosen, target, options.time_limit, as_json=options.json)
        replay.all(options.cases)
    counts = replay.counts
    report_others(counts.others)
    if len(options.cases) > 1:
        show(counts.total)
    made = [(each, described(each)) for each in sorted(counts.wrong)]
    # A baseline, and patterns, may well be about other cases.
    document, accepted = Variants(chosen.name, made).judged(muting, whole=False)
    for line in accepted.lines():
        show(line)
    if counts.divergent or document.findings:
        return 1
    if counts.ends[_UNREAD]:
        return 2
    if counts.tally.unanswered:
        show(counts.tally.verdict)
        return 2
    if counts.made:
        return 0
    if counts.probes:
        remark("nothing asked: the emulated CPU lacks what the probes need")
    return 2


class _Replay:
    """Replays case after case; small ones are put to the emulated CPU together."""

    def __init__(self, chosen: Chosen, target: Target | None, limit: int, *, as_json: bool) -> None:
        self._chosen, self._target = chosen, target
        self._limit, self._as_json = limit, as_json
        self._several = False
        self.counts = _Counts()

    def all(self, paths: Sequence[str]) -> None:
        """Replay the cases of these files, in order.

        `CrosswalkError` where one alone can't be replayed; of several that is a line each.
        """
        self._several = len(paths) > 1
        together: list[tuple[str, Source]] = []
        for path in paths:
            name = printable(path)
            try:
                opened = self._opened(path, name)
            except CrosswalkError as error:
                self._failed(name, error)
                continue
            if isinstance(opened, Source):
                together.append((name, opened))
            if isinstance(opened, CompositeCase) or len(together) == _TOGETHER:
                self._together(together)
                together.clear()
            if isinstance(opened, CompositeCase):
                self._composite(name, opened)
        self._together(together)

    def _failed(self, name: str, error: CrosswalkError) -> None:
        """Report a case that can't be replayed; raise the error where there is no other."""
        if not self._several:
            raise error
        where = "" if str(error).startswith(f"{name}: ") else f"{name}: "
        remark(f"{where}{error}")
        self.counts.ends[_UNREAD] += 1

    def _composite(self, name: str, case: CompositeCase) -> None:
        try:
            differs = _composite(name, case, self._limit, as_json=self._as_json)
        except CrosswalkError as error:
            self._failed(name, error)
            return
        self.counts.probes += 1
        self.counts.made += 1
        self.counts.divergent += differs
        self.counts.ends["diverge" if differs else "agree"] += 1

    def _opened(self, path: str, name: str) -> Source | CompositeCase:
        composite = load_composite(path)
        if composite is not None:
            if self._target is not None:
                raise BadInput(f"{name}: a walker can't be asked for a composite")
            return composite
        source = open_source(path, kind=SourceKind.CASE)
        if source.case is None:
            raise BadInput(f"{name}: not a case")
        return source

    def _together(self, sources: Sequence[tuple[str, Source]]) -> None:
        cases = [source.case for _, source in sources if source.case is not None]
        replays = _replayed(cases, self._limit)
        for (name, source), case in zip(sources, cases, strict=True):
            if case.walker is not None and case.walker != self._chosen.name:
                self.counts.others.append((name, case.walker))
            replayed = next(replays)
            if isinstance(replayed, CrosswalkError):
                self._failed(name, replayed)
            else:
                self._one(name, source, case, replayed)

    def _one(self, name: str, source: Source, case: Case, replayed: _Replayed) -> None:
        """Report one case, and count what of it was made, and what is wrong."""
        if not len(replayed.made):
            for line in encryption_lines(source):
                remark(f"{name}: {line}")
        answered = None
        if self._target is not None:
            answered = _ask(self._target, case, replayed)
            self.counts.tally += answered.tally
            self.counts.wrong.update(answered.signatures(case))
        if self._as_json:
            lacking = (replayed.lacking != 0).tolist()
            filled = replayed_case(case, replayed.predicted, replayed.observed, lacking)
            if answered is not None:
                filled = _answered_case(case, answered, replayed.truth, replayed.observed, lacking)
                for each in answered.failures:
                    remark(f"{name}: {each.failure}")
            emit_document(dump_case(filled))
        else:
            _report(name, case, replayed, answered)
        self.counts.probes += len(case.probes)
        self.counts.made += len(replayed.made)
        self.counts.divergent += replayed.divergent
        self.counts.ends[_end(replayed, answered)] += 1


def _end(replayed: _Replayed, answered: _Answered | None) -> str:
    """Return what came of a case in a word."""
    if not len(replayed.accesses):
        return "without probes"
    if answered is not None and answered.wrong:
        return "wrong"
    if replayed.divergent:
        return "diverge"
    if answered is not None:
        _, answers, declined = answered.tally.total
        return "right" if answers else "declined" if declined else "without an answer"
    if not len(replayed.made):
        return "predicted only"
    return "known to diverge" if replayed.divergences else "agree"


def _replayed(cases: Sequence[Case], limit: int) -> Iterator[_Replayed | CrosswalkError]:
    """Yield what comes of each case, or its error; one process makes them as long as it lives."""
    try:
        yield from contained(lambda: _outcomes(cases), limit, again=True) if cases else []
    except EmulatorCrash as crash:
        if len(cases) == 1:
            yield crash
            return
        for case in cases:
            yield from _replayed([case], limit)


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


def _outcomes(cases: Sequence[Case]) -> list[_Replayed | CrosswalkError]:
    """Return what comes of each case, or the error that it raises."""
    asked = [
        (case.memory(), case.context(), Accesses.of([probe.asked for probe in case.probes]))
        for case in cases
    ]
    probers = ManyProber()
    few = [at for at, (_, _, accesses) in enumerate(asked) if len(accesses) <= FEW]
    observed = dict(zip(few, probers.probe([asked[at] for at in few]), strict=True))
    found: list[_Replayed | CrosswalkError] = []
    for at, (memory, context, accesses) in enumerate(asked):
        try:
            each = observed.get(at)
            if each is None:  # Of large tables those that its accesses are translated with.
                some = subset_of(memory, context, accesses.va)
                each = probers.alone((some, context, accesses))
            made = each.lacking == 0
            predicted = translate_many(memory, context, accesses)
            said = predicted.take(made)
            differing = compare_all(memory, context, accesses.take(made), said, each.outcomes)
            seen = spread(predicted, made, each.outcomes)
            found.append(_Replayed(accesses, predicted, seen, each.lacking, differing))
        except CrosswalkError as error:
            found.append(error)
    return found


def _report(name: str, case: Case, replayed: _Replayed, answered: _Answered | None) -> None:
    counts = f"{name}: probes {len(case.probes)}, divergences {replayed.divergent}"
    known = len(replayed.divergences) - replayed.divergent
    if known:
        counts += f", known divergences {known}"
    lacks = Counter(FEATURES[each - 1] for each in replayed.lacking[replayed.lacking != 0].tolist())
    if lacks:
        counts += f", predicted only {', '.join(f'{lacks[each]} ({each})' for each in lacks)}"
    print(
        counts
        if answered is None
        else f"{counts}, wrong answers of {answered.target.name}: {answered.wrong}"
    )
    for line in _probe_lines(case, replayed, asked=answered is not None):
        print(line)
    if answered is not None:
        lacking = [FEATURES[each - 1] if each else None for each in replayed.lacking.tolist()]
        for line in _answer_lines(case, answered, replayed.observed, lacking):
            print(line)
    if not case.probes:
        remark(f"{name}: nothing asked: no probes to replay")


def _probe_lines(case: Case, replayed: _Replayed, *, asked: bool) -> Iterator[str]:
    """Yield the outcome of each probe; agreements only where no walker is asked."""
    by_access = {divergence.access: divergence for divergence in replayed.divergences}
    for row in range(len(replayed.accesses)):
        access = replayed.accesses[row]
        divergence = by_access.get(access)
        lacking = int(replayed.lacking[row])
        if lacking and not asked:
            said = outcome_text(replayed.predicted[row], may=True)
            yield f"predicted only: {FEATURES[lacking - 1]}: {access_text(access)}: {said}"
        elif divergence is not None and divergence.known:
            yield from divergence_lines(divergence, case.context())
            yield f"  known emulator divergence: {divergence.known}"
        elif divergence is not None:
            yield f"divergence: {access_text(access)}"
            words = case.entries if len(case.probes) == 1 else {}
            given = case.memory(), case.context(), divergence
            _, about = described_divergence(*given, words=words)
            yield from finding_lines(about, access=False)
        elif not asked:
            yield f"agree: {access_text(access)}: {outcome_text(replayed.observed[row])}"


def _ask(target: Target, case: Case, replayed: _Replayed) -> _Answered:
    """Ask a walker about the accesses of a case."""
    memory, context, accesses = case.memory(), case.context(), replayed.accesses
    answers = target.answer(memory, context, accesses)
    judged = judge(target.claims, answers, memory, context, accesses, replayed.truth)
    silent = answers.silent if target.claims - LISTS else judged.silent
    rows, aside = (frozenset(each.tolist()) for each in (np.flatnonzero(silent), answers.aside))
    answered = _Answered(target, judged.verdicts, rows, frozenset(), answers.failures, judged.tally)
    return replace(answered, unasked=aside - answered.failed)


def _answered_case(
    case: Case, answered: _Answered, truth: Outcomes, observed: Outcomes, lacking: Sequence[bool]
) -> Case:
    """Return the case with the walker's answers as predictions.

    What it doesn't claim is taken from `truth`: where it is right, both are equal. There is no
    prediction where it gave no answer, a wrong one without a physical address, or failed; nothing
    was observed where `lacking`.
    """
    one = answered.verdicts[0]
    unplaced = one.wrong & one.unplaced
    filled = replayed_case(case, choose(one.wrong, one.reported, truth), observed, lacking)
    probes = tuple(
        replace(probe, predicted=None) if row in answered.silent or unplaced[row] else probe
        for row, probe in enumerate(filled.probes)
    )
    return replace(filled, probes=probes, walker=answered.target.name)


def _answer_lines(
    case: Case,
    answered: _Answered,
    observed: Outcomes,
    lacking: Sequence[str | None],
) -> Iterator[str]:
    """Yield a line for each right answer, and several for each wrong one.

    `lacking` names what the emulated CPU lacks for an access, None for one that it made. Where it
    lacks something, the prediction is the truth.
    """
    memory, context, name = case.memory(), case.context(), answered.target.name
    for each in answered.failures:
        asked = f": {access_text(each.accesses[0])}" if len(each.accesses) == 1 else ""
        yield f"failed: {failure_signature(name, each.failure).rule} is due{asked}"
        yield f"  walker:    {failure_text(each)}"
    for place, verdict in zip(("", ", beside the probes"), answered.verdicts, strict=False):
        wrong = verdict.wrong
        for row in range(len(wrong)):
            access, said = verdict.accesses[row], verdict.said(row)
            claims = verdict.claims_of(row, answered.target.claims)
            lack = None if place else lacking[row]
            if not place and row in answered.failed:
                continue
            if not place and row in answered.unasked:
                yield f"not asked: {access_text(access)}: {PUT_ASIDE}"
            elif not wrong[row]:
                only = f"predicted only: {lack}: " if lack else ""
                asked = f"{only}{access_text(access)}"
                if row in answered.silent and not place:
                    yield f"declined: {asked}"
                else:
                    yield f"right: {asked}: {claimed_text(claims, said)}"
            if not wrong[row]:
                continue
            yield f"wrong: {access_text(access)}{place}"
            words = case.entries if len(case.probes) == 1 else {}
            seen = None if place or lack else observed[row]
            given = answered.target, memory, context, verdict, row
            _, about = described_answer(*given, observed=seen, lacking=lack, words=words)
            yield from finding_lines(about, access=False)
