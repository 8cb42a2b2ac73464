import pytest

from tests.walker.build import context
from walker import Vendor
from walker.entry import (
    LEVELS,
    entry_flags,
    index_of,
    is_leaf,
    leaf_address,
    protection_key,
    reserved_bits,
)


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
    assert [1, 2, 3, 4, 5] == [index_of(va, level) for level in range(1, 6)]
    assert [511] * 5 == [index_of((1 << 64) - 1, level) for level in range(1, 6)]
    assert [0, 0, 0, 256, 510] == [index_of(0xFFFE_8000_0000_0000, level) for level in range(1, 6)]


@pytest.mark.parametrize(
    ("level", "address"),
    [(1, 0xF_FFFF_FFFF_F000), (2, 0xF_FFFF_FFE0_0000), (3, 0xF_FFFF_C000_0000)],
)
def test_address_and_flags_share_out_the_bits_of_a_leaf(level, address):
    every = (1 << 64) - 1
    assert address == leaf_address(context(maxphyaddr=52), level, every)
    assert every - address == entry_flags(level, every)


def test_the_address_of_a_leaf_ends_below_maxphyaddr():
    assert 0xFFFF_F000 == leaf_address(context(maxphyaddr=32), 1, (1 << 64) - 1)


def test_the_protection_key_is_in_bits_59_to_62():
    assert 15 == protection_key(0x7800_0000_0000_0000)
    assert 0 == protection_key(0x87FF_FFFF_FFFF_FFFF)
    assert 1 == protection_key(1 << 59)
    assert 8 == protection_key(1 << 62)
