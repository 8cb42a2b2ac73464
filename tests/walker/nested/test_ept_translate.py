"""A guest under EPT, rule by rule (Intel SDM vol. 3C, "EPT Translation Mechanism")."""

from itertools import product

import pytest

from crosswalk.walker import GeneralProtection, PageFault, Rights, Translation
from crosswalk.walker.nested import (
    EptCapability,
    EptMisconfiguration,
    EptViolation,
    Qualification,
)
from tests.ept_tables import ACCESSED, ALL, DIRTY, LARGE, XU, EptSpace, R, W, X
from tests.tables import (
    EXECUTE,
    GIB1,
    KIB4,
    MIB2,
    OPEN,
    PS,
    READ,
    ROOT,
    RW,
    US,
    USED,
    WRITE,
    XD,
    A,
    D,
    P,
    PageTables,
)

VA = 0x0000_1234_5678_9000
GPA = 0x9000
TABLES = [ROOT + at * KIB4 for at in range(4)]
"""The guest's PML4, PDPT, PD and PT, guest-physical."""
EVERY = EptCapability(sum(EptCapability))
VALID, PAGE = 1 << 7, 1 << 8
USER, WRITABLE, NO_EXECUTE = 1 << 9, 1 << 10, 1 << 11
UNDEFINED = 1 << 14
"""What is undefined of any violation: whether the page is one of supervisor shadow stacks."""
NO_XU, OF_TABLE = 1 << 6, USER | WRITABLE | NO_EXECUTE


def open_space(flags=USED | D, upper=USED, levels=4):
    guest = PageTables(levels).map(VA, GPA, flags, upper=upper)
    tables = [ROOT + at * KIB4 for at in range(levels)]
    return EptSpace(guest).map_all([*tables, GPA])


@pytest.fixture
def space():
    return open_space()


def told(outcome):
    return outcome.qualification, outcome.open, outcome.gpa, outcome.gla


def permitted(bits):
    """The three bits of rights, and XU, of 16 permissions."""
    return bits & 7 | (bits & 8) << 7


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("offset", [0, 0xABC, 0xFFF])
def test_a_page_is_where_ept_has_the_guests_page(levels, offset):
    outcome = open_space(levels=levels).ask(VA + offset)
    assert Translation(0x40_9000 + offset, KIB4, Rights(63)) == outcome


def test_a_guest_under_5_levels_of_ept():
    gpa = 1 << 48 | 0x5000
    space = EptSpace(PageTables().map(VA, gpa), levels=5).map_all(TABLES)
    space.ept.map(gpa, 0x5000)
    assert 0x5000 == space.ask(VA, maxphyaddr=52).pa


EXPECTED = {Translation: 72, EptViolation: 72, EptMisconfiguration: 48}


def test_under_mbec_192_accesses_are_72_translations_72_violations_and_48_misconfigurations():
    counts = dict.fromkeys(EXPECTED, 0)
    for bits, user, access, ad in product(range(16), (0, 1), (READ, WRITE, EXECUTE), (0, 1)):
        space = open_space(P | RW | A | D | (US if user else 0))
        space.ept.change(GPA, drop=ALL, add=permitted(bits))
        outcome = space.ask(VA + 5, access, 3 * user, ad=bool(ad), mbec=True)
        counts[type(outcome)] += 1
        needed = {READ: 1, WRITE: 2, EXECUTE: 8 if user else 4}[access]
        if bits & 3 == 2:
            assert (EptMisconfiguration, GPA + 5) == (type(outcome), outcome.gpa)
        elif bits & needed:
            assert 0x40_9005 == outcome.pa
        else:
            made = 1 << [READ, WRITE, EXECUTE].index(access) | VALID | PAGE | WRITABLE
            made |= (USER if user else 0) | bits << 3
            assert (made, UNDEFINED, GPA + 5, VA + 5) == told(outcome)
    assert EXPECTED == counts


@pytest.mark.parametrize("bits", range(8))
@pytest.mark.parametrize("access", [READ, WRITE, EXECUTE])
def test_without_mbec_x_is_all_that_counts_and_bit_6_is_undefined(space, bits, access):
    # XU is ignored, and doesn't make an entry present.
    space.ept.change(GPA, drop=ALL, add=bits | XU)
    outcome = space.ask(VA, access)
    if bits & 3 == 2:
        assert EptMisconfiguration(GPA) == outcome
    elif bits & {READ: 1, WRITE: 2, EXECUTE: 4}[access]:
        assert 0x40_9000 == outcome.pa
    else:
        made = 1 << [READ, WRITE, EXECUTE].index(access) | VALID | PAGE | USER | WRITABLE
        assert (made | bits << 3, UNDEFINED | NO_XU, GPA, VA) == told(outcome)


@pytest.mark.parametrize("cpl", [0, 3])
def test_who_executes_goes_by_the_pages_u_s_not_by_the_privilege_level(cpl):
    user, supervisor = open_space(), open_space(P | RW | A | D)
    for space in (user, supervisor):
        space.ept.change(GPA, drop=XU)
    # Without SMEP the supervisor may fetch from a user's page, for which XU is asked.
    assert isinstance(user.ask(VA, EXECUTE, cpl, mbec=True), EptViolation)
    assert 0x40_9000 == supervisor.ask(VA, EXECUTE, 0, mbec=True).pa
    user.ept.change(GPA, drop=X, add=XU)
    assert 0x40_9000 == user.ask(VA, EXECUTE, cpl, mbec=True).pa
    # One table without U/S makes the page a supervisor's.
    user.guest.change(VA, 3, drop=US)
    assert isinstance(user.ask(VA, EXECUTE, 0, mbec=True), EptViolation)


@pytest.mark.parametrize("flags", [USED | D, USED | D | XD, P | A | D, P | US | A | D, P | A | XD])
@pytest.mark.parametrize("access", [READ, WRITE])
def test_advanced_information_is_what_the_guests_tables_say_of_the_page(flags, access):
    space = open_space(flags)
    space.ept.change(GPA, drop=R | W)
    outcome = space.ask(VA, access, wp=False)
    expected = USER * bool(flags & US) | WRITABLE * bool(flags & RW) | NO_EXECUTE * bool(flags & XD)
    assert expected == outcome.qualification & OF_TABLE
    without = space.ask(VA, access, wp=False, capabilities=EVERY & ~EptCapability.ADVANCED)
    assert UNDEFINED | NO_XU | OF_TABLE == without.open
    assert outcome.qualification & ~OF_TABLE == without.qualification


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("access", [READ, WRITE, EXECUTE])
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize(
    ("ad", "drop", "rights"),
    [
        (False, ALL, 0),
        (True, ALL, 0),
        (False, R | W, X),
        (True, R | W, X),
        (True, W, R | X),
    ],
)
def test_a_guest_table_is_read_and_with_a_and_d_of_ept_written(
    space, at, access, cpl, ad, drop, rights
):
    space.ept.change(TABLES[at], drop=drop)
    gpa = space.guest.entry_pa(VA, 4 - at)
    made = (3 if ad else 1) | VALID | rights << 3
    expected = made, UNDEFINED | NO_XU | OF_TABLE, gpa, VA + 1
    assert expected == told(space.ask(VA + 1, access, cpl, ad=ad))
    assert at + 1 == len(space.walk(VA, ad=ad).tables)


def test_without_a_and_d_of_ept_a_guests_tables_may_be_read_only(space):
    for table in TABLES:
        space.ept.change(table, drop=W | X | XU)
    for access in (READ, WRITE, EXECUTE):
        assert 0x40_9000 == space.ask(VA, access).pa
        assert 1 == len(space.all(VA, access))


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("access", [READ, WRITE, EXECUTE])
def test_setting_a_where_ept_allows_no_writing_is_a_violation_that_names_the_entry(at, access):
    space = open_space()
    space.guest.change(VA, 4 - at, drop=A)
    space.ept.change(TABLES[at], drop=W)
    (outcome,) = space.all(VA, access)
    # Bit 0 of an access that reads and writes is left to the processor.
    undefined = UNDEFINED | NO_XU | OF_TABLE | 1
    gpa = space.guest.entry_pa(VA, 4 - at)
    assert (3 | VALID | (R | X) << 3, undefined, gpa, VA) == told(outcome)
    # With A and D of EPT the table can't even be read.
    assert 3 | VALID | (R | X) << 3 == told(space.ask(VA, access, ad=True))[0]


def test_so_is_setting_d_for_a_write_alone():
    space = open_space(USED)
    space.ept.change(TABLES[3], drop=W)
    assert isinstance(space.ask(VA, READ), Translation)
    outcome = space.ask(VA, WRITE)
    assert (EptViolation, space.guest.entry_pa(VA)) == (type(outcome), outcome.gpa)
    # D is set in the leaf alone.
    space.guest.change(VA, add=D)
    assert isinstance(space.ask(VA, WRITE), Translation)


def test_which_of_several_entries_that_cant_be_marked_is_named_is_the_processors_choice():
    space = open_space(OPEN, upper=OPEN)
    for table in (TABLES[1], TABLES[3]):
        space.ept.change(table, drop=W)
    space.ept.change(GPA, drop=R)
    found = space.all(VA)
    assert [EptViolation, EptViolation, EptMisconfiguration] == [type(each) for each in found]
    places = [space.guest.entry_pa(VA, level) for level in (3, 1)]
    assert [*places, GPA] == [each.gpa for each in found]
    # What lies in the other two may be marked.
    marked = [space.guest.entry_pa(VA, level) + space.shift for level in (4, 2)]
    for each in found:
        assert marked == [pa for pa, _ in each.entries]


def test_a_guests_fault_may_come_after_a_violation_for_a_that_the_walk_sets():
    space = open_space(P, upper=OPEN)
    space.ept.change(TABLES[2], drop=W)
    found = space.all(VA, READ, 3)
    assert [PageFault, EptViolation] == [type(each) for each in found]
    assert space.guest.entry_pa(VA, 2) == found[1].gpa
    # An entry that isn't present is never marked.
    space.guest.change(VA, 2, drop=P)
    assert [PageFault] == [type(each) for each in space.all(VA, READ, 3)]


def test_so_may_an_exit_at_a_table_further_down():
    space = open_space(upper=OPEN)
    space.ept.change(TABLES[1], drop=W)
    space.ept.change(TABLES[3], drop=ALL)
    first, second = space.all(VA)
    assert [1, 3] == [each.qualification & 3 for each in (first, second)]
    assert [space.guest.entry_pa(VA), space.guest.entry_pa(VA, 3)] == [first.gpa, second.gpa]


@pytest.mark.parametrize(
    ("change", "level", "capabilities"),
    [
        ({"drop": R}, 1, EVERY),
        ({"drop": R}, 3, EVERY),
        ({"drop": R | W}, 1, EVERY & ~EptCapability.EXECUTE_ONLY),
        ({"add": 7 << 3}, 1, EVERY),
        ({"add": 1 << 3}, 2, EVERY),
        ({"add": 1 << 45}, 1, EVERY),
        ({"add": 1 << 45}, 4, EVERY),
        ({"add": LARGE}, 4, EVERY),
    ],
)
def test_a_misconfiguration_names_the_address_alone(space, change, level, capabilities):
    gpa = 1 << 39 | 1 << 30 | 1 << 21 | 0x5000
    space.ept.map(gpa, 0x5000)
    space.guest.map(VA + KIB4, gpa, USED | D)
    space.ept.change(gpa, level, **change)
    outcome = space.ask(VA + KIB4 + 7, capabilities=capabilities)
    assert EptMisconfiguration(gpa + 7) == outcome
    space.ept.change(gpa, level, drop=ALL)
    assert isinstance(space.ask(VA + KIB4, capabilities=capabilities), EptViolation)


def test_a_lower_misconfiguration_comes_before_an_upper_missing_right(space):
    gpa = 1 << 39 | 0x5000
    space.ept.map(gpa, 0x5000)
    space.guest.map(VA + KIB4, gpa, USED | D)
    space.ept.change(gpa, 4, drop=W)
    assert 2 | VALID | PAGE | USER | WRITABLE | 5 << 3 == told(space.ask(VA + KIB4, WRITE))[0]
    space.ept.change(gpa, add=7 << 3)
    assert EptMisconfiguration(gpa) == space.ask(VA + KIB4, WRITE)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("right", [R | W, W, X, XU])
def test_rights_are_those_of_all_levels(space, level, right):
    gpa = 1 << 39 | 1 << 30 | 1 << 21 | 0x5000
    space.ept.map(gpa, 0x5000)
    space.guest.map(VA + KIB4, gpa, USED | D)
    space.ept.change(gpa, level, drop=right)
    access = {R | W: READ, W: WRITE, X: EXECUTE, XU: EXECUTE}[right]
    if right == X:
        space.guest.change(VA + KIB4, drop=US)
    outcome = space.ask(VA + KIB4, access, mbec=True)
    left = ALL & ~right
    assert (left & 7 | (left & XU) >> 7) == outcome.qualification >> 3 & 15


@pytest.mark.parametrize(("access", "cpl", "code"), [(WRITE, 0, 3), (READ, 3, 5), (EXECUTE, 0, 17)])
def test_the_guests_refusal_comes_before_the_ept_of_the_page(access, cpl, code):
    space = open_space(P | A | D | XD)
    space.ept.change(GPA, drop=ALL)
    assert PageFault(code, VA) == space.ask(VA, access, cpl)


@pytest.mark.parametrize("at", range(1, 4))
def test_an_exit_on_the_way_comes_before_what_the_guest_entry_says(space, at):
    space.guest.change(VA, 4 - at, drop=P)
    assert PageFault(0, VA) == space.ask(VA)
    space.ept.change(TABLES[at], drop=ALL)
    assert 1 | VALID == told(space.ask(VA))[0]
    space.ept.change(TABLES[at], add=W)
    assert EptMisconfiguration(space.guest.entry_pa(VA, 4 - at)) == space.ask(VA)


def test_an_address_that_is_not_canonical_needs_no_tables(space):
    space.ept.entries.clear()
    assert (GeneralProtection(),) == space.all(1 << 47)


def marks(space, bits):
    """The words that these bits change, as outcomes have them."""
    return tuple(sorted((pa, space.words[pa] | flags) for pa, flags in bits.items()))


@pytest.mark.parametrize("mbec", [False, True])
def test_with_eptp_bit_6_all_entries_used_are_marked_and_tables_as_written(mbec):
    space = open_space(OPEN, upper=OPEN)
    guest = [space.guest.entry_pa(VA, level) + space.shift for level in (4, 3, 2, 1)]
    upper = [space.ept.entry_pa(GPA, level) for level in (4, 3, 2)]
    leaves = [space.ept.entry_pa(table) for table in TABLES]
    bits = dict.fromkeys(guest, A) | dict.fromkeys([*upper, space.ept.entry_pa(GPA)], ACCESSED)
    bits |= dict.fromkeys(leaves, ACCESSED | DIRTY)
    assert marks(space, bits) == space.ask(VA, ad=True, mbec=mbec).entries
    bits |= {guest[3]: A | D, space.ept.entry_pa(GPA): ACCESSED | DIRTY}
    assert marks(space, bits) == space.ask(VA, WRITE, ad=True, mbec=mbec).entries


def test_without_it_the_guests_own_alone():
    space = open_space(OPEN, upper=OPEN)
    guest = [space.guest.entry_pa(VA, level) + space.shift for level in (4, 3, 2, 1)]
    assert marks(space, dict.fromkeys(guest, A)) == space.ask(VA).entries
    assert marks(space, dict.fromkeys(guest, A) | {guest[3]: A | D}) == space.ask(VA, WRITE).entries


@pytest.mark.parametrize(("change", "leaf"), [({"drop": ALL}, 0), ({"drop": W}, ACCESSED)])
def test_a_refused_page_may_mark_its_own_leaf_where_that_denies(change, leaf):
    gpa = 1 << 39 | 1 << 30 | 1 << 21 | 0x5000  # Shares no EPT entry with the guest's tables.
    space = EptSpace(PageTables().map(VA, gpa, USED | D, upper=USED)).map_all(TABLES)
    space.ept.map(gpa, 0x5000)
    space.ept.change(gpa, **change)
    outcome = space.ask(VA, WRITE, ad=True)
    upper = [space.ept.entry_pa(at, level) for at in (ROOT, gpa) for level in (4, 3, 2)]
    bits = dict.fromkeys(upper, ACCESSED)
    bits |= dict.fromkeys([space.ept.entry_pa(table) for table in TABLES], ACCESSED | DIRTY)
    bits |= {space.ept.entry_pa(gpa): leaf} if leaf else {}
    assert marks(space, bits) == outcome.entries
    assert () == space.ask(VA, WRITE).entries


@pytest.mark.parametrize("large", [1, 2, 3])
@pytest.mark.parametrize("guest", [1, 2])
def test_the_page_size_is_the_smaller_of_both(large, guest):
    tables = PageTables().map(0, 0x4000_0000, OPEN | (PS if guest == 2 else 0), level=guest)
    space = EptSpace(tables).map_all([ROOT + at * KIB4 for at in range(4)])
    space.ept.map(0x4000_0000, 0x4000_0000, level=large)
    outcome = space.ask(0xFFF)
    size = min({1: KIB4, 2: MIB2, 3: GIB1}[large], {1: KIB4, 2: MIB2}[guest])
    assert (0x4000_0FFF, size) == (outcome.pa, outcome.page_size)


def test_bit_12_of_a_large_leaf_is_reserved():
    space = EptSpace(PageTables().map(VA, 0x4000_5000, USED, upper=USED)).map_all(TABLES)
    for level in (2, 3):
        space.ept.entries.pop(space.ept.entry_pa(0x4000_0000, 3), None)
        space.ept.map(0x4000_0000, 0x4000_0000, level=level)
        assert 0x4000_5000 == space.ask(VA).pa
        space.ept.change(0x4000_0000, level, add=1 << 12)
        assert EptMisconfiguration(0x4000_5000) == space.ask(VA)


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (ALL, 0b111111),
        (R | X | XU, 0b101101),
        (R | W, 0b011011),
        (R | XU, 0b101101),
        (R | X, 0b001001),
        (XU, 0b100100),
    ],
)
def test_rights_are_what_both_leave_of_a_users_page(space, flags, left):
    space.ept.change(GPA, drop=ALL, add=flags)
    access = READ if flags & R else EXECUTE
    assert Rights(left) == space.ask(VA, access, mbec=True).rights


@pytest.mark.parametrize(
    ("flags", "left"), [(ALL, 0b111), (R | X, 0b101), (R | XU, 0b001), (X, 0b100)]
)
def test_and_of_a_supervisors(flags, left):
    space = open_space(P | RW | A | D)
    space.ept.change(GPA, drop=ALL, add=flags)
    access = READ if flags & R else EXECUTE
    assert Rights(left) == space.ask(VA, access, mbec=True).rights


def test_a_page_that_can_only_be_executed_has_an_address(space):
    space.ept.change(GPA, drop=R | W)
    assert 0x40_9000 == space.walk(VA).page.pa
    space.ept.change(GPA, drop=ALL)
    assert None is space.walk(VA).page.pa


def test_an_ept_table_outside_ram_reads_as_not_present(space):
    space.ept.entries[space.ept.root] = 1 << 30 | ALL
    assert (1 | VALID, space.guest.entry_pa(VA, 4)) == (told(space.ask(VA))[0], space.ask(VA).gpa)


def test_a_guest_table_outside_ram_reads_as_not_present(space):
    space.ept.map(TABLES[2], 1 << 30)
    assert PageFault(0, VA) == space.ask(VA)


@pytest.mark.parametrize("bit", [48, 50])
def test_a_guest_physical_address_wider_than_the_tables_is_a_violation(space, bit):
    space.ept.map(0, 0x5000)
    space.guest.words[space.guest.entry_pa(VA, 1)] = 1 << bit | USED | D
    outcome = space.ask(VA + 1, WRITE, maxphyaddr=52, mbec=True)
    made = 2 | VALID | PAGE | USER | WRITABLE
    # No entry was read: whose rights they are isn't said.
    assert (made, UNDEFINED | 15 << 3, (1 << bit) + 1, VA + 1) == told(outcome)
    assert () == space.walk(VA, maxphyaddr=52).page.path.steps
    # Beyond MAXPHYADDR the guest's own tables refuse it.
    assert PageFault(0xB, VA) == space.ask(VA, WRITE, maxphyaddr=bit)


def test_what_isnt_modelled_is_never_set(space):
    never = Qualification.NMI_UNBLOCKED | Qualification.SHADOW_STACK
    never |= Qualification.PAGING_VERIFICATION | Qualification.ASYNCHRONOUS
    space.ept.change(GPA, drop=ALL)
    for ad, mbec in product((False, True), repeat=2):
        outcome = space.ask(VA, ad=ad, mbec=mbec)
        assert 0 == (outcome.qualification | outcome.open) & never


def test_types_of_memory_change_nothing_else(space):
    for kind in (0, 1, 4, 5, 6):
        space.ept.change(GPA, drop=7 << 3, add=kind << 3)
        assert 0x40_9000 == space.ask(VA).pa
