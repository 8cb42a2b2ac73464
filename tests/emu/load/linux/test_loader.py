"""The boot protocol: Linux Documentation/arch/x86/boot.rst and zero-page.rst."""

import struct
from dataclasses import replace

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.cpu import paging_context
from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.linux.loader import (
    RESERVED,
    USABLE,
    enter_kernel,
    enter_kernel_32,
    place_kernel,
    zero_page,
)
from crosswalk.emu.pc.pc import Machine
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.errors import BadInput
from crosswalk.walker.mappings import coalesce, mappings
from crosswalk.walker.memory import Segments
from tests.emu.load.linux.kernels import BASE, bzimage, talking, vmlinux
from tests.packing import gzipped

MIB = 1 << 20
ELF = vmlinux(talking(""))


@pytest.fixture
def kernel():
    return parse_kernel(bzimage(gzipped(ELF)))


def number(page, at, size):
    return int.from_bytes(page[at : at + size], "little")


def test_the_zero_page_has_each_field_where_the_protocol_has_it(kernel):
    page = zero_page(
        kernel.setup_header,
        command_line=0x12345,
        initrd=(0x7654000, 1234),
        ranges=[(0, 0x9F000, USABLE), (0x9F000, 0x1000, RESERVED)],
    )
    assert 4096 == len(page)
    assert (0xAA55, b"HdrS", 0x020F) == (
        number(page, 0x1FE, 2),
        page[0x202:0x206],
        number(page, 0x206, 2),
    )
    assert (0xFF, 1) == (page[0x210], page[0x211])
    assert (0x7654000, 1234, 0x12345) == tuple(number(page, at, 4) for at in (0x218, 0x21C, 0x228))
    assert 2 == page[0x1E8]
    assert (0, 0x9F000, 1, 0x9F000, 0x1000, 2) == struct.unpack_from("<QQIQQI", page, 0x2D0)
    assert 0 == page[0x1EF]  # The sentinel: fields that a loader doesn't know are clean.


def test_a_kernel_without_a_setup_header_gets_one():
    page = zero_page(b"", command_line=0, initrd=(0, 0), ranges=[])
    assert (0xAA55, b"HdrS", 0x020F) == (
        number(page, 0x1FE, 2),
        page[0x202:0x206],
        number(page, 0x206, 2),
    )


def test_kernel_arguments_and_disk_are_placed_where_the_zero_page_says(kernel):
    ram = Ram(0, 32 * MIB)
    place_kernel(ram, kernel, "one two=3", b"DISK" * 2000)
    page = ram.read(0x2000, 4096)
    assert ELF[0x1000:] == ram.read(BASE, len(ELF) - 0x1000)
    assert b"one two=3\0" == ram.read(number(page, 0x228, 4), 10)
    start, size = number(page, 0x218, 4), number(page, 0x21C, 4)
    assert (0, 8000, b"DISK" * 2000) == (start % 4096, size, ram.read(start, size))
    ranges = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * at) for at in range(page[0x1E8])]
    assert [(0, 0x9F000, 1), (MIB, 31 * MIB, 1)] == ranges


@pytest.mark.parametrize(
    ("mib", "arguments", "disk", "message"),
    [
        (16, "", b"", "the kernel ends at 0x1010000, the disk has 0 bytes, RAM 16 MiB"),
        (20, "", bytes(4 * MIB), "don't fit"),
        (32, "x" * 2048, b"", "kernel arguments of 2048 bytes; at most 2047"),
        (32, "a\0b", b"", "no zeros"),
    ],
)
def test_what_does_not_fit_is_refused(kernel, mib, arguments, disk, message):
    with pytest.raises(BadInput, match=message):
        place_kernel(Ram(0, mib * MIB), kernel, arguments, disk)


def test_a_kernel_below_1_mib_is_refused():
    with pytest.raises(BadInput, match="a segment at 0x90000, below 1 MiB"):
        place_kernel(Ram(0, 32 * MIB), parse_kernel(vmlinux("nop", base=0x90000)), "", b"")


@pytest.mark.parametrize("levels", [4, 5])
def test_the_entry_is_in_long_mode_with_everything_mapped_to_itself(levels):
    ram = Ram(0, 32 * MIB)
    machine = Machine(ram)
    enter_kernel(machine, BASE, levels)
    machine.cpu.load()
    cpu, read = machine.cpu, machine.engine.reg_read
    assert (BASE, 0x2000, 0, 0) == (cpu.rip, cpu.general(6), cpu.cpl, cpu.rflags & RFlags.IF)
    assert [0x10, 0x18, 0x18, 0x18] == [cpu.segment(n).selector for n in ("cs", "ds", "es", "ss")]
    gdt = cpu.segment("gdt")
    # Boot code and boot data: flat, 64-bit and read-execute, read-write (boot.rst).
    assert [0x00AF9B000000FFFF, 0x00CF93000000FFFF] == list(
        struct.unpack("<2Q", ram.read(gdt.base + 0x10, 16))
    )
    assert 0x1F == gdt.limit
    context = paging_context(cpu)
    assert levels == context.levels
    (folded,) = coalesce(mappings(Segments([(0, ram.bytes)]), context), ignore=(1 << 64) - 1)
    assert (0, 0, 4 << 30, "rwx", "---") == (
        folded.va,
        folded.pa,
        folded.size,
        folded.rights.supervisor,
        folded.rights.user,
    )
    assert 0 == read(x86.UC_X86_REG_CR4) & ~0x1020


def test_the_32_bit_entry_is_in_protected_mode_without_paging():
    ram = Ram(0, 32 * MIB)
    machine = Machine(ram)
    enter_kernel_32(machine, BASE)
    machine.cpu.load()
    cpu, read = machine.cpu, machine.engine.reg_read
    assert (BASE, 0x2000, 0, 0) == (cpu.rip, cpu.general(6), cpu.cpl, cpu.rflags & RFlags.IF)
    assert [0, 0, 0] == [cpu.general(number) for number in (3, 5, 7)]  # EBX, EBP, EDI
    assert (0x11, 0) == (read(x86.UC_X86_REG_CR0), read(x86.UC_X86_REG_CR4))
    code, *data = (cpu.segment(name) for name in ("cs", "ds", "es", "ss"))
    assert (0x10, 0, 0xFFFF_FFFF) == (code.selector, code.base, code.limit)
    assert [(0x18, 0, 0xFFFF_FFFF)] * 3 == [(s.selector, s.base, s.limit) for s in data]
    gdt = cpu.segment("gdt")
    # Boot code and boot data: flat, 32-bit and read-execute, read-write (boot.rst).
    assert [0x00CF9B000000FFFF, 0x00CF93000000FFFF] == list(
        struct.unpack("<2Q", ram.read(gdt.base + 0x10, 16))
    )
    assert 0x1F == gdt.limit


def test_the_disk_lies_below_the_address_that_the_kernel_can_reach(kernel):
    # initrd_addr_max, at 0x22c of the image.
    header = bytearray(kernel.setup_header)
    struct.pack_into("<I", header, 0x22C - 0x1F1, 20 * MIB - 1)
    ram = Ram(0, 32 * MIB)
    place_kernel(ram, replace(kernel, setup_header=bytes(header)), "", b"DISK")
    start = number(ram.read(0x2000, 4096), 0x218, 4)
    assert (20 * MIB - 4096, b"DISK") == (start, ram.read(start, 4))
