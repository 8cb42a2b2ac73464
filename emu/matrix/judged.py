"""Units of the matrix put to a judge, and held against the predictions for its CPU."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from crosswalk.emu.check.judged import SequenceJudgement, Status
from crosswalk.emu.findings.layout import IntendedOutcomes, Layout
from crosswalk.emu.fuzz.judged import (
    JudgeExecutor,
    Tallied,
    composite_findings_in,
    tallied,
)
from crosswalk.emu.matrix.section import Choice, Combination, SequenceSection, Space
from crosswalk.emu.matrix.unit import AnySection, Result, Unit, Violation
from crosswalk.emu.probe.composites import Composites, Family
from crosswalk.emu.workers.process import ProcessLost
from crosswalk.walker.columns import Accesses, Kind
from crosswalk.walker.tlb import SequenceRecord, dump_sequence

__all__ = ["AT_ONCE", "JudgeWorker"]

AT_ONCE = 1 << 15
"""The most accesses that are put to a judge at once: a machine boots each time."""

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
        waiting: list[Layout] = []
        for space in islice(section.spaces(self._choice), unit.first, unit.last):
            if isinstance(space.accesses, Composites):
                self._make_composites(space, space.accesses, result)
                continue
            for layout in _parts(space, space.accesses):
                if sum(len(each.accesses) for each in (*waiting, layout)) > AT_ONCE:
                    self._make_accesses(waiting, result)
                    waiting = []
                waiting.append(layout)
        self._make_accesses(waiting, result)
        return result

    def _make_accesses(self, layouts: list[Layout], result: Result) -> None:
        for layout, judged in zip(layouts, self._judge.verdicts_on(layouts), strict=True):
            _count(result, tallied(judged.verdicts, judged.unproved))
            kinds = judged.seen.kind[judged.verdicts.rows(*_ANSWERED)]
            result.count(*np.bincount(kinds, minlength=len(Kind)).tolist())
            for finding in self._judge.found_in(layout, judged):
                result.keep(finding)

    def _make_composites(self, space: Space, composites: Composites, result: Result) -> None:
        memory = space.memory()
        (judged,) = self._judge.composites_on([(memory, space.context, composites)])
        _count(result, tallied(judged.verdicts))
        rows = np.array(judged.verdicts.rows(*_ANSWERED), np.intp)
        # Of two accesses the second is counted.
        last = composites.family(Family.TWICE)[rows].astype(np.intp)
        kinds = judged.judged.outcomes.kind[rows, last]
        result.count(*np.bincount(kinds, minlength=len(Kind)).tolist())
        for finding in composite_findings_in(self._judge.name, memory, judged):
            result.keep(finding)

    def _run_sequences(
        self, section: SequenceSection, named: list[Combination], result: Result
    ) -> None:
        asked = [section.make(each) for each in named]
        for each, found in zip(named, self._judge.sequences_on(asked), strict=True):
            _add_sequence(result, section.text(each), found)


def _parts(space: Space, accesses: Accesses) -> Iterator[Layout]:
    """Yield a space's layout, with as many of its accesses as are asked at once."""
    shape = space.shape
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
        raise ProcessLost(f"the judge: {found.detail}")
    if found.status is Status.NOT_SHOWN:
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
