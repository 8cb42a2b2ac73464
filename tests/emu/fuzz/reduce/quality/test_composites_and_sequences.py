"""How small composites and sequences become: the numbers here are what reductions are held to."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.check.sequences import judge
from crosswalk.emu.findings.findings import findings_in
from crosswalk.emu.fuzz.reduce.composite import reduced_composite
from crosswalk.emu.fuzz.reduce.sequence import reduced_sequence
from crosswalk.emu.probe.sequences import Runner
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.errors import BadInput
from crosswalk.walker.tlb import Invlpg, MovCr3, Store, load_sequence
from tests.emu.case_files import KNOWN_SEQUENCE_FILES
from tests.emu.fuzz.planting import bug_named, first_composite

BUGS = {
    "R/W of a PTE ignored": 5,
    "U/S not inherited": 6,
    "XD not inherited": 6,
    "A not set": 2,
    "low address bits of a large page not reserved": 2,
}
"""Bugs, and the most entries that may be left of a composite, which has two walks."""

TRIES = 250


@pytest.mark.parametrize("name", BUGS)
def test_a_composite_that_shows_a_bug_is_left_with_a_walk(name):
    predict = bug_named(name).predict
    finding = first_composite(predict)
    stand = CompositeChecker(predict)

    def shows(case):
        return finding.signature in [each.signature for each in findings_in(stand, case)]

    small = reduced_composite(finding.case, shows)
    assert (True, True) == (small.done, shows(small.case))
    assert small.tries <= TRIES
    inner = small.case.case
    assert len(inner.entries) <= BUGS[name]
    assert (0, 1) == (inner.ram[0][0], len(inner.ram))
    assert inner.ram[0][1] <= 1 << 20
    assert max(inner.entries, default=0) < 0x8000
    assert () == findings_in(CompositeChecker(), small.case)
    again = reduced_composite(small.case, shows).case
    assert inner == again.case
    for column in ("va", "cpl", "ac", "then_va", "then_cpl", "then_ac", "then_pkru"):
        one, other = (getattr(each.composite, column)[0] for each in (small.case, again))
        assert one == other


def departs(runner, sequence):
    violation = judge(sequence, runner.run(sequence)).violation
    return None if violation is None else violation.causes


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem) for path in sorted(KNOWN_SEQUENCE_FILES.glob("*.json"))],
)
def test_a_sequence_that_departs_loses_all_that_has_nothing_to_do_with_it(path):
    small = load_sequence(path).sequence
    runner = Runner()
    causes = departs(runner, small)
    assert causes is not None
    large = padded(small)
    assert causes == departs(runner, large)
    reduced = reduced_sequence(large, lambda each: departs(runner, each) == causes)
    assert reduced.done
    assert reduced.tries <= 2 * TRIES
    assert len(reduced.case.steps) <= len(small.steps)
    assert len(reduced.case.entries) <= len(small.entries)
    again = reduced_sequence(reduced.case, lambda each: departs(runner, each) == causes)
    assert reduced.case == again.case


def padded(sequence):
    """The same with steps in front that change nothing, and entries that nobody uses."""
    context = sequence.context
    empty = next(
        pa
        for pa in range(context.root + 8 * 9, context.root + 8 * 60, 8)
        if pa not in sequence.entries
    )
    idle = (
        Access(5 << 39, AccessType.READ, 3),
        Invlpg(7 << 39),
        MovCr3(context.cr3),
        Store(empty, 0),
        Access(6 << 39, AccessType.EXECUTE, 0),
    )
    others = {empty + 8 * at: 0x7000_0000 for at in (1, 2, 3)}
    return replace(sequence, steps=(*idle, *sequence.steps), entries={**others, **sequence.entries})


def test_what_cannot_be_run_does_not_show_it():
    sequence = load_sequence(KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json").sequence

    def shows(each):
        if len(each.steps) < len(sequence.steps):
            raise BadInput("too short")
        return True

    reduced = reduced_sequence(sequence, shows)
    assert len(sequence.steps) == len(reduced.case.steps)
    assert {} == reduced.case.entries


def test_there_is_an_end_and_it_is_said():
    sequence = load_sequence(KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json").sequence
    reduced = reduced_sequence(sequence, lambda _: False, lambda tries: tries >= 3)
    assert (3, False, sequence) == (reduced.tries, reduced.done, reduced.case)
    case = first_composite(bug_named("XD not inherited").predict).case
    stopped = reduced_composite(case, lambda _: False, lambda tries: tries >= 3)
    assert (3, False) == (stopped.tries, stopped.done)
    assert np.array_equal(case.composite.va, stopped.case.composite.va)
