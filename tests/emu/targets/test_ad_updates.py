"""The marks that the manuals leave to a walk that faults, and those that they don't."""

import numpy as np
import pytest

from crosswalk.walker.columns import Kind
from tests.emu.targets.judged_answers import NOTHING, TRANSLATES, Asked, changed
from tests.emu.targets.walkers import HOLE, PAGE


def faults_of(walker):
    """The accesses that fault after a walk: writes of the read-only page, and the hole."""
    return np.flatnonzero(walker.outcomes.kind == Kind.PAGE_FAULT)


@pytest.mark.parametrize("claims", ["rights,marks", "faults,marks"])
def test_a_walk_that_faults_may_leave_a_clear_everywhere(claims):
    walker = Asked(TRANSLATES, claims)
    rows = faults_of(walker)
    assert walker.outcomes.entry_value[rows].any(), "the emulated CPU has set some"
    walker.say(entry_pa=changed(rows, 0), entry_value=changed(rows, 0))
    assert (NOTHING, NOTHING) == walker.wrong


@pytest.mark.parametrize("claims", ["rights,marks", "faults,marks"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_walk_that_faults_may_set_a_in_some_of_its_entries(claims, at):
    walker = Asked(TRANSLATES, claims)
    rows = faults_of(walker)

    def only_one(column):
        column[rows, 0] = column[rows, at]
        column[rows, 1:] = 0
        return column

    walker.say(entry_pa=only_one, entry_value=only_one)
    assert (NOTHING, NOTHING) == walker.wrong


@pytest.mark.parametrize("claims", ["rights,marks", "faults,marks"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda words: words | np.uint64(0x40), id="D in a table's entry"),
        pytest.param(lambda words: words & ~np.uint64(0x20), id="a word that doesn't change"),
        pytest.param(lambda words: words | np.uint64(0x200), id="another bit"),
    ],
)
def test_a_walk_that_faults_may_change_nothing_but_a(claims, value):
    walker = Asked(TRANSLATES, claims)
    row = 18  # A read of the hole at CPL 0.
    words = walker.answers.outcomes.entry_value[row]
    assert words.any()
    walker.say(entry_value=changed(row, lambda row: np.where(row != 0, value(row), row)))
    assert (({"entries"}, {HOLE}), NOTHING) == walker.wrong


@pytest.mark.parametrize("claims", ["rights,marks", "faults,marks"])
def test_a_walk_that_faults_may_not_set_a_beside_its_entries(claims):
    walker = Asked(TRANSLATES, claims)
    beside = walker.context.root + 8 * 511

    def one_more(column, value):
        column[18, int((column[18] != 0).sum())] = value
        return column

    walker.say(
        entry_pa=lambda column: one_more(column, beside),
        entry_value=lambda column: one_more(column, 0x20),
    )
    assert (({"entries"}, {HOLE}), NOTHING) == walker.wrong


@pytest.mark.parametrize("claims", ["rights,marks", "faults,marks"])
def test_an_access_that_is_done_leaves_no_choice(claims):
    walker = Asked(TRANSLATES, claims)
    walker.say(entry_pa=changed(0, 0), entry_value=changed(0, 0))
    assert (({"entries"}, {PAGE}), NOTHING) == walker.wrong


def test_what_a_fault_wrongly_changes_is_told_beside_the_nearest_right_answer():
    walker = Asked(TRANSLATES, "faults,marks")
    walker.say(entry_pa=changed(18, 0), entry_value=changed(18, 0))
    root = walker.context.root
    before = walker.memory.word(root)
    walker.say(entry_pa=changed((18, 0), root), entry_value=changed((18, 0), before | 0x60))
    verdict = walker.verdicts[0]
    assert [18] == np.flatnonzero(verdict.wrong).tolist()
    assert ((root, before | 0x20),) == verdict.expected[18].entries
