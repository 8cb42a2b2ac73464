"""Which bits of control registers are taken, and which are refused by name.

The names and places are written out here once more, from the manuals.
"""

import pytest

from crosswalk.walker import BadInput, PagingContext, Vendor
from crosswalk.walker.control import ACCEPTED

NAMES = {
    "cr0": {
        0: "PE",
        1: "MP",
        2: "EM",
        3: "TS",
        4: "ET",
        5: "NE",
        16: "WP",
        18: "AM",
        29: "NW",
        30: "CD",
        31: "PG",
    },
    "cr4": {
        0: "VME",
        1: "PVI",
        2: "TSD",
        3: "DE",
        4: "PSE",
        5: "PAE",
        6: "MCE",
        7: "PGE",
        8: "PCE",
        9: "OSFXSR",
        10: "OSXMMEXCPT",
        11: "UMIP",
        12: "LA57",
        13: "VMXE",
        14: "SMXE",
        16: "FSGSBASE",
        17: "PCIDE",
        18: "OSXSAVE",
        19: "KL",
        20: "SMEP",
        21: "SMAP",
        22: "PKE",
        23: "CET",
        24: "PKS",
        25: "UINTR",
        27: "LASS",
        28: "LAM_SUP",
        32: "FRED",
    },
    "efer": {
        0: "SCE",
        8: "LME",
        10: "LMA",
        11: "NXE",
        12: "SVME",
        13: "LMSLE",
        14: "FFXSR",
        15: "TCE",
        17: "MCOMMIT",
        18: "INTWB",
        20: "UAIE",
        21: "AIBRSE",
    },
}
BASE = {"cr0": 0x80000001, "cr4": 0x20, "efer": 0xD00}
REFUSED = {("efer", "LMSLE")}
OF_INTEL = {("cr4", "PKS"), ("cr4", "LASS"), ("cr4", "LAM_SUP")}
OF_AMD = {("efer", "UAIE")}


@pytest.mark.parametrize("vendor", Vendor)
@pytest.mark.parametrize("register", NAMES)
@pytest.mark.parametrize("bit", range(64))
def test_every_bit_is_modelled_or_harmless_or_refused_by_name(register, bit, vendor):
    name, value = NAMES[register].get(bit), BASE[register] | 1 << bit
    expected = name or f"bit {bit}"
    others = OF_AMD if vendor is Vendor.INTEL else OF_INTEL
    if name and (register, name) not in REFUSED | others:
        found = PagingContext(cr3=0x1000, vendor=vendor, **BASE | {register: value})
        assert value == getattr(found, register)
    else:
        reason = f"{register.upper()} = {value:#x} sets {expected}\\b"
        with pytest.raises(BadInput, match=reason):
            PagingContext(cr3=0x1000, vendor=vendor, **BASE | {register: value})


@pytest.mark.parametrize("register", NAMES)
def test_a_harmless_bit_is_named_as_in_the_manual_and_has_a_reason(register):
    for bit, (name, reason) in ACCEPTED[register.upper()].items():
        assert NAMES[register][bit] == name
        assert reason


@pytest.mark.parametrize(
    ("vendor", "bit", "reason"),
    [
        (Vendor.INTEL, 63, "sets bit 63; it is no part of the register"),
        (Vendor.AMD, 63, "sets bit 63; it is no part of the register"),
        (Vendor.AMD, 62, "sets LAM_U48, which is intel's, and the vendor is amd"),
        (Vendor.AMD, 61, "sets LAM_U57, which is intel's, and the vendor is amd"),
        *((vendor, bit, r"reserved bits \(60:52\)") for vendor in Vendor for bit in range(52, 61)),
    ],
)
def test_high_bits_of_cr3_are_refused_by_name(vendor, bit, reason):
    with pytest.raises(BadInput, match=reason):
        PagingContext(cr3=0x1000 | 1 << bit, vendor=vendor)


@pytest.mark.parametrize("cr4", [0x10, 0x20], ids=["32-bit", "PAE"])
def test_outside_long_mode_the_high_half_of_cr3_is_ignored(cr4):
    found = PagingContext(cr3=0xFFFF_FFFF_0000_1000, cr4=cr4, efer=0)
    assert (0x1000, 0) == (found.root, found.lam_user)


def test_outside_long_mode_no_page_has_a_supervisor_key():
    assert not PagingContext(cr3=0x1000, cr4=0x20 | 1 << 24, efer=0).pks
    assert not PagingContext(cr3=0x1000, cr4=1 << 24, efer=0).pks
    assert PagingContext(cr3=0x1000, cr4=0x20 | 1 << 24).pks
    assert not PagingContext(cr3=0x1000, cr4=0x20, pkrs=0xFFFF_FFFF).pks


U48, U57, SUP, LA57, LASS = 1 << 62, 1 << 61, 1 << 28, 1 << 12, 1 << 27


@pytest.mark.parametrize(
    ("cr3", "cr4", "user", "supervisor"),
    [
        (0, 0x20, 0, 0),
        (U48, 0x20, 48, 0),
        (U57, 0x20, 57, 0),
        (U48 | U57, 0x20, 57, 0),  # LAM_U57 goes first.
        (U48, 0x20 | LA57, 48, 0),
        (0, 0x20 | SUP, 0, 48),
        (U57, 0x20 | SUP | LA57, 57, 57),
    ],
)
def test_lam_leaves_so_many_bits_of_pointers(cr3, cr4, user, supervisor):
    found = PagingContext(cr3=cr3 | 0x1000, cr4=cr4)
    assert (user, supervisor, 0x1000) == (found.lam_user, found.lam_supervisor, found.root)


def test_lam_lass_and_uai_are_of_long_mode_alone():
    legacy = PagingContext(cr3=U48 | U57, cr4=0x20 | SUP | LASS, efer=0x800)
    assert (0, 0, False) == (legacy.lam_user, legacy.lam_supervisor, legacy.lass)
    assert PagingContext(cr3=0, cr4=0x20 | LASS).lass
    assert PagingContext(cr3=0, efer=0x100D00, vendor=Vendor.AMD).uai
    assert not PagingContext(cr3=0, efer=0x100800, vendor=Vendor.AMD).uai


def test_an_encryption_mask_is_no_part_of_an_address():
    found = PagingContext(cr3=1 << 47 | 0x1000, maxphyaddr=48, encryption_mask=1 << 47)
    assert (0x1000, (1 << 47) - 0x1000) == (found.root, found.address_mask)
    pae = PagingContext(cr3=0x1020, cr4=0x20, efer=0, encryption_mask=1 << 47)
    assert 0x1020 == pae.root


def test_an_encryption_mask_may_lie_above_maxphyaddr():
    found = PagingContext(cr3=1 << 51 | 0x1000, maxphyaddr=43, encryption_mask=1 << 51)
    assert (0x1000, (1 << 43) - 0x1000) == (found.root, found.address_mask)
    with pytest.raises(BadInput, match="above MAXPHYADDR"):
        PagingContext(cr3=1 << 50 | 0x1000, maxphyaddr=43, encryption_mask=1 << 51)


@pytest.mark.parametrize("mask", [1, 1 << 11, 1 << 52, 1 << 63, 1 << 64, -1])
def test_an_encryption_mask_beside_the_address_bits_is_refused(mask):
    with pytest.raises(BadInput, match="not within bits 51:12"):
        PagingContext(cr3=0x1000, encryption_mask=mask)


def test_32_bit_paging_has_no_encryption_mask():
    with pytest.raises(BadInput, match="32-bit paging"):
        PagingContext(cr3=0x1000, cr4=0, efer=0, encryption_mask=1 << 20)
