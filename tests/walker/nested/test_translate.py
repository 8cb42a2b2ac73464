"""The walk in two dimensions on tables built by hand (AMD APM vol. 2, "Nested Paging")."""

import pytest

from crosswalk.walker import BadInput, GeneralProtection, PageFault, PagingContext, Rights, Vendor
from crosswalk.walker.nested import NestedContext, NestedPageFault
from tests.tables import (
    EXECUTE,
    KIB4,
    MIB2,
    NCR3,
    OPEN,
    PS,
    READ,
    ROOT,
    RW,
    US,
    WRITE,
    XD,
    A,
    D,
    G,
    NestedPageTables,
    P,
    PageTables,
    context,
)

VA = 0x0000_1234_5678_9000
GPA = 0x9000
TABLE, FINAL = 1 << 33, 1 << 32
TABLES = [ROOT + at * KIB4 for at in range(4)]
"""The guest's PML4, PDPT, PD and PT, guest-physical."""


def open_space(flags=OPEN, levels=4):
    guest = PageTables(levels).map(VA, GPA, flags)
    tables = [ROOT + at * KIB4 for at in range(levels)]
    return NestedPageTables(guest).map_all([*tables, GPA])


@pytest.fixture
def space():
    return open_space()


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("offset", [0, 0xABC, 0xFFF])
def test_a_page_is_where_the_nested_tables_have_the_guests_page(levels, offset):
    outcome = open_space(levels=levels).ask(VA + offset)
    assert (0x40_9000 + offset, KIB4, Rights(63)) == (
        outcome.pa,
        outcome.page_size,
        outcome.rights,
    )


def test_a_walk_has_a_nested_walk_for_each_guest_table_and_the_page(space):
    found = space.walk(VA + 0x10)

    places = [space.guest.entry_pa(VA, level) for level in (4, 3, 2, 1)]
    assert places == [each.gpa for each in found.tables]
    assert [place + 0x40_0000 for place in places] == [each.pa for each in found.tables]
    assert [each.pa for each in found.tables] == [each.step.pa for each in found.tables]
    assert (GPA + 0x10, 0x40_9010) == (found.page.gpa, found.page.pa)
    for passage in (*found.tables, found.page):
        assert [4, 3, 2, 1] == [step.level for step in passage.path.steps]
        assert NCR3 == passage.path.steps[0].pa
    # 4 entries for each of 5 addresses, of which 3 are the same each time, and 4 of the guest's.
    assert 3 + 5 + 4 == len(found.words)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("access", [READ, WRITE, EXECUTE])
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize(
    ("add", "drop", "code"),
    [(0, P, 6), (0, US, 7), (0, RW, 7), (1 << 45, 0, 0xF), (0, P | RW | US, 6)],
)
def test_a_guest_table_is_read_as_a_users_write(space, at, access, cpl, add, drop, code):
    space.host.change(TABLES[at], add=add, drop=drop)
    gpa = space.guest.entry_pa(VA, 4 - at)
    outcome = space.ask(VA, access, cpl)
    assert (NestedPageFault, TABLE | code, gpa) == (
        type(outcome),
        outcome.error_code,
        outcome.gpa,
    )
    assert at + 1 == len(space.walk(VA).tables)


@pytest.mark.parametrize("access", [READ, WRITE, EXECUTE])
def test_a_guest_table_need_not_be_executable(space, access):
    for table in TABLES:
        space.host.change(table, add=XD)
    assert 0x40_9000 == space.ask(VA, access).pa


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize(
    ("access", "add", "drop", "code"),
    [
        (READ, 0, P, 4),
        (READ, 0, US, 5),
        (READ, 1 << 45, 0, 0xD),
        (READ, XD, RW, None),
        (WRITE, 0, P, 6),
        (WRITE, 0, US, 7),
        (WRITE, 0, RW, 7),
        (WRITE, 1 << 45, 0, 0xF),
        (WRITE, XD, 0, None),
        (EXECUTE, 0, P, 0x14),
        (EXECUTE, 0, US, 0x15),
        (EXECUTE, XD, 0, 0x15),
        (EXECUTE, 1 << 45, 0, 0x1D),
        (EXECUTE, 0, RW, None),
    ],
)
@pytest.mark.parametrize("wp", [True, False])
def test_the_page_is_reached_as_a_user_whoever_asks(space, cpl, access, add, drop, code, wp):
    space.host.change(GPA, add=add, drop=drop)
    outcome = space.ask(VA + 8, access, cpl, wp=wp)
    if code is None:
        assert 0x40_9008 == outcome.pa
    else:
        assert (FINAL | code, GPA + 8) == (outcome.error_code, outcome.gpa)


def test_without_the_hosts_nxe_bit_63_of_a_nested_entry_is_reserved(space):
    space.host.change(GPA, add=XD)
    without = context(root=NCR3, nxe=False)
    for access, code in ((READ, 0xD), (WRITE, 0xF), (EXECUTE, 0xD)):
        outcome = space.ask(VA, access, host=without)
        assert (FINAL | code, 16 if access is EXECUTE else 0) == (outcome.error_code, outcome.open)
    # The guest's own NXE has no say.
    assert FINAL | 0x15 == space.ask(VA, EXECUTE, nxe=False).error_code
    space.host.change(GPA, drop=P)
    assert FINAL | 4 == space.ask(VA, EXECUTE, host=without).error_code


def test_the_hosts_protections_restrict_nothing(space):
    strict = context(root=NCR3, smep=True, smap=True, pke=True, pkru=0xFFFF_FFFF)
    for access in (READ, WRITE, EXECUTE):
        assert 0x40_9000 == space.ask(VA, access, host=strict).pa


def test_bit_8_of_an_upper_nested_entry_is_reserved_on_amd_processors(space):
    space.host.change(GPA, 4, add=G)
    amd = context(root=NCR3, vendor=Vendor.AMD)
    outcome = space.ask(VA, host=amd)
    assert (TABLE | 0xF, space.guest.entry_pa(VA, 4)) == (outcome.error_code, outcome.gpa)
    assert 0x40_9000 == space.ask(VA).pa


@pytest.mark.parametrize(("access", "cpl", "code"), [(WRITE, 0, 3), (READ, 3, 5), (EXECUTE, 0, 17)])
def test_the_guests_refusal_comes_before_the_nested_walk_of_the_page(access, cpl, code):
    space = open_space(P | XD)
    space.host.change(GPA, drop=P)
    assert (code, VA) == (space.ask(VA, access, cpl).error_code, space.ask(VA, access, cpl).cr2)


@pytest.mark.parametrize("at", range(1, 4))
def test_a_nested_fault_on_the_way_comes_before_what_the_guest_entry_says(space, at):
    space.guest.change(VA, 4 - at, drop=P)
    assert PageFault(0, VA) == type(space.ask(VA))(space.ask(VA).error_code, space.ask(VA).cr2)
    space.host.change(TABLES[at], drop=P)
    assert TABLE | 6 == space.ask(VA).error_code


def test_the_guest_entry_comes_before_the_nested_walk_of_the_next_table(space):
    space.guest.change(VA, 3, add=1 << 45)
    space.host.change(TABLES[2], drop=P)
    outcome = space.ask(VA, WRITE, 3)
    assert (PageFault, 0xF) == (type(outcome), outcome.error_code)


def test_an_address_that_is_not_canonical_needs_no_tables(space):
    space.host.entries.clear()
    assert GeneralProtection() == space.ask(1 << 47)
    assert ((), None) == (space.walk(1 << 47).tables, space.walk(1 << 47).page)


def test_all_entries_used_are_marked_and_those_of_tables_as_written(space):
    outcome = space.ask(VA)

    words = space.words
    guest = [space.guest.entry_pa(VA, level) + 0x40_0000 for level in (4, 3, 2, 1)]
    upper = [space.host.entry_pa(GPA, level) for level in (4, 3, 2)]
    tables = [space.host.entry_pa(table) for table in TABLES]
    marks = dict.fromkeys([*guest, *upper, space.host.entry_pa(GPA)], A) | dict.fromkeys(
        tables, A | D
    )
    assert tuple(sorted((pa, words[pa] | bits) for pa, bits in marks.items())) == outcome.entries

    marks |= {guest[3]: A | D, space.host.entry_pa(GPA): A | D}
    expected = tuple(sorted((pa, words[pa] | bits) for pa, bits in marks.items()))
    assert expected == space.ask(VA, WRITE).entries


@pytest.mark.parametrize(("drop", "may_be"), [(P, False), (RW, True)])
def test_a_refused_page_may_mark_its_own_nested_leaf_where_that_denies(space, drop, may_be):
    space.host.change(GPA, drop=drop)
    outcome = space.ask(VA, WRITE)
    may = dict(outcome.entries)
    expected = space.words[space.host.entry_pa(GPA)] | A if may_be else None
    assert expected == may.get(space.host.entry_pa(GPA))
    leaf = space.guest.entry_pa(VA, 1) + 0x40_0000
    assert space.words[leaf] | A | D == may[leaf]
    assert (
        space.words[space.host.entry_pa(TABLES[3])] | A | D == may[space.host.entry_pa(TABLES[3])]
    )


def test_where_a_page_is_refused_its_nested_entries_may_be_marked():
    gpa = 1 << 39 | 1 << 30 | 1 << 21 | 0x5000  # Shares no nested entry with the guest's tables.
    space = NestedPageTables(PageTables().map(VA, gpa)).map_all(TABLES)
    space.host.map(gpa, 0x5000, OPEN & ~RW)
    outcome = space.ask(VA, WRITE)
    assert (FINAL | 7, gpa) == (outcome.error_code, outcome.gpa)

    words = space.words
    guest = [space.guest.entry_pa(VA, level) + 0x40_0000 for level in (4, 3, 2, 1)]
    upper = [space.host.entry_pa(at, level) for at in (ROOT, gpa) for level in (4, 3, 2)]
    marks = dict.fromkeys([*guest, *upper, space.host.entry_pa(gpa)], A) | {guest[3]: A | D}
    marks |= dict.fromkeys([space.host.entry_pa(table) for table in TABLES], A | D)
    assert tuple(sorted((pa, words[pa] | bits) for pa, bits in marks.items())) == outcome.entries


@pytest.mark.parametrize(("flags", "levels"), [(0, (4, 3, 2)), (P, (4, 3, 2, 1))])
def test_a_guest_fault_may_mark_what_the_walk_used_and_a_leaf_that_denies(flags, levels):
    space = open_space(flags)
    may = dict(space.ask(VA, WRITE).entries)
    guest = [space.guest.entry_pa(VA, level) + 0x40_0000 for level in (4, 3, 2, 1)]
    assert guest[: len(levels)] == [pa for pa in guest if pa in may]
    for table in TABLES:
        assert space.words[space.host.entry_pa(table)] | A | D == may[space.host.entry_pa(table)]
    assert space.host.entry_pa(GPA) not in may


@pytest.mark.parametrize("large", [1, 2])
def test_the_page_size_is_the_smaller_of_both(large):
    guest = PageTables().map(0, 0x20_0000, OPEN | PS, level=2)
    space = NestedPageTables(guest).map_all([ROOT, ROOT + KIB4, ROOT + 2 * KIB4])
    flags = OPEN | PS if large == 2 else OPEN
    space.host.map(0x20_0000, 0x60_0000, flags, level=large)
    outcome = space.ask(0xFFF)
    assert (0x60_0FFF, MIB2 if large == 2 else KIB4) == (outcome.pa, outcome.page_size)


def test_a_large_nested_page_keeps_all_the_offset():
    space = NestedPageTables(PageTables().map(VA, GPA))
    space.host.map(0, 0x40_0000, OPEN | PS, level=2)
    assert 0x40_9123 == space.ask(VA + 0x123).pa
    space.host.change(0, 2, add=1 << 13)
    assert TABLE | 0xF == space.ask(VA).error_code


def test_rights_are_what_both_leave(space):
    assert Rights(63) == space.ask(VA).rights
    space.host.change(GPA, drop=RW)
    assert Rights(0b101101) == space.ask(VA).rights
    space.host.change(GPA, add=XD)
    assert Rights(0b001001) == space.ask(VA, wp=False).rights
    space.host.change(GPA, add=RW)
    assert Rights(0b011011) == space.ask(VA).rights


def test_a_nested_table_outside_ram_reads_as_not_present(space):
    space.host.entries[NCR3] = 0x1_0000_0000 | OPEN
    assert TABLE | 6 == space.ask(VA).error_code


def test_a_guest_table_outside_ram_reads_as_not_present(space):
    space.host.map(TABLES[2], 0x1_0000_0000)
    assert (PageFault, 0) == (type(space.ask(VA)), space.ask(VA).error_code)


@pytest.mark.parametrize("bit", [48, 50])
def test_a_guest_physical_address_wider_than_nested_tables_faults(space, bit):
    space.host.map(0, 0x5000)
    space.guest.words[space.guest.entry_pa(VA, 1)] = 1 << bit | OPEN
    outcome = space.ask(VA + 1, WRITE, maxphyaddr=52, host=context(root=NCR3, maxphyaddr=52))
    assert (FINAL | 6, (1 << bit) + 1) == (outcome.error_code, outcome.gpa)
    assert () == space.walk(VA, maxphyaddr=52).page.path.steps


def test_bit_47_of_a_guest_physical_address_is_no_sign():
    gpa = 1 << 47 | 0x5000
    space = NestedPageTables(PageTables().map(VA, gpa)).map_all(TABLES)
    space.host.map(gpa, 0x5000)
    wide = context(root=NCR3, maxphyaddr=48)
    assert 0x5000 == space.ask(VA, maxphyaddr=48, host=wide).pa


@pytest.mark.parametrize(
    ("changes", "mode"),
    [({"cr4": 0x20, "efer": 0}, "PAE"), ({"cr4": 0, "efer": 0}, "32-bit")],
)
def test_other_modes_are_refused_on_either_side(changes, mode):
    other = PagingContext(cr3=ROOT, **changes)
    with pytest.raises(BadInput, match=f"the guest has {mode} paging"):
        NestedContext(other, context())
    with pytest.raises(BadInput, match=f"the host has {mode} paging"):
        NestedContext(context(), other)
