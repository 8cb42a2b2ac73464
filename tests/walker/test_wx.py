import pytest

from crosswalk.walker import Rights, collective_rights, writable_and_executable
from tests.tables import KIB4, RW, US, USED, XD, CountingMemory, P, PageTables, chain, context


def violations(tables, *, aliases=8, **switches):
    found = context(**switches)
    frames = collective_rights(tables.memory, found)
    return writable_and_executable(tables.memory, found, frames, aliases=aliases)


def test_frames_that_are_both_are_named_with_who_writes_and_who_executes():
    tables = PageTables().map(0, 0x5000, P | RW | XD).map(KIB4, 0x5000, P)
    tables.map(2 * KIB4, 0x6000, P | RW | XD).map(3 * KIB4, 0x7000, P | US)
    tables.map(4 * KIB4, 0x9000, P | RW)

    alias, open_page = violations(tables)
    assert (0x5000, KIB4, "rwx") == (alias.pa, alias.size, alias.rights.supervisor)
    assert ([0], [KIB4]) == ([it.va for it in alias.writers], [it.va for it in alias.executors])
    assert (0x9000, [4 * KIB4]) == (open_page.pa, [it.va for it in open_page.writers])
    assert open_page.writers == open_page.executors
    assert alias.within_one_privilege


def test_write_by_one_privilege_and_execute_by_the_other_is_both_but_not_within_one():
    tables = PageTables().map(0, 0x5000, P | RW | XD).map(KIB4, 0x5000, P | US)

    (alias,) = violations(tables, smep=True)
    assert ("rw-", "r-x") == (alias.rights.supervisor, alias.rights.user)
    assert not alias.within_one_privilege
    assert ([0], [KIB4]) == ([it.va for it in alias.writers], [it.va for it in alias.executors])


@pytest.mark.parametrize(("switches", "count"), [({}, 0), ({"wp": False}, 1)])
def test_without_wp_whatever_the_supervisor_executes_is_both(switches, count):
    assert count == len(violations(PageTables().map(0, 0x5000, P), **switches))


@pytest.mark.parametrize("aliases", [0, 1, 2, 3, 9])
def test_no_more_aliases_are_named_than_asked_for(aliases):
    tables = PageTables()
    for at in range(3):
        tables.map(at * KIB4, 0x5000, P | RW | XD).map((8 + at) * KIB4, 0x5000, P)

    (found,) = violations(tables, aliases=aliases)
    assert [0, KIB4, 2 * KIB4][:aliases] == [it.va for it in found.writers]
    assert [8 * KIB4, 9 * KIB4, 10 * KIB4][:aliases] == [it.va for it in found.executors]


def test_more_violations_than_questions_at_once_are_all_named():
    tables = PageTables()
    for at in range(100):
        tables.map(at * KIB4, 0x10_0000 + 2 * at * KIB4, P | RW)

    found = violations(tables)
    assert [0x10_0000 + 2 * at * KIB4 for at in range(100)] == [it.pa for it in found]
    assert [at * KIB4 for at in range(100)] == [it.writers[0].va for it in found]
    assert [1] * 100 == [len(it.executors) for it in found]


def test_a_bomb_that_is_both_is_named_at_the_cost_of_its_tables():
    counting, found = CountingMemory(chain(4, 0x5000 | USED)), context()
    frames = collective_rights(counting, found)

    (bomb,) = writable_and_executable(counting, found, frames, aliases=5)
    assert [at * KIB4 for at in range(5)] == [it.va for it in bomb.writers]
    assert Rights(63) == bomb.rights
    assert counting.read_tables <= 4 * 5


def test_where_nothing_is_both_nothing_is_named():
    tables = PageTables().map(0, 0x5000, P | RW | XD).map(KIB4, 0x6000, P)
    assert [] == violations(tables)
