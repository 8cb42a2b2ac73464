import pytest

from crosswalk.walker import PageFault, Translation, Vendor
from tests.tables import EXECUTE, GIB1, PS, READ, RW, US, USED, WRITE, XD, G, P, PageTables

VA = 0x0000_1234_4000_0000
PA = 0x4000_0000
PAGES = [(levels, leaf) for levels in (4, 5) for leaf in (1, 2, 3)]
EVERY_LEVEL = pytest.mark.parametrize(
    ("levels", "leaf", "level"),
    [(levels, leaf, at) for levels, leaf in PAGES for at in range(leaf, levels + 1)],
)
UPPER = pytest.mark.parametrize(
    ("levels", "level"), [(levels, at) for levels in (4, 5) for at in range(2, levels + 1)]
)


def page(levels=4, leaf=1):
    flags = USED | (PS if leaf > 1 else 0)
    return PageTables(levels).map(VA, PA, flags, level=leaf, upper=USED)


def code(tables, access=READ, cpl=0, **switches):
    outcome = tables.ask(VA, access, cpl, **switches)
    return outcome.error_code if isinstance(outcome, PageFault) else None


@EVERY_LEVEL
@pytest.mark.parametrize("maxphyaddr", [32, 36, 39, 40, 46, 51])
def test_address_bits_from_maxphyaddr_up_are_reserved_on_every_level(
    levels, leaf, level, maxphyaddr
):
    for bit in {maxphyaddr, 51}:
        tables = page(levels, leaf).change(VA, level, add=1 << bit)
        assert 9 == code(tables, maxphyaddr=maxphyaddr)


@EVERY_LEVEL
@pytest.mark.parametrize("maxphyaddr", [32, 40, 52])
def test_the_highest_address_bit_is_not_reserved(levels, leaf, level, maxphyaddr):
    top = 1 << maxphyaddr - 1
    tables = page(levels, leaf).change(VA, level, add=top)
    outcome = tables.ask(VA, maxphyaddr=maxphyaddr)

    # A table up there is outside RAM.
    expected = PA + top if level == leaf else 0
    assert expected == (outcome.pa if level == leaf else outcome.error_code)


@EVERY_LEVEL
def test_the_bits_above_the_address_field_are_ignored(levels, leaf, level):
    for bit in range(52, 63):
        tables = page(levels, leaf).change(VA, level, add=1 << bit)
        assert None is code(tables, maxphyaddr=52), bit


@EVERY_LEVEL
def test_xd_is_reserved_while_nxe_is_clear(levels, leaf, level):
    tables = page(levels, leaf).change(VA, level, add=XD)

    assert [9, 11, 9, 13] == [
        code(tables, *access, nxe=False) for access in ((READ,), (WRITE,), (EXECUTE,), (READ, 3))
    ]
    assert 25 == code(tables, EXECUTE, nxe=False, smep=True)
    assert None is code(tables, nxe=True)


@pytest.mark.parametrize(("levels", "level"), [(4, 4), (5, 4), (5, 5)])
@pytest.mark.parametrize("vendor", Vendor)
def test_ps_is_reserved_in_the_entries_that_never_map_pages(levels, level, vendor):
    assert 9 == code(page(levels).change(VA, level, add=PS), vendor=vendor)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("vendor", Vendor)
def test_ps_is_reserved_in_a_pdpte_without_1_gib_pages(levels, vendor):
    tables = page(levels, 3)

    assert 9 == code(tables, page1gb=False, vendor=vendor)
    assert GIB1 == tables.ask(VA, page1gb=True, vendor=vendor).page_size
    assert None is code(page(levels, 2), page1gb=False)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(("leaf", "above"), [(2, 21), (3, 30)])
def test_address_bits_below_a_large_page_are_reserved_but_for_pat(levels, leaf, above):
    for bit in range(13, above):
        assert 9 == code(page(levels, leaf).change(VA, leaf, add=1 << bit)), bit
    for bit in (12, above):
        assert None is code(page(levels, leaf).change(VA, leaf, add=1 << bit)), bit
    assert PA == page(levels, leaf).change(VA, leaf, add=1 << 12).ask(VA).pa
    first = page(levels, leaf).change(VA, leaf, add=1 << above, drop=PA).ask(VA).pa
    assert 1 << above == first


@EVERY_LEVEL
def test_bit_8_is_reserved_in_the_topmost_levels_of_amd(levels, leaf, level):
    tables = page(levels, leaf).change(VA, level, add=G)

    assert None is code(tables, vendor=Vendor.INTEL)
    assert (9 if level >= 4 else None) == code(tables, vendor=Vendor.AMD)


@UPPER
def test_a_reserved_bit_counts_before_an_absent_entry_below(levels, level):
    tables = page(levels).change(VA, 1, drop=P).change(VA, level, add=1 << 51)
    assert 9 == code(tables)


@UPPER
def test_an_absent_entry_counts_before_a_reserved_bit_below(levels, level):
    tables = page(levels).change(VA, level, drop=P).change(VA, 1, add=1 << 51)
    assert 0 == code(tables)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_reserved_bits_of_an_absent_entry_mean_nothing(level):
    tables = page().change(VA, level, drop=P, add=1 << 51 | PS | G | XD)
    assert 0 == code(tables, nxe=False, vendor=Vendor.AMD)


@UPPER
def test_a_reserved_bit_counts_before_the_rights_of_any_level(levels, level):
    for wrong in (1, level):
        tables = page(levels).change(VA, wrong, add=1 << 51)
        tables.change(VA, level, drop=RW | US, add=XD)
        assert [9, 11, 25, 13, 15, 29] == [
            code(tables, access, cpl, smep=True, smap=True)
            for cpl in (0, 3)
            for access in (READ, WRITE, EXECUTE)
        ]


def test_a_reserved_bit_counts_before_protection_keys():
    tables = page().change(VA, 1, add=1 << 51 | 1 << 59)
    assert 15 == code(tables, WRITE, 3, pke=True, pkru=0xFFFF_FFFF)


def test_no_bit_of_a_pte_but_high_ones_is_reserved():
    for bit in range(1, 40):
        outcome = page().change(VA, 1, add=1 << bit).ask(VA, vendor=Vendor.AMD, page1gb=False)
        assert isinstance(outcome, Translation), bit
