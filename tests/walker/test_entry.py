import pytest

from crosswalk.walker import PagingContext, Vendor
from crosswalk.walker.entry import (
    LEVELS,
    address_bits,
    is_leaf,
    leaf_address,
    level_of,
    maps_large,
    protection_key,
    reserved_bits,
)
from tests.tables import context


def bits_of(mask):
    return {bit for bit in range(64) if mask >> bit & 1}


def bits(first, last):
    return set(range(first, last + 1))


# Beside those that MAXPHYADDR and NXE add.
@pytest.mark.parametrize(
    ("level", "leaf", "vendor", "expected"),
    [
        (1, True, Vendor.INTEL, set()),
        (1, True, Vendor.AMD, set()),
        (2, True, Vendor.INTEL, bits(13, 20)),
        (2, True, Vendor.AMD, bits(13, 20)),
        (2, False, Vendor.INTEL, set()),
        (2, False, Vendor.AMD, set()),
        (3, True, Vendor.INTEL, bits(13, 29)),
        (3, True, Vendor.AMD, bits(13, 29)),
        (3, False, Vendor.INTEL, {7}),
        (3, False, Vendor.AMD, {7}),
        (4, False, Vendor.INTEL, {7}),
        (4, False, Vendor.AMD, {7, 8}),
        (5, False, Vendor.INTEL, {7}),
        (5, False, Vendor.AMD, {7, 8}),
    ],
)
def test_reserved_bits_are_those_of_the_manuals(level, leaf, vendor, expected):
    for page1gb in (True, False):
        for maxphyaddr in (32, 40, 51, 52):
            features = {"maxphyaddr": maxphyaddr, "vendor": vendor, "page1gb": page1gb}
            above = bits(maxphyaddr, 51)
            with_xd, without = context(**features), context(nxe=False, **features)
            assert expected | above == bits_of(reserved_bits(with_xd, level, leaf=leaf))
            assert expected | above | {63} == bits_of(reserved_bits(without, level, leaf=leaf))


@pytest.mark.parametrize(
    ("level", "page1gb", "plain", "with_ps"),
    [
        (1, True, True, True),
        (2, True, False, True),
        (2, False, False, True),
        (3, True, False, True),
        (3, False, False, False),
        (4, True, False, False),
        (5, True, False, False),
    ],
)
def test_ps_makes_a_leaf_of_pdes_and_where_the_cpu_can_of_pdptes(level, page1gb, plain, with_ps):
    found = context(page1gb=page1gb)

    assert plain is is_leaf(found, level, 0x1001)
    assert with_ps is is_leaf(found, level, 0x1081)


def test_every_level_has_the_manuals_names_and_spans():
    expected = {
        1: ("PT", "PTE", 1 << 12, False),
        2: ("PD", "PDE", 1 << 21, True),
        3: ("PDPT", "PDPTE", 1 << 30, True),
        4: ("PML4", "PML4E", 1 << 39, False),
        5: ("PML5", "PML5E", 1 << 48, False),
    }
    assert expected == {n: (x.table, x.entry, x.span, x.large) for n, x in LEVELS.items()}


def test_each_level_has_its_nine_bits_of_the_address():
    va = 5 << 48 | 4 << 39 | 3 << 30 | 2 << 21 | 1 << 12 | 0xFFF
    assert [1, 2, 3, 4, 5] == [LEVELS[level].index(va) for level in range(1, 6)]
    assert [511] * 5 == [LEVELS[level].index((1 << 64) - 1) for level in range(1, 6)]
    high = 0xFFFE_8000_0000_0000
    assert [0, 0, 0, 256, 510] == [LEVELS[level].index(high) for level in range(1, 6)]


@pytest.mark.parametrize(
    ("level", "address"),
    [(1, 0xF_FFFF_FFFF_F000), (2, 0xF_FFFF_FFE0_0000), (3, 0xF_FFFF_C000_0000)],
)
def test_address_and_flags_share_out_the_bits_of_a_leaf(level, address):
    every = (1 << 64) - 1
    assert address == leaf_address(context(maxphyaddr=52), level, every)
    assert address == address_bits(LEVELS[level].shift)


def test_the_address_of_a_leaf_ends_below_maxphyaddr():
    assert 0xFFFF_F000 == leaf_address(context(maxphyaddr=32), 1, (1 << 64) - 1)


def test_the_protection_key_is_in_bits_59_to_62():
    assert 15 == protection_key(0x7800_0000_0000_0000)
    assert 0 == protection_key(0x87FF_FFFF_FFFF_FFFF)
    assert 1 == protection_key(1 << 59)
    assert 8 == protection_key(1 << 62)


BIT32 = {"cr3": 0, "cr4": 0x10, "efer": 0}
PAE = {"cr3": 0, "cr4": 0x20, "efer": 0x800}


# Intel SDM vol. 3A, "32-Bit Paging": M, the width of a 4-MiB page's address, is at most 40.
@pytest.mark.parametrize(
    ("maxphyaddr", "expected"),
    [(32, bits(13, 21)), (36, bits(17, 21)), (39, bits(20, 21)), (40, {21}), (52, {21})],
)
def test_of_32_bit_entries_only_a_4_mib_page_has_reserved_bits(maxphyaddr, expected):
    found = PagingContext(**BIT32, maxphyaddr=maxphyaddr)
    assert expected == bits_of(reserved_bits(found, 2, leaf=True))
    assert 0 == reserved_bits(found, 2, leaf=False) == reserved_bits(found, 1, leaf=True)


# Tables 4-8 to 4-11.
@pytest.mark.parametrize("maxphyaddr", [32, 40, 52])
def test_the_high_bits_of_pae_entries_are_reserved_all_but_xd(maxphyaddr):
    found = PagingContext(**PAE, maxphyaddr=maxphyaddr)
    without = PagingContext(**PAE | {"efer": 0}, maxphyaddr=maxphyaddr)
    high, large = bits(maxphyaddr, 62), bits(13, 20)
    for level, leaf, more in ((1, True, set()), (2, False, set()), (2, True, large)):
        assert high | more == bits_of(reserved_bits(found, level, leaf=leaf))
        assert high | more | {63} == bits_of(reserved_bits(without, level, leaf=leaf))
    loaded = high | {63, 1, 2} | bits(5, 8)
    for each in (found, without):
        assert loaded == bits_of(reserved_bits(each, 3, leaf=False))


def test_ps_needs_pse_in_32_bit_paging_and_nothing_in_pae():
    with_pse, without = PagingContext(**BIT32), PagingContext(**BIT32 | {"cr4": 0})
    assert is_leaf(with_pse, 2, 0x81)
    assert not is_leaf(with_pse, 2, 0x1)
    assert not is_leaf(without, 2, 0x81)
    assert is_leaf(without, 1, 0x1)
    assert is_leaf(PagingContext(**PAE), 2, 0x81)
    assert not is_leaf(PagingContext(**PAE), 3, 0x81)


def test_a_4_mib_page_has_the_high_bits_of_its_address_below_the_low_ones():
    found = PagingContext(**BIT32)
    assert 0xFF_FFC0_0000 == leaf_address(found, 2, 0xFFFF_FFFF)
    assert 0x1_0040_0000 == leaf_address(found, 2, 0x0040_2081)
    assert 0x80_0000_0000 == leaf_address(found, 2, 1 << 20)
    assert 0xFFDF_E000 == address_bits(22)
    assert 0xFFFF_F000 == leaf_address(found, 1, 0xFFFF_FFFF)


@pytest.mark.parametrize(
    ("registers", "expected"),
    [
        (BIT32, {2: ("PDE", 22, 1024, 4), 1: ("PTE", 12, 1024, 4)}),
        (PAE, {3: ("PDPTE", 30, 4, 8), 2: ("PDE", 21, 512, 8), 1: ("PTE", 12, 512, 8)}),
    ],
    ids=["32-bit", "PAE"],
)
def test_the_levels_of_the_older_modes_have_the_manuals_shape(registers, expected):
    found = {number: level_of(PagingContext(**registers), number) for number in expected}
    assert expected == {
        number: (each.entry, each.shift, each.entries, each.entry_size)
        for number, each in found.items()
    }
    assert {3} & set(expected) == {n for n, each in found.items() if not each.restricts}


def test_the_indices_of_the_older_modes_are_those_of_32_bits():
    va = 3 << 30 | 5 << 21 | 7 << 12 | 0xFFF
    pae, bit32 = PagingContext(**PAE), PagingContext(**BIT32)
    assert [7, 5, 3] == [level_of(pae, level).index(va) for level in (1, 2, 3)]
    assert [519, 770] == [level_of(bit32, level).index(va) for level in (1, 2)]


def test_no_entry_of_a_last_table_is_large():
    for found in (PagingContext(**BIT32), PagingContext(**PAE), context()):
        assert not maps_large(found, 1)
        assert maps_large(found, 2)
