"""Departures that composites show still occur, and explain nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.allowed_outcomes import allowed_outcomes, is_allowed, parts_of
from crosswalk.emu.check.composites import (
    CompositeChecker,
    composites_as_emulated,
    emulated_composites,
    explain_composites,
    same_seen,
)
from crosswalk.emu.check.departures import DEPARTURES, Scope, departures
from crosswalk.emu.check.emulated_rules import rules_of
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.fuzz.generate.composites import composites_of
from crosswalk.emu.matrix.composite_sections import COMPOSITE_SECTIONS
from crosswalk.emu.report.composites import dump_composite, load_composite
from crosswalk.walker.bulk import translate_many
from tests.emu.case_files import COMPOSITE_CASES
from tests.emu.composites import composite
from tests.tables import OPEN, PS, US, USED, A, P, PageTables, context

ENTRIES = {entry.id: entry for entry in departures(Scope.COMPOSITE)}
RMW, AC = "locked-rmw-reads-first", "implicit-access-honours-ac"
VA = 0x40_0000


@pytest.fixture(scope="module")
def stand():
    return CompositeChecker()


def replayed(stand, name):
    case = load_composite(COMPOSITE_CASES / ENTRIES[name].case)
    inner = case.case
    return case, stand.judge(inner.memory(), inner.context(), case.composite)


def explained(case, seen):
    memory, context = case.case.memory(), case.case.context()
    claims = allowed_outcomes(case.composite, parts_of(memory, context, case.composite))
    return explain_composites(memory, context, case.composite, claims, seen)


def test_the_entries_are_those_that_are_tested_and_each_has_a_case_file():
    assert {RMW, AC} == set(ENTRIES)
    files = sorted(path.name for path in COMPOSITE_CASES.iterdir())
    assert sorted(entry.case for entry in ENTRIES.values()) == files


@pytest.mark.parametrize("name", [RMW, AC])
def test_a_departure_still_occurs_and_is_explained_by_its_entry_alone(stand, name):
    case, judged = replayed(stand, name)
    assert not is_allowed(judged.allowed, judged.seen).any()
    assert {name: 1} == judged.known
    assert not judged.differ.any()
    assert [name] == explained(case, judged.seen)


@pytest.mark.parametrize("name", [RMW, AC])
def test_the_case_file_says_what_is_predicted_and_observed_today(stand, name):
    case, judged = replayed(stand, name)
    expected = (COMPOSITE_CASES / ENTRIES[name].case).read_bytes()
    assert expected == dump_composite(case, judged.allowed, judged.seen)


@pytest.mark.parametrize("name", [RMW, AC])
def test_taken_out_of_the_table_it_is_a_divergence_like_another(stand, name, monkeypatch):
    rest = tuple(each for each in DEPARTURES if each.id != name)
    monkeypatch.setattr("crosswalk.emu.check.departures.DEPARTURES", rest)
    judged = replayed(stand, name)[1]
    assert judged.differ.all()
    assert {} == judged.known


@pytest.mark.parametrize("name", [RMW, AC])
def test_the_case_is_the_smallest_that_shows_it(stand, name):
    case = load_composite(COMPOSITE_CASES / ENTRIES[name].case)
    for pa in case.case.entries:
        less = {other: word for other, word in case.case.entries.items() if other != pa}
        inner = replace(case.case, entries=less)
        judged = stand.judge(inner.memory(), inner.context(), case.composite)
        assert {} == judged.known, hex(pa)


def column(seen, name, value, at=0):
    copied = getattr(seen, name).copy()
    copied[0, at] = value
    return replace(seen, **{name: copied})


NEAR_MISSES = [
    (RMW, "another error code", lambda seen: column(seen, "error_code", 0x4)),
    (RMW, "another CR2", lambda seen: column(seen, "cr2", 0x124)),
    (RMW, "#GP", lambda seen: column(column(seen, "kind", 2), "cr2", 0)),
    (AC, "another page", lambda seen: column(seen, "pa", 0x8008)),
    (AC, "the leaf not marked", lambda seen: column(seen, "entry_value", 0, 1)),
    (AC, "D as well", lambda seen: column(seen, "entry_value", 0xE7, 1)),
]


@pytest.mark.parametrize(
    ("name", "change"),
    [(name, change) for name, _, change in NEAR_MISSES],
    ids=[f"{name}: {what}" for name, what, _ in NEAR_MISSES],
)
def test_what_is_slightly_different_is_not_explained(stand, name, change):
    case, judged = replayed(stand, name)
    assert [None] == explained(case, change(judged.seen))


def test_what_the_manuals_allow_is_never_explained_whoever_says_otherwise():
    # A walker that is wrong here must not hide behind the emulator's departures.
    def wrong(memory, under, accesses):
        return translate_many(memory, replace(under, cr0=under.cr0 ^ 1 << 16), accesses)

    memory = PageTables(ram=((0, 1 << 26),)).map(VA, 0x8000, A | 1 | US, upper=USED).memory
    judged = CompositeChecker(wrong).judge(memory, context(wp=False), composite("rmw:xadd", VA))
    assert judged.differ.all()
    assert {} == judged.known


@pytest.mark.parametrize(
    ("form", "switches"),
    [
        ("rmw:xadd", {"cpl": 3}),
        ("implicit:read", {"cpl": 3, "ac": True}),
    ],
)
def test_an_explanation_is_for_its_own_kind_alone(stand, form, switches):
    memory = PageTables(ram=((0, 1 << 26),)).map(VA, 0x8000, USED, upper=USED).memory
    judged = stand.judge(memory, context(), composite(form, VA + 8, **switches))
    assert is_allowed(judged.allowed, judged.seen).all()
    assert {} == judged.known


EARLY, LARGE, WIDTH = "pdpte-leaf-accessed-on-fault", "pdpte-ps-always-leaf", "maxphyaddr-40"
END = 0x3FFF_FFFC
"""Where a read of eight bytes goes on from the first GiB into the second."""


@pytest.mark.parametrize(
    ("first", "second", "features", "name"),
    [
        # A reserved bit in the first page, in the second, in both.
        (P | PS | 1 << 13, USED | PS, {}, EARLY),
        (USED | PS, P | PS | 1 << 13, {}, EARLY),
        (USED | PS, USED | PS, {"page1gb": False}, LARGE),
        (P | PS | 1 << 13, USED | PS, {"page1gb": False}, f"{EARLY}+{LARGE}"),
        (USED | PS, P | PS | 1 << 13, {"page1gb": False}, f"{EARLY}+{LARGE}"),
        (USED | PS | 1 << 38, USED | PS, {"maxphyaddr": 36, "page1gb": False}, f"{WIDTH}+{LARGE}"),
        (
            USED | PS | 1 << 38,
            P | PS | 1 << 13,
            {"maxphyaddr": 36, "page1gb": False},
            f"{EARLY}+{WIDTH}+{LARGE}",
        ),
    ],
)
def test_departures_that_meet_across_a_page_are_explained_together(
    stand, first, second, features, name
):
    builder = PageTables(ram=((0, 1 << 26), (0x3FFF_F000, 0x1000), (0x40_3FFF_F000, 0x1000)))
    builder.map(0, 0, first, level=3, upper=USED).map(1 << 30, 0, second, level=3, upper=USED)
    judged = stand.judge(builder.memory, context(**features), composite("cross:read", END))
    assert {name: 1} == judged.known
    assert not judged.differ.any()


def test_of_one_half_explained_and_the_other_wrong_nothing_is(stand):
    builder = PageTables(ram=((0, 1 << 26), (0x3FFF_F000, 0x1000)))
    builder.map(0, 0, USED | PS, level=3, upper=USED)
    builder.map(1 << 30, 0, P | PS | 1 << 13, level=3, upper=USED)
    one, registers = composite("cross:read", END), context(page1gb=False)
    judged = stand.judge(builder.memory, registers, one)
    assert {f"{EARLY}+{LARGE}": 1} == judged.known

    def asked(seen):
        return explain_composites(builder.memory, registers, one, judged.allowed, seen)

    assert [f"{EARLY}+{LARGE}"] == asked(judged.seen)
    assert [None] == asked(column(judged.seen, "cr2", END))
    assert [None] == asked(column(judged.seen, "entry_value", 0))


def drawn(count):
    """Some composites of every section of the matrix, address space by address space."""
    chance = np.random.default_rng(7)
    for section in COMPOSITE_SECTIONS:
        spaces = list(section.spaces({}))
        for at in chance.choice(len(spaces), min(3, len(spaces)), replace=False).tolist():
            space = spaces[at]
            rows = chance.choice(len(space.accesses), min(count, len(space.accesses)))
            yield space.memory(), space.context, space.accesses.take(np.sort(rows))


def test_with_every_departure_off_the_second_walk_meets_what_the_manuals_allow():
    for memory, registers, some in drawn(600):
        seen = emulated_composites(memory, rules_of(registers), some)
        assert is_allowed(allowed_outcomes(some, parts_of(memory, registers, some)), seen).all()


def test_with_all_departures_it_is_what_the_emulated_cpu_does(stand):
    forms = set()
    for memory, registers, some in drawn(150):
        seen = stand.judge(memory, registers, some).seen
        assert same_seen(composites_as_emulated(memory, registers, some), seen).all()
        forms |= set(some.form.tolist())
    assert len(forms) > 10
    made = 0
    for index in range(0, 27, 9):
        layout = generate(99, index, accesses=4096)
        if layout.context.mode.long:
            memory = layout.memory()
            found = stand.judge_possible(memory, layout.context, composites_of(layout))
            assert same_seen(found.judged.stated, found.judged.seen).all()
            made += len(found.made)
    assert made > 50


def test_what_is_not_as_stated_differs_though_the_manuals_allow_it(stand, monkeypatch):
    # A is set above the page that can't be written: the manuals leave it to the processor.
    memory = PageTables().map(VA, 0x8000, P | US, upper=OPEN).memory
    one = composite("rmw:xadd", VA)
    judged = stand.judge(memory, context(), one)
    assert is_allowed(judged.allowed, judged.seen).all()
    assert not judged.differ.any()
    monkeypatch.setattr(
        "crosswalk.emu.check.composites.composites_as_emulated",
        lambda *of: (
            column(composites_as_emulated(*of), "entry_pa", 0)
            if len(of[2])
            else composites_as_emulated(*of)
        ),
    )
    assert stand.judge(memory, context(), one).differ.all()
