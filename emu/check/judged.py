"""What a judge says, held against the predictions for the CPU that it says it has.

One verdict for each probe, single accesses, composites and sequences alike. A prediction that the
second walk doesn't share is an error of Crosswalk's own, and agreement with it is none.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from crosswalk.emu.check.allowed_outcomes import (
    AllowedOutcome,
    allowed_outcomes,
    is_allowed,
    parts_of,
)
from crosswalk.emu.check.compare import (
    Divergence,
    agreements,
    by_the_manuals,
    choose,
    explain,
    same_rows,
)
from crosswalk.emu.check.composites import emulated_composites, explain_composites
from crosswalk.emu.check.crosscheck import Predictor
from crosswalk.emu.check.departures import UNICORN
from crosswalk.emu.check.emulated_rules import rules_of
from crosswalk.emu.check.sequences import SequenceVerdict, judge
from crosswalk.emu.judges.judge import (
    Judged,
    JudgedComposites,
    JudgedSequence,
    Question,
    Reason,
    Unjudged,
)
from crosswalk.emu.probe.composites import Composites
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses, Outcomes
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import PhysicalMemory
from crosswalk.walker.tlb import Sequence as TlbSequence
from crosswalk.walker.translate import walk_access

__all__ = [
    "AccessVerdicts",
    "CompositeVerdicts",
    "SequenceJudgement",
    "Status",
    "Verdicts",
    "access_verdicts",
    "composite_verdicts",
    "kind_of",
    "sequence_verdict",
]


class Status(IntEnum):
    """What came of a probe that was put to a judge."""

    AGREED = 0
    DIVERGED = 1
    KNOWN = 2
    """It diverged by departures of the judge that are registered."""
    NOT_SHOWN = 3
    NOT_EXPORTABLE = 4
    ENDED = 5
    LOST = 6

    @property
    def text(self) -> str:
        """The status in words."""
        return self.name.lower().replace("_", " ")

    @property
    def answered(self) -> bool:
        """Whether the judge gave an outcome."""
        return self in {Status.AGREED, Status.DIVERGED, Status.KNOWN}

    @property
    def wrong(self) -> bool:
        """Whether it speaks against the judge, or the prediction, and nothing explains it."""
        return self in {Status.DIVERGED, Status.ENDED}


_OF_KIND = {
    Unjudged.NOT_EXPORTABLE: Status.NOT_EXPORTABLE,
    Unjudged.NOT_SHOWN: Status.NOT_SHOWN,
    Unjudged.ENDED: Status.ENDED,
    Unjudged.LOST: Status.LOST,
}


def kind_of(name: str, version: str = "") -> str:
    """Return by which name departures list a judge that the command line calls `name`.

    With the number of `version`, as a judge states it: "bochs 3.1" of "Bochs 3.1, …". Unicorn is
    one version.
    """
    kind = name.partition(":")[0]
    number = re.match(r"[^\s,]+ (\d[\d.]*)", version)
    return kind if kind == UNICORN or number is None else f"{kind} {number[1]}"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on n probes.

    `status` uint8[n] (`Status`); `detail` intp[n], an index of `details`: the departures that
    explain a row, or why it has no outcome; the first of them is empty. `unshared` bool[n] are rows
    that diverge because Crosswalk's two walks differ in what they predict. `exact` are those of
    `details` with the values left out of them, which are many.
    """

    status: NDArray[np.uint8]
    detail: NDArray[np.intp]
    details: tuple[str, ...]
    unshared: NDArray[np.bool_]
    exact: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.status)

    def of(self, row: int) -> tuple[Status, str]:
        """Return the status of a probe, and the detail."""
        return Status(int(self.status[row])), self.details[int(self.detail[row])]

    def exact_of(self, row: int) -> str:
        """Return the detail of a probe with all values in it."""
        return self.exact[int(self.detail[row])]

    def rows(self, *which: Status) -> list[int]:
        """Return the rows of these statuses."""
        found: list[int] = np.flatnonzero(np.isin(self.status, which)).tolist()
        return found

    def counts(self) -> Counter[tuple[Status, str]]:
        """Return how many probes there are of each status and detail."""
        pairs = self.status.astype(np.intp) * len(self.details) + self.detail
        values, counts = np.unique(pairs, return_counts=True)
        found: Counter[tuple[Status, str]] = Counter()
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            status, detail = divmod(value, len(self.details))
            found[Status(status), self.details[detail]] += count
        return found


def _verdicts(
    why: NDArray[np.uint8],
    reasons: Sequence[Reason],
    agreed: NDArray[np.bool_],
    unshared: NDArray[np.bool_],
    names: Mapping[int, str | None],
) -> Verdicts:
    """Return the verdicts on rows: those that agree, those that departures of these names explain.

    `why` and `reasons` are as `Judged` has them.
    """
    kinds = np.array([0, *(_OF_KIND[each.kind] for each in reasons)], np.uint8)
    status = np.where(agreed & ~unshared, np.uint8(Status.AGREED), np.uint8(Status.DIVERGED))
    status = np.where(why == 0, status, kinds[why])
    known = sorted({name for name in names.values() if name is not None})
    details = ("", *(each.text for each in reasons), *known)
    exact = ("", *(each.exact or each.text for each in reasons), *known)
    detail = why.astype(np.intp)
    for row, name in names.items():
        if name is not None:
            status[row], detail[row] = Status.KNOWN, 1 + len(reasons) + known.index(name)
    return Verdicts(status, detail, details, unshared & (why == 0), exact)


@dataclass(frozen=True, slots=True)
class AccessVerdicts:
    """The verdicts on n accesses, with what was predicted for the judge's CPU and what it says.

    `context` is that CPU's. In `seen` an address that couldn't be shown, of the rows `unproved`
    bool[n], is the predicted one, and rows without an outcome are zeros.
    """

    memory: PhysicalMemory
    context: PagingContext
    accesses: Accesses
    predicted: Outcomes
    seen: Outcomes
    unproved: NDArray[np.bool_]
    verdicts: Verdicts

    def divergence(self, row: int) -> Divergence:
        """Return a row that was answered, as a divergence of what the judge saw."""
        access, (status, detail) = self.accesses[row], self.verdicts.of(row)
        path = walk_access(self.memory, self.context, access)
        known = detail if status is Status.KNOWN else None
        return Divergence(access, self.predicted[row], self.seen[row], path, known)


def access_verdicts(
    question: Question, judged: Judged, who: str, predict: Predictor = translate_many
) -> AccessVerdicts:
    """Return the verdicts on what a judge said of a question; `who` as departures list it."""
    memory, accesses, context = question.memory, question.accesses, judged.context
    answered, unproved = judged.why == 0, judged.unproved & (judged.why == 0)
    predicted = predict(memory, context, accesses)
    seen = choose(answered, judged.outcomes, Outcomes.empty(len(accesses)))
    seen = replace(seen, pa=np.where(unproved, predicted.pa, seen.pa))
    unshared = ~same_rows(by_the_manuals(memory, context, accesses), predicted)
    agreed = agreements(predicted, seen)
    rows = np.flatnonzero(answered & ~agreed & ~unshared)
    some = accesses.take(rows), predicted.take(rows), judged.outcomes.take(rows)
    names = explain(memory, context, *some, who, unproved=unproved[rows]) if len(rows) else []
    found = _verdicts(
        judged.why, judged.reasons, agreed, unshared, dict(zip(rows.tolist(), names, strict=True))
    )
    return AccessVerdicts(memory, context, accesses, predicted, seen, unproved, found)


@dataclass(frozen=True, slots=True)
class CompositeVerdicts:
    """The verdicts on n composites, with the outcomes allowed on the judge's CPU."""

    context: PagingContext
    composites: Composites
    allowed: list[AllowedOutcome]
    judged: JudgedComposites
    verdicts: Verdicts


def composite_verdicts(
    memory: PhysicalMemory,
    composites: Composites,
    judged: JudgedComposites,
    who: str,
    predict: Predictor = translate_many,
) -> CompositeVerdicts:
    """Return the verdicts on what a judge said of composites."""
    context, answered = judged.context, judged.why == 0
    allowed = allowed_outcomes(composites, parts_of(memory, context, composites, predict))
    manual = emulated_composites(memory, rules_of(context), composites)
    unshared = ~is_allowed(allowed, manual)
    agreed = answered & is_allowed(allowed, judged.outcomes)
    rows = np.flatnonzero(answered & ~agreed & ~unshared)
    names: list[str | None] = []
    if len(rows):
        options = [option.take(rows) for option in allowed]
        some = composites.take(rows), options, judged.outcomes.take(rows)
        names = explain_composites(memory, context, *some, who)
    found = _verdicts(
        judged.why, judged.reasons, agreed, unshared, dict(zip(rows.tolist(), names, strict=True))
    )
    return CompositeVerdicts(context, composites, allowed, judged, found)


@dataclass(frozen=True, slots=True)
class SequenceJudgement:
    """The verdict on a sequence, as it is for the judge's CPU.

    `judged` has the options allowed and the violation; it is None where there is no answer.
    `detail` and `exact` are those of `Verdicts`.
    """

    sequence: TlbSequence
    judged: SequenceVerdict | None
    status: Status
    detail: str = ""
    exact: str = ""


def sequence_verdict(sequence: TlbSequence, judged: JudgedSequence, who: str) -> SequenceJudgement:
    """Return the verdict on what a judge said of a sequence."""
    sequence = replace(sequence, context=judged.context)
    if isinstance(judged.answer, Reason):
        reason = judged.answer
        exact = reason.exact or reason.text
        return SequenceJudgement(sequence, None, _OF_KIND[reason.kind], reason.text, exact)
    found = judge(sequence, judged.answer, who)
    if found.violation is None:
        return SequenceJudgement(sequence, found, Status.AGREED)
    if found.violation.known is None:
        return SequenceJudgement(sequence, found, Status.DIVERGED)
    return SequenceJudgement(sequence, found, Status.KNOWN, found.violation.known)
