"""Raw code in each mode: the state at its first byte is the one that is documented."""

import numpy as np
import pytest

from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.formats import open_image, parse_as
from crosswalk.emu.load.points import parse_point
from crosswalk.walker.errors import BadInput
from tests.emu.load.elf_files import code
from tests.emu.load.small_guests import MIB, SAY_DONE, at_entry, booted, general, numbers

SPOTS = [
    ("raw@0x7c00:16", 0x7C00, 16),
    ("raw@0x20000:16", 0x2_0000, 16),
    ("raw@0x8000:32", 0x8000, 32),
    ("raw@0x200000:32", 0x20_0000, 32),
    ("raw@0x200000:64", 0x20_0000, 64),
]
spots = pytest.mark.parametrize(("text", "address", "bits"), SPOTS)


def talking(address, bits):
    return code(SAY_DONE, bits=bits, address=address % 0x1_0000 if bits == 16 else address)


@spots
def test_the_bytes_are_entered_at_the_first_one_in_their_mode(text, address, bits):
    data = talking(address, bits)
    machine = at_entry(data, as_=parse_as(text))
    cpu = machine.cpu
    cpu.load()
    assert address == cpu.segment("cs").base + cpu.rip
    assert data == machine.ram.read(address, len(data))
    assert b"." == bytes(booted(data, as_=parse_as(text))[0].console)


def test_real_mode_has_segments_at_0_a_stack_and_a_boot_drive():
    machine = at_entry(talking(0x7C00, 16), as_=parse_as("raw@0x7c00:16"))
    cpu = machine.cpu
    drive, stack = general(machine, "rdx", "rsp")
    assert (0x80, True) == (drive, 0x1000 < stack <= 0x7C00)
    assert [(0, 0)] * 4 == [
        (cpu.segment(name).selector, cpu.segment(name).base) for name in ("cs", "ds", "es", "ss")
    ]
    far = at_entry(talking(0x2_0000, 16), as_=parse_as("raw@0x20000:16")).cpu
    far.load()
    assert (0x2000, 0x2_0000, 0) == (far.segment("cs").selector, far.segment("cs").base, far.rip)


def test_a_call_of_the_bios_halts_and_is_the_last_event():
    data = code("mov ax, 0x0e41\nint 0x10", bits=16, address=0x7C00)
    with pytest.raises(GuestFailure, match="halted for good") as caught:
        booted(data, parse_point("idle"), as_=parse_as("raw@0x7c00:16"))
    assert any("INT 16 " in line and "at 0x7c05" in line for line in caught.value.lines)


def test_32_and_64_bits_are_handed_xens_start_info():
    for text in ("raw@0x200000:32", "raw@0x200000:64"):
        machine = at_entry(b"\xf4", as_=parse_as(text), arguments="x")
        rdi, rbx = general(machine, "rdi", "rbx")
        assert rdi == rbx
        assert 0x336EC578 == numbers(machine.ram, rbx, "<I")[0]


@pytest.mark.parametrize(
    ("text", "size", "given", "message"),
    [
        ("raw@0x7c00:16", 0, {}, "an empty file"),
        ("raw@0xf000:16", MIB, {}, "it has to end below 1 MiB"),
        ("raw@0x12345:16", 1, {}, "at a multiple of 16"),
        ("raw@0x7c00:16", 1, {"arguments": "x"}, "no modules and no arguments"),
        ("raw@0x400:32", 1, {}, "segment 0 at 0x400, 1 bytes, doesn't lie in RAM"),
        ("raw@0xfffff000:64", 1, {}, "doesn't lie in RAM"),
    ],
)
def test_what_cannot_be_placed_is_refused(text, size, given, message):
    with pytest.raises(BadInput, match=message):
        at_entry(bytes(size), as_=parse_as(text), **given)


def test_a_compressed_file_is_taken_as_it_is():
    data = b"\x1f\x8b" + bytes(30)
    assert data == open_image(data, as_=parse_as("raw@0x8000:32")).image.segments[0][1]


@spots
def test_two_boots_are_the_same_byte_for_byte(text, address, bits):
    rams = [booted(talking(address, bits), as_=parse_as(text))[0].ram.bytes for _ in range(2)]
    assert np.array_equal(*rams)
