"""Accessed and dirty flags (Intel SDM vol. 3A, "Accessed and Dirty Flags")."""

import pytest

from crosswalk.walker import GeneralProtection
from tests.tables import (
    EXECUTE,
    OPEN,
    PS,
    READ,
    ROOT,
    RW,
    TOP,
    US,
    USED,
    WRITE,
    A,
    D,
    P,
    PageTables,
    linear,
)

VA = 0x0000_1234_4000_0000
PAGES = pytest.mark.parametrize(
    ("levels", "leaf"), [(levels, leaf) for levels in (4, 5) for leaf in (1, 2, 3)]
)
SELF = ROOT + 8 * 510


def page(levels=4, leaf=1, flags=OPEN, upper=OPEN):
    flags |= PS if leaf > 1 else 0
    return PageTables(levels).map(VA, 0x4000_0000, flags, level=leaf, upper=upper)


def marked(tables, *levels, dirty=False):
    """The entries of VA on these levels with A set, and D too in the last where it is dirty."""
    places = [tables.entry_pa(VA, level) for level in levels]
    words = {place: tables.words[place] | A for place in places}
    if dirty:
        words[places[-1]] |= D
    return tuple(sorted(words.items()))


def down_to(leaf, levels):
    return range(levels, leaf - 1, -1)


@PAGES
@pytest.mark.parametrize("cpl", [0, 3])
def test_reads_and_fetches_set_a_on_every_level(levels, leaf, cpl):
    tables = page(levels, leaf)
    expected = marked(tables, *down_to(leaf, levels))

    assert levels - leaf + 1 == len(expected)
    assert expected == tables.ask(VA, READ, cpl).entries
    assert expected == tables.ask(VA, EXECUTE, cpl).entries


@PAGES
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_write_sets_d_on_the_leaf_as_well(levels, leaf, cpl):
    tables = page(levels, leaf)
    assert marked(tables, *down_to(leaf, levels), dirty=True) == tables.ask(VA, WRITE, cpl).entries


@PAGES
def test_flags_that_are_set_are_not_set_again(levels, leaf):
    used = page(levels, leaf, USED, USED)

    assert () == used.ask(VA, READ).entries
    assert marked(used, leaf, dirty=True) == used.ask(VA, WRITE).entries
    assert () == page(levels, leaf, USED | D, USED).ask(VA, WRITE).entries


@PAGES
def test_a_dirty_leaf_that_was_not_accessed_gets_a_alone(levels, leaf):
    tables = page(levels, leaf, OPEN | D, USED)
    assert marked(tables, leaf) == tables.ask(VA, READ).entries
    assert marked(tables, leaf) == tables.ask(VA, WRITE).entries


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_one_level_without_a_is_the_only_one_that_changes(level):
    tables = page(5, 1, USED | D, USED).change(VA, level, drop=A)
    assert marked(tables, level) == tables.ask(VA, WRITE).entries


def test_a_supervisor_write_that_wp_lets_through_dirties_a_read_only_page():
    tables = page(flags=P, upper=USED)
    assert marked(tables, 1, dirty=True) == tables.ask(VA, WRITE, wp=False).entries


def test_changed_words_come_by_address_not_by_level():
    tables = PageTables()
    tables.entries = {0x9000: 0x3003, 0x3000: 0x8003, 0x8000: 0x2003, 0x2000: 0x7003}
    assert ((0x2000, 0x7063), (0x3000, 0x8023), (0x8000, 0x2023), (0x9000, 0x3023)) == tables.ask(
        0, WRITE, root=0x9000
    ).entries


@PAGES
def test_an_absent_leaf_may_set_a_in_the_levels_above(levels, leaf):
    tables = page(levels, leaf).change(VA, leaf, drop=P)
    assert marked(tables, *down_to(leaf + 1, levels)) == tables.ask(VA, WRITE, 3).entries


@PAGES
def test_a_reserved_bit_may_set_a_in_the_levels_above(levels, leaf):
    tables = page(levels, leaf).change(VA, leaf, add=1 << 51)
    assert marked(tables, *down_to(leaf + 1, levels)) == tables.ask(VA, WRITE, 3).entries


@PAGES
def test_missing_rights_may_set_a_in_all_levels_and_d_in_none(levels, leaf):
    for level in range(leaf, levels + 1):
        tables = page(levels, leaf).change(VA, level, drop=RW | US)
        expected = marked(tables, *down_to(leaf, levels))
        assert (7, expected) == (
            tables.ask(VA, WRITE, 3).error_code,
            tables.ask(VA, WRITE, 3).entries,
        )


@pytest.mark.parametrize("level", [2, 3, 4])
def test_the_levels_below_the_one_that_faults_stay_as_they_are(level):
    for wrong in ({"drop": P}, {"add": 1 << 51}):
        tables = page().change(VA, level, **wrong)
        assert marked(tables, *down_to(level + 1, 4)) == tables.ask(VA).entries


def test_a_in_the_levels_above_a_fault_is_reported_only_where_it_was_clear():
    tables = page(upper=USED).change(VA, 1, drop=P).change(VA, 3, drop=A)
    assert marked(tables, 3) == tables.ask(VA).entries


def test_a_table_outside_ram_may_set_a_in_the_entry_that_names_it():
    tables = page().change(VA, 2, add=0x80_0000_0000)
    assert marked(tables, 4, 3, 2) == tables.ask(VA).entries


def test_an_absent_root_entry_and_a_non_canonical_address_set_nothing():
    assert () == page().ask(0).entries
    assert GeneralProtection(()) == page().ask(1 << 47, WRITE)


@pytest.mark.parametrize("flags", [OPEN, USED])
def test_an_entry_used_on_all_levels_changes_once(flags):
    tables = PageTables()
    tables.entries = {SELF: ROOT | flags}
    va = linear(510, 510, 510, 510)

    changed = ((SELF, ROOT | USED),)
    assert (() if flags & A else changed) == tables.ask(va, READ).entries
    assert ((SELF, ROOT | USED | D),) == tables.ask(va, WRITE).entries
    assert ((SELF, ROOT | USED | D),) == tables.ask(va, WRITE, 3).entries


def test_an_entry_used_above_and_as_leaf_may_get_a_even_where_rights_are_missing():
    tables = PageTables()
    tables.entries = {SELF: ROOT | P | RW}

    outcome = tables.ask(linear(510, 510, 510, 510), WRITE, 3)
    assert (7, ((SELF, ROOT | P | RW | A),)) == (outcome.error_code, outcome.entries)


def test_a_leaf_that_lies_in_a_table_of_the_walk_changes_beside_the_others():
    tables = PageTables().map(0, 0x5000)
    tables.words[SELF] = ROOT | OPEN
    first = tables.words[ROOT]

    outcome = tables.ask(linear(510, 510, 510, 0), WRITE)
    assert ((ROOT, first | A | D), (SELF, ROOT | USED)) == outcome.entries
    assert first & ~0xFFF & TOP - 1 == outcome.pa
