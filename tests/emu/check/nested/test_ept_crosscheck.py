"""EPT by the walker, by a second statement of it, and by walkers that are wrong."""

from collections import Counter

import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.check.nested import EPT_KINDS, check_answers, restates
from crosswalk.emu.check.nested_deviations import MANUAL
from crosswalk.emu.check.nested_emulated import emulated_outcomes
from crosswalk.emu.fuzz.nested.ept_pair import make_ept_pair
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.nested.translate import nested_outcomes
from tests.emu.check.nested.ept_planted_bugs import (
    LIKE_BOCHS,
    WRONG,
    WRONG_WITH_MBEC,
    WRONG_WITHOUT_MBEC,
)
from tests.emu.check.nested.simulated import BOCHS, answers
from tests.ept_tables import EptSpace
from tests.tables import KIB4, ROOT, USED, D, PageTables

PAIRS, ACCESSES = 56, 32
MADE = {
    mbec: [make_ept_pair(1, number, ACCESSES, mbec=mbec) for number in range(PAIRS)]
    for mbec in (False, True)
}
ASKED = [(pair, answers(pair, BOCHS)) for pairs in MADE.values() for pair in pairs]


def verdicts(asked=ASKED, who="bochs", **options):
    for pair, observed in asked:
        yield check_answers(pair.memory, pair.context, pair.accesses, observed, who, **options)


def test_the_walker_and_the_second_statement_say_the_same():
    for pairs in MADE.values():
        for pair in pairs:
            for access in pair.accesses:
                asked = pair.memory, pair.context, access
                manual = emulated_outcomes(*asked, MANUAL)
                assert restates(pair.memory, nested_outcomes(*asked), manual)


def test_no_kind_of_outcome_is_missing_and_each_departure_is_named():
    found = list(verdicts())
    assert [()] * len(ASKED) == [verdict.divergences for verdict in found]
    counts = sum((Counter(verdict.counts) for verdict in found), Counter())
    assert set(EPT_KINDS) == set(counts)
    assert min(counts.values()) > 0.005 * sum(counts.values())
    known = sum((Counter(verdict.known) for verdict in found), Counter())
    assert {entry.id for entry in departures(Scope.NESTED, who="bochs")} == set(known)


def test_a_machine_without_departures_only_agrees():
    asked = [(pair, answers(pair, MANUAL)) for pairs in MADE.values() for pair in pairs[:4]]
    for verdict in verdicts(asked):
        assert (ACCESSES, ACCESSES, {}) == (verdict.probes, verdict.agreements, verdict.known)


ON = {mbec: [each for each in ASKED if each[0].context.host.mbec is mbec] for mbec in MADE}
PLANTED = [
    *((name, WRONG[name], ASKED) for name in WRONG),
    *((name, WRONG_WITH_MBEC[name], ON[True]) for name in WRONG_WITH_MBEC),
    *((name, WRONG_WITHOUT_MBEC[name], ON[False]) for name in WRONG_WITHOUT_MBEC),
]


@pytest.mark.parametrize(
    ("predict", "asked"), [each[1:] for each in PLANTED], ids=[each[0] for each in PLANTED]
)
def test_a_walker_with_a_rule_broken_is_caught(predict, asked):
    assert any(verdict.divergences for verdict in verdicts(asked, predict=predict))


@pytest.mark.parametrize("name", LIKE_BOCHS)
def test_a_walker_that_does_as_bochs_does_is_told_what_the_manual_says(name):
    found = [each for verdict in verdicts(predict=LIKE_BOCHS[name]) for each in verdict.divergences]
    assert any(each.manual for each in found)


@pytest.mark.parametrize("mbec", [False, True])
def test_of_an_address_wider_than_the_ept_both_say_a_violation_whose_rights_are_open(mbec):
    va, tables = 0x5000, [ROOT + at * KIB4 for at in range(4)]
    space = EptSpace(PageTables().map(va, 1 << 49, USED | D, upper=USED)).map_all(tables)
    context, access = space.context(mbec=mbec, maxphyaddr=52), Access(va, AccessType.WRITE)
    manual = emulated_outcomes(space.memory, context, access, MANUAL)
    predicted = nested_outcomes(space.memory, context, access)
    assert restates(space.memory, predicted, manual)
    assert [0xF << 3] == [each.open & 0xF << 3 for each in predicted]
