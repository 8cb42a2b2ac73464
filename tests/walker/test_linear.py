"""What comes before the walk: LAM, UAI and LASS, by hand and against a model written apart."""

from importlib import import_module

import numpy as np
import pytest

from crosswalk.walker import (
    Access,
    Accesses,
    GeneralProtection,
    PageFault,
    PagingContext,
    Translation,
    Vendor,
    translate,
    translate_many,
    walk,
)
from crosswalk.walker.bulk import translate_many as in_bulk
from crosswalk.walker.linear import linear_address
from tests.random_tables import LAM_SUP, LAM_U48, LAM_U57, LASS, UAIE
from tests.tables import EXECUTE, READ, ROOT, WRITE, PageTables

translating = import_module(
    "crosswalk.walker.translate"
)  # The package has the function by that name.

LA57, SMEP, SMAP = 1 << 12, 1 << 20, 1 << 21
LOW, HIGH = 0x7000_1000, 0xFFFF_8000_7000_1000
HIGH_57 = 0xFF00_0000_7000_1000


def control(*, cr3=0, cr4=0, efer=0xD00, vendor=Vendor.INTEL):
    return PagingContext(cr3=ROOT | cr3, cr4=0x20 | cr4, efer=efer, vendor=vendor)


def tables(levels=4):
    builder = PageTables(levels)
    for va, pa in ((LOW, 0x5000), (HIGH if levels == 4 else HIGH_57, 0x6000)):
        builder.map(va, pa)
    return builder.memory


def answers(under, va, kind=READ, cpl=0, ac=False):
    """The one answer that both statements of the rules give."""
    memory = tables(5 if under.cr4 & LA57 else 4)
    access = Access(va, kind, cpl, ac)
    one = translate(memory, under, access)
    assert one == translate_many(memory, under, Accesses.of([access]))[0]
    return one


# What is masked is written as metadata over zeros (user) or ones (supervisor).
REACHED = [
    ({"cr3": LAM_U48}, 0x1234_0000_7000_1010, 0x5010),
    ({"cr3": LAM_U48}, 0x7FFF_0000_7000_1010, 0x5010),
    ({"cr3": LAM_U57}, 0x7E00_0000_7000_1010, 0x5010),
    ({"cr3": LAM_U48 | LAM_U57}, 0x7E00_0000_7000_1010, 0x5010),
    ({"cr3": LAM_U48, "cr4": LA57}, 0x7FFF_0000_7000_1010, 0x5010),
    ({"cr3": LAM_U57, "cr4": LA57}, 0x7E00_0000_7000_1010, 0x5010),
    ({"cr4": LAM_SUP}, 0x9234_8000_7000_1010, 0x6010),
    ({"cr4": LAM_SUP}, 0x8000_8000_7000_1010, 0x6010),
    ({"cr4": LAM_SUP | LA57}, 0x8100_0000_7000_1010, 0x6010),
    ({"efer": 0xD00 | UAIE, "vendor": Vendor.AMD}, 0xFE00_0000_7000_1010, 0x5010),
    ({"efer": 0xD00 | UAIE, "vendor": Vendor.AMD}, 0x01FF_8000_7000_1010, 0x6010),
    ({"efer": 0xD00 | UAIE, "vendor": Vendor.AMD, "cr4": LA57}, 0x0100_0000_7000_1010, 0x6010),
]


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize(("features", "pointer", "pa"), REACHED)
def test_a_data_access_by_a_tagged_pointer_reaches_the_page(features, pointer, pa, cpl):
    for kind in (READ, WRITE):
        assert pa == answers(control(**features), pointer, kind, cpl).pa
    assert GeneralProtection() == answers(control(**features), pointer, EXECUTE, cpl)


REFUSED = [
    ({}, 0x1234_0000_7000_1010),  # No LAM.
    ({"cr3": LAM_U57}, 0x0100_0000_7000_1010),  # Bit 56 isn't masked, and would go upwards.
    ({"cr3": LAM_U57}, 0x0080_0000_7000_1010),  # 57 bits are left, and 48 are translated.
    ({"cr3": LAM_U48 | LAM_U57}, 0x0001_0000_7000_1010),  # LAM_U57 rules.
    ({"cr3": LAM_U48}, 0x1234_8000_7000_1010),  # Bit 47 has to be bit 63.
    ({"cr3": LAM_U48}, 0x9234_8000_7000_1010),  # A supervisor pointer.
    ({"cr4": LAM_SUP}, 0x1234_0000_7000_1010),  # A user pointer.
    ({"cr4": LAM_SUP}, 0x9234_0000_7000_1010),  # Bit 47 has to be bit 63.
    ({"cr4": LAM_SUP | LA57}, 0x8000_8000_7000_1010),  # Bit 56 has to be.
    ({"efer": 0xD00 | UAIE, "vendor": Vendor.AMD}, 0x1234_0000_7000_1010),  # Bits 56:48 are told.
    ({"efer": 0xD00 | UAIE, "vendor": Vendor.AMD}, 0x0100_8000_7000_1010),
]


@pytest.mark.parametrize(("features", "pointer"), REFUSED)
def test_what_is_not_canonical_after_masking_is_refused(features, pointer):
    for kind in (READ, WRITE, EXECUTE):
        assert GeneralProtection() == answers(control(**features), pointer, kind)
        assert None is linear_address(control(**features), Access(pointer, kind))


def test_lam_of_48_bits_leaves_data_accesses_no_user_pointer_with_bit_47():
    # With 57-bit addresses such a pointer is canonical, and a fetch reaches it.
    under = control(cr3=LAM_U48, cr4=LA57)
    pointer = 0x0000_8000_7000_1010
    assert GeneralProtection() == answers(under, pointer)
    assert PageFault(0x10, pointer) == replace_entries(answers(under, pointer, EXECUTE))


@pytest.mark.parametrize(("features", "pointer", "pa"), REACHED)
def test_cr2_has_the_masked_address(features, pointer, pa):
    expected = {0x5010: LOW + 0x1010, 0x6010: HIGH + 0x1010}[pa]
    if features.get("cr4", 0) & LA57 and pa == 0x6010:
        expected = HIGH_57 + 0x1010
    assert PageFault(0, expected) == replace_entries(answers(control(**features), pointer + 0x1000))


def replace_entries(fault):
    return PageFault(fault.error_code, fault.cr2)


@pytest.mark.parametrize(
    ("smap", "ac", "low_data"), [(0, False, True), (SMAP, False, False), (SMAP, True, True)]
)
def test_lass_keeps_each_privilege_in_its_half(smap, ac, low_data):
    under = control(cr4=LASS | smap)
    refused = {
        (va, kind, cpl)
        for va in (LOW, HIGH)
        for kind in (READ, WRITE, EXECUTE)
        for cpl in (0, 3)
        if answers(under, va, kind, cpl, ac) == GeneralProtection()
    }
    expected = {(HIGH, kind, 3) for kind in (READ, WRITE, EXECUTE)} | {(LOW, EXECUTE, 0)}
    if not low_data:
        expected |= {(LOW, READ, 0), (LOW, WRITE, 0)}
    assert expected == refused


def test_lass_refuses_before_any_entry_is_read():
    empty = PageTables().memory
    access = Access(HIGH, READ, 3)
    assert GeneralProtection() == translate(empty, control(cr4=LASS), access)
    assert PageFault(4, HIGH) == translate(empty, control(), access)


def test_lass_goes_by_bit_63_whatever_lam_masks():
    under = control(cr4=LASS | LAM_SUP | SMAP, cr3=LAM_U48)
    assert GeneralProtection() == answers(under, 0x9234_8000_7000_1010, READ, 3)
    assert 0x5010 == answers(under, 0x1234_0000_7000_1010, READ, 3).pa
    assert 0x6010 == answers(control(cr4=LASS | LAM_SUP), 0x9234_8000_7000_1010).pa


def test_without_the_accesss_own_ac_the_contexts_counts_for_lass():
    memory = PageTables().map(LOW, 0x5000, 0x3, upper=0x3).memory
    for ac in (False, True):
        under = PagingContext(cr3=ROOT, cr4=0x20 | LASS | SMAP, rflags_ac=ac)
        found = translate(memory, under, Access(LOW, READ))
        assert isinstance(found, Translation if ac else GeneralProtection)


def test_a_walk_by_address_knows_no_metadata():
    assert () == walk(tables(), control(cr3=LAM_U48), 0x1234_0000_7000_1010).steps


def test_many_accesses_keep_their_addresses():
    va = np.array([0x1234_0000_7000_1010], np.uint64)
    accesses = Accesses.product(va, ac=False)
    in_bulk(tables(), control(cr3=LAM_U48), accesses)
    assert [0x1234_0000_7000_1010] * 6 == accesses.va.tolist()
