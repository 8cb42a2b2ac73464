from dataclasses import fields

import pytest

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers


def test_what_is_given_goes_before_what_is_known():
    given_ = Registers(cr3=0x2000, pkru=0, rflags_ac=False)
    known = Registers(cr3=0x1000, pkru=4, rflags_ac=True, cr4=0xA0)
    expected = Registers(cr3=0x2000, pkru=0, rflags_ac=False, cr4=0xA0)
    assert expected == given_.over(known)


def test_every_field_of_a_context_can_be_given():
    context = PagingContext(
        cr3=0x7000,
        cr0=0x80050033,
        cr4=0x3000A0,
        efer=0xD01,
        pkru=0x55555554,
        rflags_ac=True,
        maxphyaddr=52,
        page1gb=False,
        vendor=Vendor.AMD,
    )
    values = {item.name: getattr(context, item.name) for item in fields(PagingContext)}
    assert context == Registers(**values).context()
    assert () == Registers(**values).assumed()


def test_what_was_not_given_is_assumed_as_a_context_does():
    registers = Registers(cr3=0x1000, cr4=0xA0)
    assert PagingContext(cr3=0x1000, cr4=0xA0) == registers.context()
    assert (
        "cr0 = 0x80010033",
        "efer = 0xd00",
        "pkru = 0x0",
        "rflags_ac = false",
        "maxphyaddr = 40",
        "page1gb = true",
        "vendor = intel",
    ) == registers.assumed()


@pytest.mark.parametrize(
    ("given_", "efer", "mode"),
    [
        ({"cr4": 0x10}, 0, "32-bit"),
        ({"cr4": 0x10, "long_mode": False}, 0, "32-bit"),
        ({"cr4": 0x20, "long_mode": False}, 0x800, "PAE"),
        ({"cr4": 0x20, "long_mode": True}, 0xD00, "4-level"),
        ({"cr4": 0x20, "long_mode": True, "efer": 0}, 0, "PAE"),
    ],
)
def test_efer_is_assumed_to_be_what_the_mode_allows(given_, efer, mode):
    registers = Registers(cr3=0x1000, **given_)
    assert (efer, mode) == (registers.context().efer, registers.context().mode)
    assumed = [] if "efer" in given_ else [f"efer = {efer:#x}"]
    assert assumed == [each for each in registers.assumed() if "efer" in each or "long" in each]


def test_without_cr3_there_is_no_context():
    with pytest.raises(BadInput) as caught:
        NOT_GIVEN.context()
    assert "CR3 is not known: give --cr3" == str(caught.value)
