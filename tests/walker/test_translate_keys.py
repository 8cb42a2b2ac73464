"""Intel SDM vol. 3A, "Protection Keys": AD is bit 2i for key i, WD bit 2i + 1.

PKRU has them for user pages, IA32_PKRS for supervisor pages.
"""

import pytest

from crosswalk.walker import PageFault, Rights
from tests.tables import EXECUTE, PS, READ, RW, US, USED, WRITE, XD, PageTables

VA = 0x0000_1234_4000_0000
KEYS = pytest.mark.parametrize("key", [0, 1, 7, 8, 15])
LEAVES = pytest.mark.parametrize("leaf", [1, 2, 3])
NO_ACCESS, NO_WRITE = 1, 2
ALL_KEYS = 0xFFFF_FFFF
OK = "ok"


def page(key=0, leaf=1):
    flags = USED | 1 << 6 | key << 59 | (PS if leaf > 1 else 0)
    return PageTables().map(VA, 0x4000_0000, flags, level=leaf, upper=USED)


def codes(tables, pkru, **switches):
    """The error code, or "ok", of reads, writes and fetches, by the supervisor and the user."""
    outcomes = [
        tables.ask(VA, access, cpl, pke=True, pkru=pkru, **switches)
        for cpl in (0, 3)
        for access in (READ, WRITE, EXECUTE)
    ]
    return [one.error_code if isinstance(one, PageFault) else OK for one in outcomes]


@KEYS
@LEAVES
@pytest.mark.parametrize("wp", [True, False])
def test_access_disable_stops_all_data_accesses_of_its_key(key, leaf, wp):
    assert [33, 35, OK, 37, 39, OK] == codes(page(key, leaf), NO_ACCESS << 2 * key, wp=wp)


@KEYS
@LEAVES
def test_write_disable_stops_writes_of_both_when_wp_set(key, leaf):
    assert [OK, 35, OK, OK, 39, OK] == codes(page(key, leaf), NO_WRITE << 2 * key)


@KEYS
@LEAVES
def test_write_disable_stops_writes_of_the_user_alone_when_wp_clear(key, leaf):
    assert [OK, OK, OK, OK, 39, OK] == codes(page(key, leaf), NO_WRITE << 2 * key, wp=False)


@KEYS
def test_the_bits_of_other_keys_mean_nothing(key):
    assert [OK] * 6 == codes(page(key), ALL_KEYS & ~(3 << 2 * key))


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_keys_dont_restrict_supervisor_pages(level):
    tables = page(1).change(VA, level, drop=US)
    assert [OK, OK, OK, 5, 7, 21] == codes(tables, ALL_KEYS)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_only_the_key_of_the_leaf_counts(level):
    assert [OK] * 6 == codes(page(0).change(VA, level, add=15 << 59), ALL_KEYS & ~3)
    assert [33, 35, OK, 37, 39, OK] == codes(page(1).change(VA, level, add=6 << 59), 1 << 2)


def test_keys_dont_show_in_the_fault_of_a_fetch():
    assert [33, 35, 17, 37, 39, 21] == codes(page(1).change(VA, 1, add=XD), ALL_KEYS)
    assert [33, 35, 17, 37, 39, OK] == codes(page(1), ALL_KEYS, smep=True)


@pytest.mark.parametrize(
    ("pkru", "wp", "expected"),
    [
        (0, True, [OK, 3, OK, OK, 7, OK]),
        (NO_WRITE << 2, True, [OK, 35, OK, OK, 39, OK]),
        (NO_ACCESS << 2, True, [33, 35, OK, 37, 39, OK]),
        (0, False, [OK, OK, OK, OK, 7, OK]),
        (NO_WRITE << 2, False, [OK, OK, OK, OK, 39, OK]),
        (NO_ACCESS << 2, False, [33, 35, OK, 37, 39, OK]),
    ],
)
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_key_that_forbids_shows_even_where_rw_forbids_too(level, pkru, wp, expected):
    assert expected == codes(page(1).change(VA, level, drop=RW), pkru, wp=wp)


def test_a_key_that_forbids_shows_even_where_smap_forbids_too():
    assert [33, 35, OK, 37, 39, OK] == codes(page(1), NO_ACCESS << 2, smap=True)
    assert [1, 35, OK, OK, 39, OK] == codes(page(1), NO_WRITE << 2, smap=True)
    assert [1, 3, OK, OK, 39, OK] == codes(page(1), NO_WRITE << 2, smap=True, wp=False)
    assert [1, 3, OK, OK, OK, OK] == codes(page(1), 0, smap=True)


def test_ac_doesnt_suspend_keys():
    assert [33, 35, OK, 37, 39, OK] == codes(page(1), NO_ACCESS << 2, smap=True, ac=True)


def test_an_absent_page_has_no_key():
    assert [0, 2, 16, 4, 6, 20] == codes(page(1).change(VA, 1, drop=1), ALL_KEYS)


def test_effective_rights_leave_keys_out():
    tables = page(1)
    assert Rights(63) == tables.ask(VA, EXECUTE, pke=True, pkru=ALL_KEYS).rights


def supervisor_page(key=0, leaf=1):
    return page(key, leaf).change(VA, leaf, drop=US)


def supervisor_codes(tables, pkrs, **switches):
    """The same under CR4.PKS alone, with a PKRU that denies everything."""
    outcomes = [
        tables.ask(VA, access, cpl, pks=True, pkru=ALL_KEYS, pkrs=pkrs, **switches)
        for cpl in (0, 3)
        for access in (READ, WRITE, EXECUTE)
    ]
    return [one.error_code if isinstance(one, PageFault) else OK for one in outcomes]


@KEYS
@LEAVES
@pytest.mark.parametrize("wp", [True, False])
def test_access_disable_stops_all_data_accesses_to_a_supervisor_page(key, leaf, wp):
    found = supervisor_codes(supervisor_page(key, leaf), NO_ACCESS << 2 * key, wp=wp)
    assert [33, 35, OK, 37, 39, 21] == found


@KEYS
@LEAVES
def test_write_disable_of_a_supervisor_page_stops_writes_when_wp_set_alone(key, leaf):
    tables, pkrs = supervisor_page(key, leaf), NO_WRITE << 2 * key
    assert [OK, 35, OK, 5, 39, 21] == supervisor_codes(tables, pkrs)
    assert [OK, OK, OK, 5, 7, 21] == supervisor_codes(tables, pkrs, wp=False)


@KEYS
def test_the_bits_of_other_keys_in_pkrs_mean_nothing(key):
    found = supervisor_codes(supervisor_page(key), ALL_KEYS & ~(3 << 2 * key))
    assert [OK, OK, OK, 5, 7, 21] == found


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_page_is_a_supervisors_with_us_clear_at_any_level(level):
    tables = page(1).change(VA, level, drop=US)
    assert [33, 35, OK, 37, 39, 21] == supervisor_codes(tables, NO_ACCESS << 2)


def test_pkrs_restricts_no_user_page_and_nothing_with_pks_clear():
    assert [OK] * 6 == supervisor_codes(page(1), ALL_KEYS)
    assert [OK, OK, OK, 5, 7, 21] == codes(supervisor_page(1), 0, pkrs=ALL_KEYS)
    assert [33, 35, OK, 37, 39, OK] == codes(page(1), NO_ACCESS << 2, pks=True, pkrs=0)


@pytest.mark.parametrize("mode", ["PAE", "32-bit"])
def test_outside_long_mode_no_page_has_a_key(mode):
    tables = PageTables(mode).map(0x1000, 0x5000, USED & ~US, upper=USED)
    for access in (READ, WRITE):
        found = tables.ask(0x1000, access, pke=True, pks=True, pkru=ALL_KEYS, pkrs=ALL_KEYS)
        assert 0x5000 == found.pa


def test_rights_that_are_effective_leave_keys_of_supervisor_pages_out():
    found = supervisor_page(1).ask(VA, EXECUTE, pks=True, pkrs=ALL_KEYS)
    assert Rights(7) == found.rights
