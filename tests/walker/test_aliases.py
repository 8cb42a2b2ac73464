from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosswalk.walker import (
    Aliases,
    AliasQuery,
    Rights,
    SparseWords,
    aliases,
    mappings,
    mappings_of,
    states,
)
from tests.random_tables import extended_tables
from tests.tables import (
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    ROOT,
    RW,
    US,
    USED,
    XD,
    CountingMemory,
    P,
    PageTables,
    chain,
    context,
    linear,
)

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mapped(tables, start, size):
    return [page.va for page in mappings_of(tables.memory, context(), start, size)]


@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [
        (0x4020_0000, 1, [0, GIB1]),
        (0x4020_0000 - 1, 1, [0]),
        (0x4020_0000 - 1, 2, [0, GIB1]),
        (0x403F_FFFF, 1, [0, GIB1]),
        (0x4040_0000, 1, [0]),
        (0x4000_0000 - 1, 1, []),
        (0x7FFF_FFFF, 1, [0]),
        (0x8000_0000, 1, []),
        (0x5000, KIB4, [2 * GIB1, linear(511, 0, 0, 0)]),
        (0x5FFF, 2, [2 * GIB1, linear(511, 0, 0, 0)]),
        (0x6000, KIB4, []),
        (0, 1 << 52, [0, GIB1, 2 * GIB1, linear(511, 0, 0, 0)]),
        (0, 1 << 64, [0, GIB1, 2 * GIB1, linear(511, 0, 0, 0)]),
    ],
)
def test_the_mappings_of_a_physical_range_are_those_that_reach_it(start, size, expected):
    tables = PageTables().map(0, 0x4000_0000, OPEN | PS, level=3)
    tables.map(GIB1, 0x4020_0000, OPEN | PS, level=2)
    tables.map(2 * GIB1, 0x5000).map(linear(511, 0, 0, 0), 0x5000, P)
    assert expected == mapped(tables, start, size)


@pytest.mark.parametrize("start", [0x5000, 0x5001, 0x5FFF, 0x6000])
def test_no_mapping_reaches_an_empty_physical_range(start):
    assert [] == mapped(PageTables().map(0, 0x5000), start, 0)


@QUICK
@given(tables=extended_tables(most=3), number=st.integers(0, 2**20), size=st.integers(1, 3 * MIB2))
def test_the_mappings_of_a_range_are_chosen_from_all_mappings(tables, number, size):
    pages = list(mappings(tables.memory, tables.context))
    start = pages[number % len(pages)].pa + number - 2**19 if pages else number
    start = max(start, 0)
    expected = [it for it in pages if it.pa < start + size and it.pa + it.size > start]

    assert expected == list(mappings_of(tables.memory, tables.context, start, size))


def questions_about(pages, numbers):
    """Ranges near the pages there are, with rights or without, as the numbers choose."""
    for number in numbers:
        pa = pages[number % len(pages)].pa if pages else 0
        rights = Rights(number >> 5 & 63) if number & 16 else None
        yield AliasQuery(max(pa + number - 2**19, 0), 1 + number * 7 % MIB2, rights)


@QUICK
@given(
    tables=extended_tables(most=3),
    numbers=st.lists(st.integers(0, 2**20), min_size=1, max_size=5),
    block=st.sampled_from((1, 2, 3, 1024)),
)
def test_each_question_is_answered_from_all_mappings(tables, numbers, block):
    pages = list(mappings(tables.memory, tables.context))
    questions = list(questions_about(pages, numbers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "BLOCK", block)
        patch.setattr(aliases, "BLOCK", block)
        found = Aliases(tables.memory, tables.context, questions)
        for number, asked in enumerate(questions):
            end = asked.pa + asked.size
            assert [
                it
                for it in pages
                if it.pa < end
                and it.pa + it.size > asked.pa
                and (asked.rights is None or it.rights & asked.rights)
            ] == list(found.find(number))


def test_rights_choose_among_the_mappings_of_a_frame():
    tables = PageTables().map(0, 0x5000, P | RW | XD).map(KIB4, 0x5000, P | US)
    asked = [
        AliasQuery(0x5000, 1, rights)
        for rights in (
            None,
            Rights.SUPERVISOR_WRITE,
            Rights.SUPERVISOR_EXECUTE,
            Rights.USER_EXECUTE | Rights.SUPERVISOR_WRITE,
            Rights.USER_WRITE,
        )
    ]
    found = Aliases(tables.memory, context(), asked)
    expected = [[0, KIB4], [0], [KIB4], [0, KIB4], []]
    assert expected == [[it.va for it in found.find(number)] for number in range(5)]


def test_as_many_questions_as_a_word_has_bits_can_be_asked_at_once():
    tables = PageTables()
    for at in range(64):
        tables.map(at * KIB4, 0x10_0000 + at * KIB4)
    asked = [AliasQuery(0x10_0000 + at * KIB4, KIB4) for at in range(64)]

    found = Aliases(tables.memory, context(), asked)
    assert [[at * KIB4] for at in range(64)] == [
        [it.va for it in found.find(at)] for at in range(64)
    ]
    with pytest.raises(ValueError, match="65 queries"):
        Aliases(tables.memory, context(), [*asked, asked[0]])


@pytest.mark.parametrize("levels", [4, 5])
def test_the_aliases_in_a_bomb_cost_its_tables_and_what_is_asked_for(levels):
    counting = CountingMemory(chain(levels, 0x5000 | USED))
    found = mappings_of(counting, context(levels), 0x5000, 1)

    assert [at * KIB4 for at in range(1000)] == [it.va for it in islice(found, 1000)]
    assert counting.read_tables <= 3 * levels + 1


@pytest.mark.parametrize("levels", [4, 5])
def test_a_frame_that_a_bomb_does_not_map_is_soon_known(levels):
    counting = CountingMemory(chain(levels, 0x5000 | USED))
    assert [] == list(mappings_of(counting, context(levels), 0x6000, KIB4))
    assert counting.read_tables <= 2 * levels


def test_the_only_alias_in_a_bomb_is_found_without_a_search():
    # All entries of every table are the table itself, but one that can only be a page.
    words = {ROOT + 8 * at: ROOT | USED for at in range(512)}
    words[ROOT + 8 * 300] = 0x5000 | USED
    counting = CountingMemory(SparseWords([(ROOT, KIB4)], words))

    first = [it.va for it in islice(mappings_of(counting, context(), 0x5000, 1), 3)]
    assert [linear(0, 0, at, 300) for at in (0, 1, 2)] == first
    # Root 1, then two a level: the table and, taken for one, the page. Each twice, and six named.
    assert counting.read_tables <= 2 * 7 + 6


def test_nothing_is_mapped_in_an_empty_address_space():
    empty = SparseWords([(ROOT, KIB4)], {})
    assert [] == list(mappings_of(empty, context(), 0, 1 << 52))
