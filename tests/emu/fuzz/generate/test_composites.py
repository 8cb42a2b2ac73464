"""A layout's accesses of more than a byte: which, and whether they find a bug."""

from collections import Counter

import numpy as np

from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.findings.findings import CompositeFinding, findings_in
from crosswalk.emu.fuzz.coverage import CELLS
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.generate.composites import composites_of
from crosswalk.emu.probe.composites import FORMS, NAMES, Family
from tests.emu.fuzz.planting import bug_named

LAYOUT = generate(0, 1, accesses=4096)
BUG = bug_named("XD not inherited").predict
AT_ENDS = 18


def composite_findings(executor):
    found = executor.run(lambda: LAYOUT, cross=True)
    return [each for each in found.findings if isinstance(each, CompositeFinding)]


def crossing():
    made = composites_of(LAYOUT)
    return made.take(np.flatnonzero(made.family(Family.CROSS)))


def test_one_access_in_64_crosses_into_the_next_page_as_its_type_does():
    made = crossing()
    assert len(LAYOUT.accesses) // 64 + AT_ENDS == len(made) > 32
    before = {"cross:read": 4, "cross:write": 4, "cross:execute": 6}
    for form, va in zip(made.form.tolist(), made.va.tolist(), strict=True):
        assert va % 4096 == 4096 - before[NAMES[form]]
    assert {*before} == {NAMES[form] for form in made.form.tolist()}
    ours = {(va >> 12, cpl, ac) for va, cpl, ac in zip(made.va, made.cpl, made.ac, strict=True)}
    accesses = LAYOUT.accesses
    theirs = {
        (va >> 12, cpl, ac)
        for va, cpl, ac in zip(accesses.va, accesses.cpl, accesses.ac, strict=True)
    }
    half = 1 << LAYOUT.context.va_bits - 1
    ends = {(half >> 12) - 1, half >> 12, ((1 << 64) - half >> 12) - 1}
    assert ends == {page for page, _, _ in ours - theirs}


def test_the_other_page_is_mostly_one_that_the_layout_accesses():
    pages = set((LAYOUT.accesses.va >> np.uint64(12)).tolist())
    beside = [(va >> 12) + 1 in pages for va in crossing().va.tolist()]
    assert sum(beside) >= len(beside) - AT_ENDS


def test_as_many_are_of_the_other_families_each_placed_as_it_has_to_be():
    made = composites_of(LAYOUT)
    others = made.take(np.flatnonzero(~made.family(Family.CROSS)))
    assert len(LAYOUT.accesses) // 64 == len(others)
    assert set(NAMES) == {NAMES[form] for form in made.form.tolist()}
    for form, va, then in zip(
        others.form.tolist(), others.va.tolist(), others.then_va.tolist(), strict=True
    ):
        low = {Family.IMPLICIT: 8, Family.TWICE: 0}.get(FORMS[NAMES[form]].family, va % 16)
        assert (low, va) == (va % 16, then)
    twice = others.family(Family.TWICE)
    assert (others.then_pkru[~twice] == -1).all()
    assert {0, 3} == {*others.then_cpl[twice].tolist()}


def test_equal_layouts_have_equal_composites_and_few_accesses_none():
    one, other = (composites_of(generate(0, 1, accesses=4096)) for _ in range(2))
    for name in one.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(other, name))
    few = generate(0, 1, accesses=32)
    assert 0 == len(composites_of(few))
    assert Executor().run(lambda: few, cross=True).probes == len(few.accesses)


def test_without_a_bug_they_agree_and_all_kinds_of_answers_are_seen():
    stand, seen, forms = CompositeChecker(), Counter(), Counter()
    for index in range(6):
        layout = generate(3, index, accesses=4096)
        memory = layout.memory()
        crossed = stand.judge_possible(memory, layout.context, composites_of(layout))
        assert not crossed.judged.differ.any()
        assert len(composites_of(layout)) == len(crossed.made) + crossed.impossible
        seen.update(crossed.judged.seen.kind[:, 0].tolist())
        forms.update(crossed.made.form.tolist())
    assert min(seen.values()) > 5
    assert seen[1] > 50
    assert len(NAMES) == len(forms)


def test_what_they_show_are_cells_of_the_map_that_there_can_be():
    executor, seen = Executor(), np.zeros(CELLS.count, np.bool_)
    for index in range(6):
        seen |= executor.run(
            lambda index=index: generate(3, index, accesses=4096), cross=True
        ).coverage
    assert not (seen & ~CELLS.possible).any()
    first = CELLS.first_of("composites")
    family = next(each for each in CELLS.families if each.name == "composites")
    shown = [family.values(int(at)) for at in np.flatnonzero(seen[first : first + family.size])]
    assert len(shown) > 100
    told = Counter(family.axes[-1].labels[values[-1]] for values in shown)
    assert {"neither", "the first", "the second", "both"} == set(told)


def test_they_count_as_probes():
    without, crossed = (Executor().run(lambda: LAYOUT, cross=cross) for cross in (False, True))
    assert without.probes == len(LAYOUT.accesses)
    assert 0 < crossed.probes - without.probes <= len(composites_of(LAYOUT))
    assert (0, ()) == (crossed.divergent, crossed.findings)


def test_a_walkers_bug_is_found_and_its_case_alone_shows_it():
    found = composite_findings(Executor(BUG))
    assert "cross:execute" in {each.case.access for each in found}
    for each in found:
        assert "execute" in each.case.access
        assert len(each.case.case.entries) <= 10
        (again,) = findings_in(CompositeChecker(BUG), each.case)
        assert each.signature == again.signature
        assert () == findings_in(CompositeChecker(), each.case)
