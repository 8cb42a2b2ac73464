import pytest

from crosswalk.walker import Access, PageFault, Rights, Translation, translate
from tests.tables import EXECUTE, PS, READ, RW, US, USED, WRITE, XD, PageTables, context

VA = 0x0000_1234_4000_0000
OK = "ok"
PAGES = [(levels, leaf) for levels in (4, 5) for leaf in (1, 2, 3)]
EVERY_LEVEL = pytest.mark.parametrize(
    ("levels", "leaf", "level"),
    [(levels, leaf, at) for levels, leaf in PAGES for at in range(leaf, levels + 1)],
)


def page(levels=4, leaf=1):
    """A page at VA that everybody may read, write and execute, its A and D bits all set."""
    flags = USED | 1 << 6 | (PS if leaf > 1 else 0)
    return PageTables(levels).map(VA, 0x4000_0000, flags, level=leaf, upper=USED)


def codes(tables, **switches):
    """The error code, or "ok", of reads, writes and fetches, by the supervisor and the user."""
    found = []
    for cpl in (0, 3):
        for access in (READ, WRITE, EXECUTE):
            outcome = tables.ask(VA, access, cpl, **switches)
            if isinstance(outcome, PageFault):
                assert (VA, ()) == (outcome.cr2, outcome.entries)
                found.append(outcome.error_code)
            else:
                assert isinstance(outcome, Translation)
                found.append(OK)
    return found


@pytest.mark.parametrize(("levels", "leaf"), PAGES)
def test_an_open_page_takes_every_access(levels, leaf):
    assert [OK] * 6 == codes(page(levels, leaf))
    assert Rights(63) == page(levels, leaf).ask(VA).rights


@EVERY_LEVEL
def test_one_read_only_level_keeps_all_from_writing(levels, leaf, level):
    tables = page(levels, leaf).change(VA, level, drop=RW)
    assert [OK, 3, OK, OK, 7, OK] == codes(tables)


@EVERY_LEVEL
def test_supervisor_write_to_read_only_page_succeeds_when_wp_clear(levels, leaf, level):
    tables = page(levels, leaf).change(VA, level, drop=RW)
    assert [OK, OK, OK, OK, 7, OK] == codes(tables, wp=False)


@EVERY_LEVEL
def test_one_supervisor_level_keeps_the_user_out(levels, leaf, level):
    tables = page(levels, leaf).change(VA, level, drop=US)
    assert [OK, OK, OK, 5, 7, 21] == codes(tables)


@EVERY_LEVEL
def test_one_level_with_xd_keeps_all_from_executing(levels, leaf, level):
    tables = page(levels, leaf).change(VA, level, add=XD)
    assert [OK, OK, 17, OK, OK, 21] == codes(tables)


@EVERY_LEVEL
def test_one_supervisor_level_frees_the_page_from_smep_and_smap(levels, leaf, level):
    tables = page(levels, leaf).change(VA, level, drop=US)
    assert [OK, OK, OK, 5, 7, 21] == codes(tables, smep=True, smap=True)


def test_rights_that_different_levels_withhold_are_all_missing():
    tables = page().change(VA, 4, drop=RW).change(VA, 3, add=XD).change(VA, 2, drop=US)

    assert [OK, 3, 17, 5, 7, 21] == codes(tables)
    assert ("r--", "---") == (tables.ask(VA).rights.supervisor, tables.ask(VA).rights.user)


@pytest.mark.parametrize(("levels", "leaf"), PAGES)
def test_smep_keeps_the_supervisor_from_executing_user_pages_only(levels, leaf):
    assert [OK, OK, 17, OK, OK, OK] == codes(page(levels, leaf), smep=True)


@pytest.mark.parametrize(("levels", "leaf"), PAGES)
def test_smap_keeps_supervisor_data_accesses_from_user_pages(levels, leaf):
    assert [1, 3, OK, OK, OK, OK] == codes(page(levels, leaf), smap=True)


def test_ac_suspends_smap_for_the_supervisor():
    assert [OK] * 6 == codes(page(), smap=True, ac=True)


def test_the_ac_of_an_access_counts_before_the_contexts():
    memory, off, on = page().memory, context(smap=True), context(smap=True, ac=True)
    for access, code in ((READ, 1), (WRITE, 3)):
        for found, ac in ((off, True), (on, True), (on, None)):
            assert 0x4000_0000 == translate(memory, found, Access(VA, access, 0, ac)).pa
        for found, ac in ((off, False), (off, None), (on, False)):
            assert code == translate(memory, found, Access(VA, access, 0, ac)).error_code


def test_ac_doesnt_suspend_smep_nor_any_other_rule():
    assert [OK, OK, 17, OK, OK, OK] == codes(page(), smep=True, smap=True, ac=True)
    read_only = page().change(VA, 1, drop=RW)
    assert [OK, 3, OK, OK, 7, OK] == codes(read_only, smap=True, ac=True)
    assert [OK, 3, OK, OK, 7, OK] == codes(read_only, ac=True)


def test_clear_wp_doesnt_suspend_smap():
    read_only = page().change(VA, 1, drop=RW)

    assert [1, 3, OK, OK, 7, OK] == codes(read_only, smap=True, wp=False)
    assert [OK, OK, OK, OK, 7, OK] == codes(read_only, smap=True, wp=False, ac=True)


def test_smap_and_smep_together_close_user_pages_to_the_supervisor():
    assert [1, 3, 17, OK, OK, OK] == codes(page(), smap=True, smep=True)


@pytest.mark.parametrize(
    ("switches", "fetch_bit"),
    [
        ({"nxe": False}, 0),
        ({"nxe": False, "smep": True}, 16),
        ({"nxe": True}, 16),
        ({"nxe": True, "smep": True}, 16),
    ],
    ids=["neither", "smep", "nxe", "both"],
)
def test_the_fetch_bit_of_the_error_code_needs_nxe_or_smep(switches, fetch_bit):
    supervisor_page = page().change(VA, 1, drop=US)
    assert [OK, OK, OK, 5, 7, 5 | fetch_bit] == codes(supervisor_page, **switches)
    absent = page().change(VA, 1, drop=1)
    assert [0, 2, fetch_bit, 4, 6, 4 | fetch_bit] == codes(absent, **switches)
    reserved = page().change(VA, 1, add=1 << 51)
    assert [9, 11, 9 | fetch_bit, 13, 15, 13 | fetch_bit] == codes(reserved, **switches)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_an_absent_entry_faults_with_p_clear_whatever_else_it_says(level):
    tables = page().change(VA, level, drop=1)
    assert [0, 2, 16, 4, 6, 20] == codes(tables)
    full = page()
    full.words[full.entry_pa(VA, level)] = 0xFFFF_FFFF_FFFF_FFFE
    assert [0, 2, 16, 4, 6, 20] == codes(full)


@pytest.mark.parametrize("offset", [0, 1, 0xFFF])
def test_cr2_is_the_very_byte_of_the_access(offset):
    tables = page().change(VA, 1, drop=US)
    assert PageFault(5, VA + offset) == tables.ask(VA + offset, READ, 3)


def test_pkru_means_nothing_while_pke_is_clear():
    tables = page().change(VA, 1, add=1 << 59)
    assert [OK] * 6 == codes(tables, pkru=0xFFFF_FFFF)


def test_bits_the_cpu_ignores_change_nothing():
    ignored = 0x7FF0_0000_0000_0E00
    tables = page()
    for level in (1, 2, 3, 4):
        tables.change(VA, level, add=ignored | 0x18 | (1 << 8 if level != 4 else 0))
    assert [OK] * 6 == codes(tables)
