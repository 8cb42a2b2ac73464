"""Departures that composites show still occur, and explain nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from emu.check.combine import met
from emu.check.composite_check import CompositeStand
from emu.check.composite_known import KNOWN_COMPOSITE, explanations
from emu.check.explain import ACCESSED_LEAF
from emu.report.composite_case import dump_composite, load_composite
from tests.emu.cases import COMPOSITE_CASES
from tests.emu.composing import composite
from tests.walker.build import PS, US, USED, A, Builder, context
from walker.bulk import translate_many

ENTRIES = {entry.id: entry for entry in KNOWN_COMPOSITE}
RMW, AC = "locked-rmw-reads-first", "implicit-access-honours-ac"
VA = 0x40_0000


@pytest.fixture(scope="module")
def stand():
    return CompositeStand()


def replayed(stand, name):
    case = load_composite(COMPOSITE_CASES / ENTRIES[name].case)
    inner = case.case
    return case, stand.judge(inner.memory(), inner.context(), case.composite)


def explained(case, seen):
    inner = case.case
    found = explanations(inner.memory(), inner.context(), case.composite, seen)
    return [name for name, which in found if which.any()]


def test_the_entries_are_those_that_are_tested_and_each_has_a_case_file():
    assert {RMW, AC} == set(ENTRIES)
    files = sorted(path.name for path in COMPOSITE_CASES.iterdir())
    assert sorted(entry.case for entry in KNOWN_COMPOSITE) == files


@pytest.mark.parametrize("name", [RMW, AC])
def test_a_departure_still_occurs_and_is_explained_by_its_entry_alone(stand, name):
    case, judged = replayed(stand, name)
    assert not met(judged.claims, judged.seen).any()
    assert {name: 1} == judged.known
    assert not judged.differ.any()
    assert [name] == explained(case, judged.seen)


@pytest.mark.parametrize("name", [RMW, AC])
def test_the_case_file_says_what_is_predicted_and_observed_today(stand, name):
    case, judged = replayed(stand, name)
    expected = (COMPOSITE_CASES / ENTRIES[name].case).read_bytes()
    assert expected == dump_composite(case, judged.claims, judged.seen)


@pytest.mark.parametrize("entry", KNOWN_COMPOSITE, ids=lambda entry: entry.id)
def test_an_entry_names_the_manual_and_the_reason(entry):
    assert "vol." in entry.manual
    assert entry.reason
    assert entry.differs.endswith(".")


def column(seen, name, value, at=0):
    copied = getattr(seen, name).copy()
    copied[0, at] = value
    return replace(seen, **{name: copied})


NEAR_MISSES = [
    (RMW, "another error code", lambda seen: column(seen, "error_code", 0x4)),
    (RMW, "another CR2", lambda seen: column(seen, "cr2", 0x124)),
    (RMW, "#GP", lambda seen: column(column(seen, "kind", 2), "cr2", 0)),
    (AC, "another page", lambda seen: column(seen, "pa", 0x8)),
    (AC, "the leaf not marked", lambda seen: column(seen, "entry_value", 0, 3)),
    (AC, "D as well", lambda seen: column(seen, "entry_value", 0x105_0067, 3)),
]


@pytest.mark.parametrize(
    ("name", "change"),
    [(name, change) for name, _, change in NEAR_MISSES],
    ids=[f"{name}: {what}" for name, what, _ in NEAR_MISSES],
)
def test_what_is_slightly_different_is_not_explained(stand, name, change):
    case, judged = replayed(stand, name)
    assert explained(case, change(judged.seen)) == []


def test_what_the_manuals_allow_is_never_explained_whoever_says_otherwise():
    # A walker that is wrong here must not hide behind the emulator's departures.
    def wrong(memory, under, accesses):
        return translate_many(memory, replace(under, cr0=under.cr0 ^ 1 << 16), accesses)

    memory = Builder(ram=((0, 1 << 26),)).map(VA, 0x8000, A | 1 | US, upper=USED).memory
    judged = CompositeStand(wrong).judge(memory, context(wp=False), composite("rmw:xadd", VA))
    assert judged.differ.all()
    assert judged.known == {}


@pytest.mark.parametrize(
    ("form", "switches"),
    [
        ("rmw:xadd", {"cpl": 3}),
        ("implicit:read", {"cpl": 3, "ac": True}),
    ],
)
def test_an_explanation_is_for_its_own_kind_alone(stand, form, switches):
    memory = Builder(ram=((0, 1 << 26),)).map(VA, 0x8000, USED, upper=USED).memory
    judged = stand.judge(memory, context(), composite(form, VA + 8, **switches))
    assert met(judged.claims, judged.seen).all()
    assert judged.known == {}


def test_a_fault_at_a_1_gib_page_marks_it_in_composites_too(stand):
    builder = Builder(ram=((0, 1 << 26),))
    builder.map(0, 0, 1 | US | PS, level=3, upper=USED)
    one = composite("implicit:write", 0x20_0008)
    judged = stand.judge(builder.memory, context(smap=True), one)
    assert {ACCESSED_LEAF: 1} == judged.known
    assert np.array_equal(judged.explained, [True])
