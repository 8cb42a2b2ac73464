from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from crosswalk.walker import Rights, SparseWords, frames, leaves, mappings
from crosswalk.walker import mapped_tables as module
from crosswalk.walker.mapped_tables import mapped_tables, table_names, writable_tables
from crosswalk.walker.rights import WRITES
from tests.random_tables import extended_tables
from tests.tables import (
    ADDRESS,
    GIB1,
    KIB4,
    MIB2,
    MODES,
    OPEN,
    PS,
    ROOT,
    RW,
    US,
    USED,
    CountingMemory,
    P,
    PageTables,
    chain,
    context,
)
from tests.walker import naive

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEARCH = settings(max_examples=50_000, deadline=None, database=None, phases=[Phase.generate])

USER, SUPERVISOR = Rights.USER_WRITE, Rights.SUPERVISOR_WRITE


@st.composite
def tables_of_several_roots(draw):
    """Tables, and contexts of one to three roots that lie anywhere among them."""
    tables = draw(extended_tables(most=3))
    chosen = draw(st.lists(st.sampled_from(tables.frames), max_size=2))
    others = [tables.context.cr3 & ~ADDRESS | root for root in chosen]
    return tables, [tables.context, *(replace(tables.context, cr3=cr3) for cr3 in others)]


def naive_tables(tables, contexts):
    """The rows of `MappedTables` as tuples: one table, and one mapping, after the other."""
    where, pages = defaultdict(list), []
    for each in contexts:
        spaces = replace(tables, context=each)
        mode = MODES[naive.mode_of(each)]
        for level, table, va in naive.distinct(spaces):
            size = mode.count(level) << mode.shifts[level]
            where[table & -KIB4].append((-level, naive.canonical(each, va), size))
        pages += mappings(tables.memory, each)
    for frame, found in sorted(where.items()):
        _, va, size = min(found)
        levels = {-level for level, _, _ in found}
        rights = [it.rights for it in pages if it.pa <= frame < it.pa + it.size]
        either = sum(bit for bit in Rights if any(bit & each for each in rights))
        yield frame, sum(1 << level for level in levels), va, size, either


def rows(found):
    columns = (found.pa, found.levels, found.va, found.size, found.rights)
    return list(zip(*(it.tolist() for it in columns), strict=True))


@QUICK
@given(drawn=tables_of_several_roots())
def test_tables_have_the_rights_of_all_mappings_of_their_frames(drawn):
    tables, contexts = drawn
    expected = list(naive_tables(tables, contexts))
    assert expected == rows(mapped_tables(tables.memory, contexts))


@QUICK
@given(drawn=tables_of_several_roots(), how=st.sampled_from((WRITES, USER, SUPERVISOR)))
def test_the_mappings_that_write_a_table_are_chosen_from_all_mappings(drawn, how):
    tables, contexts = drawn
    pages = {
        (it.va, it.pa, it.size, it.flags)
        for each in contexts
        for it in mappings(tables.memory, each)
        if it.rights & how
    }
    expected = [row for row in naive_tables(tables, contexts) if row[4] & how]

    found = mapped_tables(tables.memory, contexts)
    written = list(writable_tables(tables.memory, contexts, found, how, aliases=2**10))
    assert expected == [(it.pa, it.levels, it.va, it.size, it.rights) for it in written]
    for each in written:
        here = {it for it in pages if it[1] <= each.pa < it[1] + it[2]}
        assert here == {(it.va, it.pa, it.size, it.flags) for it in each.writers}


def rights_of_the_neighbour(original):
    def planted(self, pa):
        return original(self, pa + KIB4)

    return planted


def roots_forgotten(original):
    def planted(memory, context, roots):
        every = original(memory, context, roots)
        next(every)
        return every

    return planted


def the_last_address(original):
    def planted(tables):
        return original(replace(tables, va=~tables.va))

    return planted


@pytest.mark.parametrize(
    ("where", "rule", "plant"),
    [
        (frames.Frames, "rights_at", rights_of_the_neighbour),
        (module, "distinct_tables", roots_forgotten),
        (leaves, "_lowest", the_last_address),
    ],
    ids=["rights of the neighbour", "roots forgotten", "the last address"],
)
def test_a_rule_that_the_verdict_on_tables_breaks_is_found(where, rule, plant, monkeypatch):
    def wrong(drawn):
        tables, contexts = drawn
        expected = list(naive_tables(tables, contexts))
        return expected != rows(mapped_tables(tables.memory, contexts))

    monkeypatch.setattr(where, rule, plant(getattr(where, rule)))
    drawn = find(tables_of_several_roots(), wrong, settings=SEARCH)

    monkeypatch.undo()
    assert not wrong(drawn)


def test_a_table_that_user_mode_may_write_is_told_from_one_that_the_supervisor_may():
    tables = PageTables().map(0, 0x80_0000)
    root, page_table = ROOT, tables.entry_pa(0, 1) & -KIB4
    tables.map(KIB4, page_table, P | RW | US).map(2 * KIB4, root, P | RW)
    tables.map(3 * KIB4, tables.entry_pa(0, 2) & -KIB4, P | US)
    found = mapped_tables(tables.memory, context())

    def named(how):
        written = writable_tables(tables.memory, context(), found, how, aliases=4)
        return [(it.pa, table_names(it.levels), [w.va for w in it.writers]) for it in written]

    assert 4 == len(found)
    assert [(page_table, ["PT"], [KIB4])] == named(USER)
    assert [(root, ["PML4"], [2 * KIB4]), (page_table, ["PT"], [KIB4])] == named(WRITES)


def test_a_table_is_named_with_what_it_translates():
    tables = PageTables().map(GIB1 + MIB2, 0x80_0000)
    found = mapped_tables(tables.memory, context())
    expected = [
        ("PML4", 0, 1 << 48),
        ("PDPT", 0, 1 << 39),
        ("PD", GIB1, GIB1),
        ("PT", GIB1 + MIB2, MIB2),
    ]
    names = [table_names(levels)[0] for levels in found.levels.tolist()]
    assert expected == list(zip(names, found.va.tolist(), found.size.tolist(), strict=True))


def test_a_frame_that_is_a_table_of_several_levels_has_all_their_names():
    recursive = PageTables()
    recursive.entries[ROOT + 8 * 511] = ROOT | USED
    found = mapped_tables(recursive.memory, context())

    assert [ROOT] == found.pa.tolist()
    assert ["PML4", "PDPT", "PD", "PT"] == table_names(int(found.levels[0]))
    assert Rights(63) == Rights(int(found.rights[0]))


def test_a_large_page_over_a_table_writes_it():
    tables = PageTables().map(0, 0x80_0000).map(GIB1, 0, P | RW | PS, level=3)
    found = mapped_tables(tables.memory, context())
    assert {SUPERVISOR} == {Rights(each) & WRITES for each in found.rights.tolist()}


def test_a_table_outside_memory_is_one_all_the_same():
    tables = PageTables(ram=[(0, 0x10000)])
    tables.map(0, 0x5000).map(KIB4, 0x9_0000).map(GIB1, 0x5000)
    tables.entries[tables.entry_pa(GIB1, 3)] = 0x9_0000 | USED
    found = mapped_tables(tables.memory, context())

    (written,) = writable_tables(tables.memory, context(), found, USER, aliases=4)
    assert (0x9_0000, ["PD"], [KIB4]) == (
        written.pa,
        table_names(written.levels),
        [it.va for it in written.writers],
    )


def test_without_a_mapping_of_tables_all_are_unmapped():
    found = mapped_tables(PageTables().map(0, 0x80_0000).memory, context())
    assert [0] * 4 == found.rights.tolist()
    empty = mapped_tables(SparseWords([(ROOT, KIB4)], {}), [])
    assert 0 == len(empty)


def test_a_bomb_of_its_own_tables_costs_those():
    counting = CountingMemory(chain(1, ROOT | USED))
    found = mapped_tables(counting, context())
    (bomb,) = writable_tables(counting, context(), found, aliases=3)

    assert 3 == len(bomb.writers)
    assert counting.read_tables <= 4 * 8


def test_more_tables_than_questions_at_once_are_all_named():
    tables = PageTables(ram=((0, 1 << 24),))
    for at in range(70):
        tables.map(at * MIB2, at * KIB4, OPEN)
    every = [frame for frame in range(ROOT, ROOT + 73 * KIB4, KIB4) if frame < 70 * KIB4]
    found = mapped_tables(tables.memory, context())

    written = list(writable_tables(tables.memory, context(), found, USER, aliases=1))
    assert every == [it.pa for it in written]
    assert [frame // KIB4 * MIB2 for frame in every] == [it.writers[0].va for it in written]
