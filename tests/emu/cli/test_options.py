"""Types of options, and the literals that stand for what other rooms define."""

from argparse import ArgumentTypeError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswalk.emu.check import DEFAULT_LIMIT
from crosswalk.emu.cli.commands import COMMANDS
from crosswalk.emu.cli.options import (
    WALKER_LIMITS,
    number,
    options_of,
    output_file,
    output_folder,
    seconds,
)
from crosswalk.emu.load.builtin import GUESTS
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.registry import KINDS
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import Vendor
from crosswalk.walker.formats.readers import READERS
from crosswalk.walker.protection.policy import TableKind


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
    assert expected == number()(text)


@pytest.mark.parametrize(
    "text",
    ["", "x", "0x", "1f00", "0x1g", "0b1", "0o7", "010", "1__0", "_1", "1_", "+1", "1.0", "٣"],
)
def test_anything_else_is_no_number(text):
    with pytest.raises(ArgumentTypeError) as caught:
        number()(text)
    assert f"{text!r} is not a number (0x1f00 or 7936)" == str(caught.value)


@pytest.mark.parametrize("text", ["-1", "-0x1000"])
def test_a_negative_number_is_an_error_of_its_own(text):
    with pytest.raises(ArgumentTypeError) as caught:
        number()(text)
    assert f"{text} is negative" == str(caught.value)


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
    with pytest.raises(ArgumentTypeError) as caught:
        number(bits=bits)(text)
    assert f"{text} does not fit in {bits} bits" == str(caught.value)


def test_a_count_that_is_too_large_names_the_largest():
    with pytest.raises(ArgumentTypeError) as caught:
        number(bits=8)("256")
    assert "256 is more than 255" == str(caught.value)
    assert 255 == number(bits=8)("255")


@pytest.mark.parametrize(("command", "name"), [("matrix", "--select"), ("fuzz", "--corpus")])
def test_the_value_of_an_unset_variable_is_an_error(command, name):
    with pytest.raises(ArgumentTypeError):
        option_of(command, name)["type"]("")


def test_an_error_about_a_huge_number_is_short():
    with pytest.raises(ArgumentTypeError) as caught:
        number()("9" * 1_000_000)
    assert len(str(caught.value)) < 300


@given(st.integers(0, (1 << 64) - 1))
def test_a_number_survives_being_written_and_parsed(value):
    assert [value] * 3 == [number()(form) for form in (f"{value:#x}", f"{value}", f"{value:_}")]


@pytest.mark.parametrize(
    ("text", "message"),
    [("15", "15 is less than 16"), ("0x1001", "0x1001 is more than 4,096")],
)
def test_a_number_out_of_its_range_is_an_error(text, message):
    with pytest.raises(ArgumentTypeError) as caught:
        number(least=16, most=4096)(text)
    assert message == str(caught.value)
    assert [16, 4096] == [number(least=16, most=4096)(each) for each in ("16", "4096")]


@pytest.mark.parametrize("text", ["0", "-1", "50.5", "nan", "inf"])
def test_a_time_is_above_0_and_within_its_limit(text):
    with pytest.raises(ArgumentTypeError) as caught:
        seconds(50)(text)
    assert f"{text} is not above 0 and at most 50" == str(caught.value)
    assert [0.25, 50] == [seconds(50)(each) for each in ("0.25", "50")]


@pytest.mark.parametrize("name", ["", ".", "no/file", "file/below", "a\0b"])
def test_a_file_that_can_not_be_written_is_found_before_the_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentTypeError):
        output_file(name)
    assert tmp_path / "new" == output_file(str(tmp_path / "new"))
    assert tmp_path / "file" == output_file(str(tmp_path / "file"))


@pytest.mark.parametrize("name", ["", "file", "file/below", "a\0b"])
def test_a_folder_that_can_not_be_made_is_found_before_the_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentTypeError):
        output_folder(name)
    assert tmp_path / "new/below" == output_folder(str(tmp_path / "new/below"))


def option_of(command, name):
    return next(each for each in options_of(COMMANDS[command]) if name in each.names).settings


@pytest.mark.parametrize(
    ("command", "name", "values"),
    [
        ("run", "--paging", GUESTS),
        ("walk", "--vendor", [each.value for each in Vendor]),
        ("walk", "--kind", [each.value for each in READERS]),
        ("translate", "--access", [each.name.lower() for each in AccessType]),
        ("protect", "--tables", [each.value for each in TableKind]),
    ],
)
def test_choices_are_those_of_the_room_that_defines_them(command, name, values):
    assert list(values) == option_of(command, name)["choices"]


def test_helps_name_what_the_rooms_define():
    assert KINDS in option_of("fuzz", "--walker")["help"]
    assert ", ".join(each.value for each in Capability) in option_of("fuzz", "--claims")["help"]
    assert f"{DEFAULT_LIMIT:,} mappings" in option_of("check", "--limit")["help"]
    limits = Limits()
    assert WALKER_LIMITS == (limits.seconds, limits.output >> 20, limits.memory >> 20)
