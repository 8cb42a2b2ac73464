"""Units of the matrix put to a judge, and held against the predictions for its CPU."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from crosswalk.emu.check.judged import SequenceJudgement, Status
from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.fuzz.judged import (
    JudgeExecutor,
    Tallied,
    require_own_loss,
    tallied,
)
from crosswalk.emu.matrix.section import Choice, Combination, SequenceSection, Space
from crosswalk.emu.matrix.unit import AnySection, Result, Unit, Violation
from crosswalk.emu.probe.composites import Composites, Family
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import SparseWords
from crosswalk.walker.tlb import SequenceRecord, dump_sequence

__all__ = ["AT_ONCE", "JudgeWorker"]

AT_ONCE = 1 << 15
"""The most accesses that are put to a judge at once: a machine boots each time."""

Asked = tuple[SparseWords, PagingContext, Composites]
Item = TypeVar("Item")

_ANSWERED = [each for each in Status if each.answered]


class JudgeWorker:
    """Does units with a judge, one after the other."""

    def __init__(
        self, sections: tuple[AnySection, ...], choice: Choice, judge: JudgeExecutor
    ) -> None:
        self._sections = {section.name: section for section in sections}
        self._choice, self._judge = choice, judge

    def do(self, unit: Unit) -> Result:
        """Put every combination of a unit to the judge; `Worker.do` asks the emulated CPU.

        Raises `ProcessLost` where somebody else ended the machine, and as the judge does.
        """
        section, result = self._sections[unit.section], Result(unit)
        if isinstance(section, SequenceSection):
            every = section.combinations(self._choice)
            self._run_sequences(section, list(islice(every, unit.first, unit.last)), result)
            return result
        spaces = islice(section.spaces(self._choice), unit.first, unit.last)
        if section.composite:
            for many in _together(map(_asked, spaces), lambda each: len(each[2])):
                self._make_composites(many, result)
        else:
            layouts = (each for space in spaces for each in _parts(space))
            for some in _together(layouts, lambda each: len(each.accesses)):
                self._make_accesses(some, result)
        return result

    def _make_accesses(self, layouts: list[Layout], result: Result) -> None:
        for layout, judged in zip(layouts, self._judge.verdicts_on(layouts), strict=True):
            _count(result, tallied(judged.verdicts, judged.unproved))
            kinds = judged.seen.kind[judged.verdicts.rows(*_ANSWERED)]
            result.count(*np.bincount(kinds, minlength=len(Kind)).tolist())
            for finding in self._judge.found_in(layout, judged):
                result.keep(finding)

    def _make_composites(self, many: Sequence[Asked], result: Result) -> None:
        answers = self._judge.composites_on(many)
        findings = self._judge.composites_found(many, answers)
        for (_, _, some), judged, found in zip(many, answers, findings, strict=True):
            _count(result, tallied(judged.verdicts))
            rows = np.array(judged.verdicts.rows(*_ANSWERED), np.intp)
            # Of two accesses the second is counted.
            last = some.family(Family.TWICE)[rows].astype(np.intp)
            kinds = judged.judged.outcomes.kind[rows, last]
            result.count(*np.bincount(kinds, minlength=len(Kind)).tolist())
            for finding in found:
                result.keep(finding)

    def _run_sequences(
        self, section: SequenceSection, named: list[Combination], result: Result
    ) -> None:
        asked = [section.make(each) for each in named]
        for each, found in zip(named, self._judge.sequences_on(asked), strict=True):
            _add_sequence(result, section.text(each), found)


def _together(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield the items in lists of no more accesses than are put to a judge at once."""
    some, total = list[Item](), 0
    for each in items:
        if total + size(each) > AT_ONCE and some:
            yield some
            some, total = [], 0
        some.append(each)
        total += size(each)
    if some:
        yield some


def _asked(space: Space) -> Asked:
    """Return a space's composites, as a judge is asked."""
    if not isinstance(space.accesses, Composites):
        raise TypeError("single accesses")
    return space.memory(), space.context, space.accesses


def _parts(space: Space) -> Iterator[Layout]:
    """Yield a space's layout, with as many of its accesses as are asked at once."""
    shape, accesses = space.shape, space.accesses
    if not isinstance(accesses, Accesses):
        raise TypeError("composites")
    for at in range(0, len(accesses), AT_ONCE):
        part = accesses.take(slice(at, at + AT_ONCE))
        nothing = IntendedOutcomes.nothing(len(part))
        yield Layout(space.context, space.ram, shape.frames, shape.words, part, nothing)


def _count(result: Result, counts: Tallied) -> None:
    result.divergent += counts.divergent
    result.known += counts.known
    result.not_shown += counts.not_shown
    result.not_exportable += counts.not_exportable
    result.unproved += counts.unproved


def _add_sequence(result: Result, name: str, found: SequenceJudgement) -> None:
    """Count a sequence; one that violates what is allowed, or ended the judge, is kept."""
    if found.judged is not None:
        result.count(found.judged.forced, found.judged.fresh, found.judged.stale)
    if found.status is Status.LOST:
        require_own_loss(found.detail)
    if found.status in {Status.NOT_SHOWN, Status.LOST}:
        result.not_shown[found.detail] += 1
    elif found.status is Status.NOT_EXPORTABLE:
        result.not_exportable[found.detail] += 1
    elif found.status is Status.KNOWN:
        result.known[found.detail] += 1
    elif found.status is not Status.AGREED:
        result.divergent += 1
        allowed = () if found.judged is None else found.judged.allowed
        record = SequenceRecord(found.sequence, name, allowed)
        violation = None if found.judged is None else found.judged.violation
        causes = found.detail if violation is None else "; ".join(violation.causes)
        result.keep(Violation(causes, 1, name, dump_sequence(record)))
