from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.registers import NOT_GIVEN, Registers, parse_int


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("7936", 7936),
        ("0x1f00", 0x1F00),
        ("0X1F00", 0x1F00),
        ("0x0000_1f00", 0x1F00),
        ("1_000_000", 1000000),
        (" 0x10 ", 0x10),
        ("0xffffffffffffffff", (1 << 64) - 1),
        ("18446744073709551615", (1 << 64) - 1),
    ],
)
def test_hex_and_decimal_with_underscores_are_numbers(text, expected):
    assert expected == parse_int(text, "cr3")


@pytest.mark.parametrize(
    "text",
    ["", "x", "0x", "1f00", "0x1g", "0b1", "0o7", "010", "1__0", "_1", "1_", "+1", "1.0", "٣"],
)
def test_anything_else_is_no_number(text):
    with pytest.raises(BadInput) as caught:
        parse_int(text, "cr3")
    assert f"cr3: {text!r} is not a number (0x1f00 or 7936)" == str(caught.value)


@pytest.mark.parametrize("text", ["-1", "-0x1000"])
def test_a_negative_number_is_an_error_of_its_own(text):
    with pytest.raises(BadInput) as caught:
        parse_int(text, "cr3")
    assert f"cr3: {text} is negative" == str(caught.value)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("0x10000000000000000", 64),
        ("18446744073709551616", 64),
        ("0x100000000", 32),
        ("1" * 65, 64),
    ],
)
def test_a_number_over_its_width_is_an_error(text, bits):
    with pytest.raises(BadInput) as caught:
        parse_int(text, "pkru", bits=bits)
    assert f"pkru: {text} does not fit in {bits} bits" == str(caught.value)


def test_an_error_about_a_huge_number_is_short():
    with pytest.raises(BadInput) as caught:
        parse_int("9" * 1_000_000, "cr3")
    assert len(str(caught.value)) < 300


@given(st.integers(0, (1 << 64) - 1))
def test_a_number_survives_being_written_and_parsed(value):
    assert [value] * 3 == [
        parse_int(form, "x") for form in (f"{value:#x}", f"{value}", f"{value:_}")
    ]


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
    assert Registers(**values).assumed() == ()


def test_what_was_not_given_is_assumed_as_a_context_does():
    registers = Registers(cr3=0x1000, cr4=0xA0)
    assert PagingContext(cr3=0x1000, cr4=0xA0) == registers.context()
    assert registers.assumed() == (
        "cr0 = 0x80010033",
        "efer = 0xd00",
        "pkru = 0x0",
        "rflags_ac = false",
        "maxphyaddr = 40",
        "page1gb = true",
        "vendor = intel",
    )


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
    assert str(caught.value) == "CR3 is not known: give --cr3"
