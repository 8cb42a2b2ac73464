"""EPT by the walker, by a second statement of it, and by walkers that are wrong."""

from collections import Counter
from dataclasses import replace

import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.check.nested import EPT_KINDS, check_answers, restates
from crosswalk.emu.check.nested_deviations import MANUAL
from crosswalk.emu.check.nested_emulated import emulated_outcomes
from crosswalk.emu.fuzz.nested.ept_pair import make_ept_pair
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.nested.translate import nested_outcomes
from tests.emu.check.nested.by_hand import EPT_BY_HAND, pair_by_hand
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


@pytest.fixture(scope="module")
def made():
    """The pairs, without mode-based execute control and with it."""
    return {
        mbec: [make_ept_pair(1, number, ACCESSES, mbec=mbec) for number in range(PAIRS)]
        for mbec in (False, True)
    }


@pytest.fixture(scope="module")
def asked(made):
    """Each access: the pair, the access, what the simulated Bochs answers, what is predicted."""
    return [
        (pair, access, observed, nested_outcomes(pair.memory, pair.context, access))
        for mbec, pairs in made.items()
        for pair in (*pairs, *by_hand(mbec))
        for access, observed in zip(pair.accesses, answers(pair, BOCHS), strict=True)
    ]


def by_hand(mbec):
    """Yield the pairs made by hand that have mode-based execute control, or that don't."""
    for make, access, _ in EPT_BY_HAND.values():
        pair = pair_by_hand(make(), access)
        if pair.context.host.mbec is mbec:
            yield pair


def divergences(asked, predict):
    """Yield the divergences where a walker says something else than the right one."""
    for pair, access, observed, right in asked:
        where = pair.memory, pair.context
        if predict(*where, access) != right:
            verdict = check_answers(*where, [access], [observed], "bochs", predict=predict)
            yield from verdict.divergences


def test_the_walker_and_the_second_statement_say_the_same(asked):
    for pair, access, _, right in asked:
        manual = emulated_outcomes(pair.memory, pair.context, access, MANUAL)
        assert restates(pair.memory, right, manual)


@pytest.mark.parametrize(("make", "access", "outcome"), EPT_BY_HAND.values(), ids=EPT_BY_HAND)
def test_the_walker_says_what_the_manual_does_of_an_entry_by_hand(make, access, outcome):
    two = make()
    (found,) = nested_outcomes(two.memory, two.context, access)
    assert outcome == replace(found, entries=())


def test_no_kind_of_outcome_is_missing_and_each_departure_is_named(made):
    counts, known = Counter(), Counter()
    for pair in (pair for pairs in made.values() for pair in pairs):
        asked = pair.memory, pair.context, pair.accesses
        verdict = check_answers(*asked, answers(pair, BOCHS), "bochs")
        assert () == verdict.divergences
        counts.update(verdict.counts)
        known.update(verdict.known)
    assert set(EPT_KINDS) == set(counts)
    assert min(counts.values()) > 0.005 * sum(counts.values())
    assert {entry.id for entry in departures(Scope.NESTED, who="bochs")} == set(known)


def test_a_machine_without_departures_only_agrees(made):
    for pair in (pair for pairs in made.values() for pair in pairs[:4]):
        asked = pair.memory, pair.context, pair.accesses
        verdict = check_answers(*asked, answers(pair, MANUAL), "bochs")
        assert (ACCESSES, ACCESSES, {}) == (verdict.probes, verdict.agreements, verdict.known)


@pytest.mark.parametrize("name", WRONG)
def test_a_walker_with_a_rule_broken_is_caught(asked, name):
    assert any(divergences(asked, WRONG[name]))


@pytest.mark.parametrize("mbec", [False, True])
def test_a_walker_that_takes_one_control_for_the_other_is_caught(asked, mbec):
    some = [each for each in asked if each[0].context.host.mbec is mbec]
    wrong = WRONG_WITH_MBEC if mbec else WRONG_WITHOUT_MBEC
    caught = {name for name in wrong if any(divergences(some, wrong[name]))}
    assert set(wrong) == caught


@pytest.mark.parametrize("name", LIKE_BOCHS)
def test_a_walker_that_does_as_bochs_does_is_told_what_the_manual_says(asked, name):
    assert any(each.manual for each in divergences(asked, LIKE_BOCHS[name]))


@pytest.mark.parametrize("mbec", [False, True])
def test_of_an_address_wider_than_the_ept_both_say_a_violation_whose_rights_are_open(mbec):
    va, tables = 0x5000, [ROOT + at * KIB4 for at in range(4)]
    space = EptSpace(PageTables().map(va, 1 << 49, USED | D, upper=USED)).map_all(tables)
    context, access = space.context(mbec=mbec, maxphyaddr=52), Access(va, AccessType.WRITE)
    manual = emulated_outcomes(space.memory, context, access, MANUAL)
    predicted = nested_outcomes(space.memory, context, access)
    assert restates(space.memory, predicted, manual)
    assert [0xF << 3] == [each.open & 0xF << 3 for each in predicted]
