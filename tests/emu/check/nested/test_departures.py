"""What the emulator is known to do otherwise under nested paging, each by a pair made by hand."""

from dataclasses import replace

import pytest

from crosswalk.emu.check.departures import FATAL, Scope, departures
from crosswalk.emu.check.nested import (
    NestedDivergence,
    allowed_by,
    check_nested,
    known_nested,
)
from crosswalk.emu.check.nested_deviations import EMULATOR, MANUAL, Deviation
from crosswalk.emu.check.nested_emulated import emulated
from crosswalk.emu.fuzz.nested.campaign import dies
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.walker.access import Access
from crosswalk.walker.nested.outcome import NestedError, NestedPageFault
from crosswalk.walker.nested.translate import nested_outcomes
from crosswalk.walker.outcome import PageFault, Translation
from tests.emu.probe.nested.two_stages import GUEST, PAGE, SHIFT, TwoStages, host_entry
from tests.tables import EXECUTE, OPEN, PS, READ, RW, WRITE, XD, A, D, P

LEAF, EARLY, BIT_8, FETCH = (entry.id for entry in departures(Scope.NESTED))
GIB1 = 1 << 30
G = 1 << 8


def unmarked_page():
    two = TwoStages()
    two.host(1, 5, (5 + SHIFT) * PAGE | OPEN)
    return two, Access(0x5123, WRITE, 3)


def unmarked_table():
    two = TwoStages()
    two.host(1, GUEST[4], (GUEST[4] + SHIFT) * PAGE | OPEN | A)
    return two, Access(0x5123, READ, 3)


def early_guest():
    two = TwoStages()
    two.guest(3, 1, OPEN | PS | 1 << 14)
    return two, Access(GIB1, READ, 3)


def early_host():
    two = TwoStages()
    two.guest(1, 5, GIB1 | OPEN | A | D)
    two.host(3, 1, OPEN | PS | 1 << 14)
    return two, Access(0x5123, READ, 3)


def denied_guest():
    two = TwoStages()
    two.guest(3, 1, P | RW | PS)
    return two, Access(GIB1, READ, 3)


def denied_host():
    two = TwoStages()
    two.guest(1, 5, GIB1 | OPEN | A | D)
    two.host(3, 1, P | RW | PS)
    return two, Access(0x5123, READ, 3)


def smep_without_nxe():
    two = TwoStages(cr4=0x20 | 1 << 20, efer=0x500)
    two.guest(1, 5, 0)
    return two, Access(0x5123, EXECUTE, 3)


def bit_8_guest():
    two = TwoStages()
    two.guest(4, 0, GUEST[3] * PAGE | OPEN | A | G)
    return two, Access(0x5123, READ, 3)


def bit_8_host():
    two = TwoStages()
    two.host(4, 0, 11 * PAGE | OPEN | A | G)
    return two, Access(0x5123, READ, 3)


def fetch_without_nxe():
    two = TwoStages(host_nxe=False)
    two.host(1, 5, 0)
    return two, Access(0x5123, EXECUTE, 3)


@pytest.mark.parametrize("id_bit", [0, int(NestedError.ID)])
def test_without_the_hosts_nxe_a_fetchs_nested_fault_may_have_id_or_not(id_bit):
    two, access = fetch_without_nxe()
    found = divergence(two, access)
    stage = int(NestedError.FINAL)
    assert (0x4 | stage, int(NestedError.ID)) == (
        found.predicted[0].error_code,
        found.predicted[0].open,
    )
    seen = replace(found.observed, error_code=0x4 | stage | id_bit)
    assert allowed_by(two.memory, found.predicted, seen)


def test_the_emulator_sets_it_and_agrees():
    two, access = fetch_without_nxe()
    verdict = check_nested(NestedProber(two.memory, two.context), two.memory, two.context, [access])
    assert (1, 1, {}) == (verdict.probes, verdict.agreements, verdict.known)
    assert 0x14 == divergence(two, access).observed.error_code & 0x1F


def test_with_it_id_is_not_left_open():
    two = TwoStages()
    two.host(1, 5, 0)
    found = divergence(two, Access(0x5123, EXECUTE, 3))
    stage = int(NestedError.FINAL)
    assert (0x14 | stage, 0) == (found.predicted[0].error_code, found.predicted[0].open)


INSTANCES = [
    (unmarked_page, LEAF),
    (unmarked_table, LEAF),
    (early_guest, EARLY),
    (early_host, EARLY),
    (bit_8_guest, BIT_8),
    (bit_8_host, BIT_8),
    (smep_without_nxe, FETCH),
]
MADE = pytest.mark.parametrize(
    ("make", "known"), INSTANCES, ids=[make.__name__ for make, _ in INSTANCES]
)


def divergence(two, access):
    predicted = nested_outcomes(two.memory, two.context, access)
    observed = NestedProber(two.memory, two.context).probe(access)
    return NestedDivergence(access, predicted, observed)


def explained(two, found):
    return known_nested(two.memory, two.context, found).known


@MADE
def test_a_known_departure_still_occurs_and_is_explained(make, known):
    two, access = make()
    found = divergence(two, access)
    assert not allowed_by(two.memory, found.predicted, found.observed)
    assert (known,) == explained(two, found)


@MADE
def test_it_is_counted_apart(make, known):
    two, access = make()
    prober = NestedProber(two.memory, two.context)
    verdict = check_nested(prober, two.memory, two.context, [access])
    assert (1, (), [(access, (known,))], {known: 1}, 0) == (
        verdict.probes,
        verdict.divergences,
        [(each.access, each.known) for each in verdict.explained],
        verdict.known,
        verdict.agreements,
    )


@pytest.mark.parametrize("make", [denied_guest, denied_host])
def test_a_leaf_that_denies_the_access_may_be_marked(make):
    two, access = make()
    found = divergence(two, access)
    assert found.observed.entries
    assert allowed_by(two.memory, found.predicted, found.observed)
    unmarked = replace(found.observed, entries=())
    assert allowed_by(two.memory, found.predicted, unmarked)


def more_entries(outcome):
    return replace(outcome, entries=(*outcome.entries, (0x3F000, 1)))


def elsewhere(outcome):
    match outcome:
        case Translation():
            return replace(outcome, pa=outcome.pa ^ PAGE)
        case PageFault():
            return replace(outcome, cr2=outcome.cr2 ^ PAGE)
        case NestedPageFault():
            return replace(outcome, gpa=outcome.gpa ^ PAGE)


def another_cause(outcome):
    if isinstance(outcome, Translation):
        return PageFault(0x4, 0x5123, outcome.entries)
    return replace(outcome, error_code=outcome.error_code ^ 1)


@MADE
@pytest.mark.parametrize("change", [more_entries, elsewhere, another_cause])
def test_what_the_emulator_would_not_do_either_is_not_explained(make, known, change):
    two, access = make()
    found = divergence(two, access)
    assert () == explained(two, replace(found, observed=change(found.observed)))


@MADE
@pytest.mark.parametrize("change", [elsewhere, another_cause])
def test_what_the_manual_does_not_say_is_not_explained(make, known, change):
    two, access = make()
    found = divergence(two, access)
    assert () == explained(two, replace(found, predicted=(change(found.predicted[0]),)))


@pytest.mark.parametrize("make", [unmarked_page, bit_8_guest, bit_8_host])
def test_a_walker_that_does_as_the_emulator_does_is_told_what_the_manual_says(make):
    two, access = make()
    found = divergence(two, access)
    prober = NestedProber(two.memory, two.context)
    verdict = check_nested(
        prober, two.memory, two.context, [access], predict=lambda *_: (found.observed,)
    )
    (told,) = verdict.divergences
    assert told.manual == (emulated(two.memory, two.context, access, MANUAL),)


def test_several_at_once_are_all_named():
    two, access = bit_8_host()
    two.host(1, 5, (5 + SHIFT) * PAGE | OPEN)
    assert (LEAF, BIT_8) == explained(two, divergence(two, access))


def test_an_entry_names_the_manual_and_the_reason():
    covered = MANUAL
    for entry in (*departures(Scope.NESTED), FATAL):
        assert entry.manual.startswith('AMD APM vol. 2, "')
        assert entry.reason.endswith(".")
        assert entry.differs.endswith(".")
        assert not covered & entry.deviation
        covered |= entry.deviation
    assert EMULATOR == covered


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_a_table_in_a_frame_without_execution_ends_the_process(level):
    two = TwoStages()
    frame = GUEST[level]
    two.host(1, frame, (frame + SHIFT) * PAGE | OPEN | A | D | XD)
    access = Access(0x5123, READ, 3)
    assert None is emulated(two.memory, two.context, access, EMULATOR)
    reached = Translation((5 + SHIFT) * PAGE + 0x123)
    assert reached == emulated(two.memory, two.context, access, MANUAL)
    prober = NestedProber(two.memory, two.context)
    assert dies(lambda: prober.probe(access))
    verdict = check_nested(prober, two.memory, two.context, [access])
    assert (0, (access,)) == (verdict.probes, verdict.fatal)


@pytest.mark.parametrize(
    ("entry", "code"), [(P | RW | XD, 0x7), (XD, 0x6), (OPEN | XD | 1 << 45, 0xF)]
)
def test_where_the_frame_is_refused_before_that_the_process_lives(entry, code):
    two = TwoStages()
    two.host(1, GUEST[1], (GUEST[1] + SHIFT) * PAGE | entry)
    access = Access(0x5123, READ, 3)
    prober = NestedProber(two.memory, two.context)
    fault = NestedPageFault(code | int(NestedError.TABLE), GUEST[1] * PAGE + 0x28)
    assert fault == emulated(two.memory, two.context, access, EMULATOR)
    assert not dies(lambda: prober.probe(access))
    assert fault == prober.probe(access)


def test_without_departures_entries_are_the_manuals():
    two, access = unmarked_page()
    leaf = (host_entry(1, 5), (5 + SHIFT) * PAGE | OPEN | A | D)
    assert (leaf,) == emulated(two.memory, two.context, access, MANUAL).entries
    assert () == emulated(two.memory, two.context, access, Deviation.UNMARKED).entries
