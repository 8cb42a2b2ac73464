"""Accesses of layouts that go on in the next page: which, and whether they find a bug."""

from collections import Counter

import numpy as np

from emu.check.composite_check import CompositeStand
from emu.fuzz import attempt
from emu.fuzz.composite_finding import CompositeFinding, findings_in
from emu.fuzz.crossing import crossings
from emu.fuzz.generate import generate
from emu.probe.composites import NAMES, Family
from tests.emu.fuzz.planted import bug_named
from walker.access import AccessType

LAYOUT = generate(0, 1, accesses=4096)
BUG = bug_named("XD not inherited").predict


def crossing_findings(tester):
    found = tester.attempt(lambda: LAYOUT, cross=True)
    return [each for each in found.findings if isinstance(each, CompositeFinding)]


def test_one_access_in_64_crosses_into_the_next_page_as_its_type_does():
    made = crossings(LAYOUT)
    assert len(LAYOUT.accesses) // 64 == len(made) > 32
    assert made.family(Family.CROSS).all()
    before = {"cross:read": 4, "cross:write": 4, "cross:execute": 6}
    for form, va in zip(made.form.tolist(), made.va.tolist(), strict=True):
        assert va % 4096 == 4096 - before[NAMES[form]]
    assert {*before} == {NAMES[form] for form in made.form.tolist()}
    ours = {(va >> 12, cpl, ac) for va, cpl, ac in zip(made.va, made.cpl, made.ac, strict=True)}
    accesses = LAYOUT.accesses
    theirs = zip(accesses.va, accesses.cpl, accesses.ac, strict=True)
    assert ours <= {(va >> 12, cpl, ac) for va, cpl, ac in theirs}


def test_the_other_page_is_mostly_one_that_the_layout_accesses():
    pages = set((LAYOUT.accesses.va >> np.uint64(12)).tolist())
    beside = [(va >> 12) + 1 in pages for va in crossings(LAYOUT).va.tolist()]
    assert sum(beside) == len(beside)


def test_equal_layouts_have_equal_crossings_and_few_accesses_none():
    one, other = (crossings(generate(0, 1, accesses=4096)) for _ in range(2))
    for name in ("form", "va", "cpl", "ac"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    few = generate(0, 1, accesses=32)
    assert 0 == len(crossings(few))
    assert attempt.Tester().attempt(lambda: few, cross=True).probes == len(few.accesses)


def test_without_a_bug_they_agree_and_all_kinds_of_answers_are_seen():
    stand, seen, forms = CompositeStand(), Counter(), Counter()
    for index in range(6):
        layout = generate(3, index, accesses=4096)
        memory = layout.memory()
        crossed = stand.judge_possible(memory, layout.context, crossings(layout))
        assert not crossed.judged.differ.any()
        assert len(crossings(layout)) == len(crossed.made) + crossed.impossible
        seen.update(crossed.judged.seen.kind[:, 0].tolist())
        forms.update(crossed.made.types(0).tolist())
    assert seen[0] > 5
    assert seen[1] > 50
    assert {*AccessType} == {*forms}


def test_they_count_as_probes():
    without, crossed = (
        attempt.Tester().attempt(lambda: LAYOUT, cross=cross) for cross in (False, True)
    )
    assert without.probes == len(LAYOUT.accesses)
    assert 0 < crossed.probes - without.probes <= len(crossings(LAYOUT))
    assert (0, ()) == (crossed.divergent, crossed.findings)


def test_a_walkers_bug_is_found_and_its_case_alone_shows_it():
    found = crossing_findings(attempt.Tester(BUG))
    assert found
    for each in found:
        assert "cross:execute" == each.case.access
        assert len(each.case.case.entries) <= 10
        (again,) = findings_in(CompositeStand(BUG), each.case)
        assert each.signature == again.signature
        assert () == findings_in(CompositeStand(), each.case)
