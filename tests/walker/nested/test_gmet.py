"""AMD's guest-mode execute trap: U/S of nested entries decides who executes, and nothing else.

No emulator or judge has it, so that these rules are predicted only.
"""

from itertools import product

import pytest

from crosswalk.walker import Access, Rights, Translation
from crosswalk.walker.nested import NestedContext, NestedPageFault, translate_nested
from tests.tables import (
    EXECUTE,
    KIB4,
    NCR3,
    OPEN,
    READ,
    ROOT,
    RW,
    US,
    WRITE,
    XD,
    NestedPageTables,
    P,
    PageTables,
    context,
)

VA, GPA = 0x1234_5678_9000, 0x9000
TABLES = [ROOT + at * KIB4 for at in range(4)]
TABLE, FINAL, USER = 1 << 33, 1 << 32, 4


@pytest.fixture
def space():
    return NestedPageTables(PageTables().map(VA, GPA)).map_all([*TABLES, GPA])


def ask(space, access, cpl, *, gmet=True, nxe=True):
    host = context(root=NCR3, nxe=nxe)
    nested = NestedContext(context(), host, gmet=gmet)
    return translate_nested(space.memory, nested, Access(VA, access, cpl))


@pytest.mark.parametrize("drop", [0, US])
@pytest.mark.parametrize(("access", "cpl"), [*product((READ, WRITE), (0, 3))])
def test_data_is_reached_whatever_u_s_is(space, drop, access, cpl):
    space.host.change(GPA, drop=drop)
    assert 0x40_9000 == ask(space, access, cpl).pa
    # Without GMET every access is a user's.
    assert (drop == 0) == isinstance(ask(space, access, cpl, gmet=False), Translation)


@pytest.mark.parametrize("user", [True, False])
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("no_execute", [True, False])
def test_a_users_page_is_no_code_of_the_supervisors_and_any_other_is_everyones(
    space, user, cpl, no_execute
):
    space.host.change(GPA, add=XD if no_execute else 0, drop=0 if user else US)
    outcome = ask(space, EXECUTE, cpl)
    if no_execute or (user and cpl == 0):
        undefined = 0 if cpl == 3 else USER
        expected = FINAL | 0x15, undefined, GPA
        assert expected == (outcome.error_code, outcome.open, outcome.gpa)
    else:
        assert 0x40_9000 == outcome.pa


def test_a_page_is_a_users_if_u_is_set_at_all_levels(space):
    gpa = 1 << 39 | 0x5000
    space.host.map(gpa, 0x5000)
    space.guest.map(VA, gpa)
    assert isinstance(ask(space, EXECUTE, 0), NestedPageFault)
    for level in (1, 2, 3, 4):
        space.host.change(gpa, level, drop=US)
        assert 0x5000 == ask(space, EXECUTE, 0).pa
        space.host.change(gpa, level, add=US)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_guest_table_needs_w_and_not_u(space, at, cpl):
    space.host.change(TABLES[at], drop=US)
    assert 0x40_9000 == ask(space, READ, cpl).pa
    assert TABLE | 7 == ask(space, READ, cpl, gmet=False).error_code
    space.host.change(TABLES[at], drop=RW)
    outcome = ask(space, READ, cpl)
    assert (TABLE | 7, USER) == (outcome.error_code, outcome.open)


@pytest.mark.parametrize(("cpl", "undefined"), [(0, USER), (3, 0)])
def test_w_and_presence_count_as_ever(space, cpl, undefined):
    space.host.change(GPA, drop=RW)
    outcome = ask(space, WRITE, cpl)
    assert (FINAL | 7, undefined) == (outcome.error_code, outcome.open)
    space.host.change(GPA, drop=P)
    outcome = ask(space, READ, cpl)
    assert (FINAL | 4, undefined) == (outcome.error_code, outcome.open)
    space.host.change(GPA, add=P | 1 << 45)
    assert FINAL | 0xD == ask(space, READ, cpl).error_code


def test_without_nxe_i_d_is_open_too(space):
    outcome = ask(space, EXECUTE, 0, nxe=False)
    assert (FINAL | 5, USER | 0x10) == (outcome.error_code, outcome.open)


@pytest.mark.parametrize(
    ("flags", "left"), [(OPEN, 0b111011), (OPEN & ~US, 0b111111), (OPEN | XD, 0b011011)]
)
def test_rights_are_what_both_leave(space, flags, left):
    space.host.change(GPA, drop=OPEN, add=flags)
    assert Rights(left) == ask(space, READ, 0).rights


def test_what_is_set_in_entries_doesnt_change(space):
    for access, cpl in product((READ, WRITE), (0, 3)):
        assert ask(space, access, cpl, gmet=False) != ask(space, EXECUTE, cpl)
        with_it, without = (ask(space, access, cpl, gmet=it).entries for it in (True, False))
        assert without == with_it
