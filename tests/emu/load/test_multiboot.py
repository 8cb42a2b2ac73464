"""Multiboot: the specification's "OS image format", "Machine state", "Boot information format"."""

import struct

import numpy as np
import pytest

from crosswalk.emu.load.formats import open_image
from crosswalk.emu.load.image import Format
from crosswalk.emu.load.multiboot import find_multiboot
from crosswalk.emu.load.placing import Module
from crosswalk.emu.pc.firmware import memory_ranges
from crosswalk.guest.sample.elf import Section, Symbol, SymbolKind
from crosswalk.guest.sample.elf import elf_file as sample_elf_file
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.errors import BadInput
from tests.emu.load.elf_files import BASE, EM_X86_64, Part, code, elf_file
from tests.emu.load.small_guests import (
    MIB,
    SAY_DONE,
    at_entry,
    booted,
    general,
    multiboot_header,
    numbers,
    text_at,
    with_header,
)

KERNEL = with_header(multiboot_header(), symbols={"start": BASE})
MODULES = (Module("one", b"first module", "with arguments"), Module("two", b"2" * 5000))


def information(machine):
    _, at = general(machine, "rax", "rbx")
    return at


def test_the_entry_is_flat_32_bit_code_without_paging():
    machine = at_entry(KERNEL)
    cpu = machine.cpu
    assert 0x2BADB002 == general(machine, "rax")[0]
    cpu.load()
    assert (BASE + 0x10, 0, 0) == (cpu.rip, cpu.cpl, cpu.rflags & (RFlags.IF | RFlags.VM))
    flat = [(cpu.segment(name).base, cpu.segment(name).limit) for name in ("cs", "ds", "es", "ss")]
    assert [(0, 0xFFFF_FFFF)] * 4 == flat


def test_the_guest_runs():
    machine, reached = booted(KERNEL)
    assert b"." == bytes(machine.console)
    assert None is reached.paging
    assert "paging is off" in reached.unread


def test_memory_the_command_line_and_the_loader_are_told():
    machine = at_entry(KERNEL, arguments="a=1 b")
    at, ram = information(machine), machine.ram
    flags, lower, upper = numbers(ram, at, "<III")
    assert 0b10_0110_1101 == flags
    assert (639, 15 * 1024) == (lower, upper)
    assert "tiny a=1 b" == text_at(ram, *numbers(ram, at + 16, "<I"))
    assert "Crosswalk" == text_at(ram, *numbers(ram, at + 64, "<I"))


def test_the_memory_map_is_the_firmwares():
    machine = at_entry(KERNEL)
    size, start = numbers(machine.ram, information(machine) + 44, "<II")
    found = [numbers(machine.ram, start + at, "<IQQI") for at in range(0, size, 24)]
    assert found == [
        (20, first, length, 1 if usable else 2)
        for first, length, usable in memory_ranges(machine.ram.size)
    ]


def test_modules_lie_where_the_list_says():
    machine = at_entry(KERNEL, modules=MODULES)
    ram = machine.ram
    count, listed = numbers(ram, information(machine) + 20, "<II")
    rows = [numbers(ram, listed + 16 * number, "<IIII") for number in range(count)]
    assert ["one with arguments", "two"] == [text_at(ram, row[2]) for row in rows]
    assert [each.content for each in MODULES] == [ram.read(a, b - a) for a, b, _, _ in rows]
    assert [0, 0] == [start % 4096 for start, *_ in rows]


def test_symbols_are_loaded_and_their_section_says_where():
    machine = at_entry(KERNEL)
    ram = machine.ram
    count, size, table, names_in = numbers(ram, information(machine) + 28, "<IIII")
    rows = [numbers(ram, table + number * size, "<10I") for number in range(count)]
    names = [text_at(ram, rows[names_in][3] + row[0]) for row in rows]
    assert ["", ".part0", ".symtab", ".strtab", ".shstrtab"] == names
    symbols, strings = rows[names.index(".symtab")], rows[names.index(".strtab")]
    name, value, *_ = numbers(ram, symbols[3] + 16, "<III")
    assert ("start", BASE) == (text_at(ram, strings[3] + name), value)


def test_a_screen_is_told_to_a_guest_that_wants_one():
    machine = at_entry(with_header(multiboot_header(4, *[0] * 9)))
    at = information(machine)
    assert 1 << 12 == numbers(machine.ram, at, "<I")[0] & 1 << 12
    assert (0xB8000, 160, 80, 25, 16, 2) == numbers(machine.ram, at + 88, "<QIIIBB")


def test_a_64_bit_file_is_entered_in_32_bit_code_where_its_entry_is_loaded():
    high = 0xFFFF_FFFF_8020_0000
    header = multiboot_header().ljust(16, b"\0")
    part = Part(BASE, header + code(SAY_DONE, address=BASE + 16), high)
    data = elf_file([part], bits=64, entry=high + 16)
    machine = at_entry(data)
    machine.cpu.load()
    assert BASE + 16 == machine.cpu.rip
    assert b"." == bytes(booted(data)[0].console)


def flat(load, load_end=0, bss_end=0, *, entry=0x30_0020, header=0x30_0000):
    """A file without a format, which its header says how to load."""
    fields = (header, load, load_end, bss_end, entry)
    return multiboot_header(1 << 16, *fields).ljust(32, b"\0") + code(SAY_DONE, address=entry)


def test_addresses_of_the_header_replace_those_of_a_format():
    data = flat(0x30_0000, bss_end=0x30_8000)
    ((start, content, size),) = open_image(data).image.segments
    assert (0x30_0000, data, 0x8000) == (start, content, size)
    assert b"." == bytes(booted(data)[0].console)


def test_an_elf_file_has_its_symbols_also_where_the_header_says_how_to_load_it():
    header = multiboot_header(1 << 16, BASE, BASE, 0, 0, BASE + 32).ljust(32, b"\0")
    data = sample_elf_file(
        BASE + 32,
        [Section(".text", BASE, BASE, 64, content=header + code(SAY_DONE, address=BASE + 32))],
        [Symbol("begin", BASE + 32, 16, SymbolKind.FUNCTION, ".text")],
    )
    guest = open_image(data)
    assert {"begin": BASE + 32} == guest.image.symbols
    assert b"." == bytes(booted(data)[0].console)


def test_what_lies_before_the_header_may_be_loaded_or_not():
    data = bytes(64) + flat(0x30_0000)
    ((start, content, _),) = open_image(data).image.segments
    assert (0x30_0000, data[64:]) == (start, content)
    data = bytes(64) + flat(0x30_0000 - 64, 0x30_0020)
    ((start, content, size),) = open_image(data).image.segments
    assert (0x30_0000 - 64, data[:96], 96) == (start, content, size)


def test_the_header_is_looked_for_at_multiples_of_4_in_the_first_8_kib():
    header = multiboot_header(3)
    assert (8180, 3) == ((found := find_multiboot(bytes(8180) + header)).at, found.flags)
    for data in (bytes(8184) + header, bytes(2) + header, multiboot_header(3, checksum=0)):
        assert None is find_multiboot(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_header(multiboot_header(8)), "demands what isn't known: flags 0x8"),
        (multiboot_header().ljust(64, b"\0"), "without addresses in a file that is no ELF file"),
        (flat(0x30_0000)[:28], "truncated Multiboot header: it ends in its addresses"),
        (flat(0x2F_FF00), "impossible addresses"),
        (flat(0x30_0000, 0x30_1000), "impossible addresses"),
        (flat(0x30_0000, 0x30_0010, 0x30_0008), "impossible addresses"),
        (flat(0x30_0000, 0x20_0000), "impossible addresses"),
        (flat(0x30_0000, bss_end=0x20_0000), "impossible addresses"),
        (with_header(multiboot_header(), machine=8), "not a guest for x86: an ELF file of EM_MIPS"),
        (with_header(multiboot_header())[:0x1000], "ends beyond its file"),
    ],
)
def test_a_header_that_contradicts_the_file_is_refused(data, message):
    with pytest.raises(BadInput, match=message):
        open_image(data)


@pytest.mark.parametrize(
    ("part", "mib", "message"),
    [
        (Part(BASE, b"", size=1 << 31), 16, r"doesn't lie in RAM that is usable: .* \(--ram\)"),
        (Part(0x9_F000, b"", size=0x2000), 16, "segment 1 at 0x9f000"),
        (Part(BASE + 8, b"x"), 16, "segment 1 at 0x200008 overlaps segment 0"),
        (Part(0, b"x"), 16, "segment 1 at 0x0"),
    ],
)
def test_segments_outside_of_ram_and_over_others_are_refused(part, mib, message):
    header = multiboot_header().ljust(16, b"\0")
    with pytest.raises(BadInput, match=message):
        at_entry(elf_file([Part(BASE, header), part]), mib=mib)


def test_an_entry_outside_of_the_guest_is_refused():
    header = multiboot_header().ljust(16, b"\0")
    data = elf_file([Part(BASE, header)], entry=0xC020_0000)
    with pytest.raises(BadInput, match="the entry 0xc0200000 lies in none of the guest's segments"):
        at_entry(data)


def test_a_module_that_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="module big of 16,777,216 bytes doesn't fit in RAM"):
        at_entry(KERNEL, modules=(Module("big", bytes(16 * MIB)),))


def test_what_is_handed_on_does_not_lie_in_the_guest():
    low = 0x1_0000
    header = multiboot_header().ljust(16, b"\0")
    content = header + code(SAY_DONE, address=low + 16)
    data = elf_file([Part(low, content, size=0x8_0000)], entry=low + 16)
    machine = at_entry(data)
    at = information(machine)
    assert at >= low + 0x8_0000
    assert content == machine.ram.read(low, len(content))


def test_two_boots_are_the_same_byte_for_byte():
    rams = [booted(KERNEL, modules=MODULES)[0].ram.bytes for _ in range(2)]
    assert np.array_equal(*rams)
    assert not np.array_equal(rams[0], booted(KERNEL)[0].ram.bytes)


def test_code_for_64_bits_in_a_32_bit_file_is_loaded_all_the_same():
    data = with_header(multiboot_header(), machine=EM_X86_64)
    assert Format.MULTIBOOT == open_image(data).format


def test_the_sum_of_the_header_counts():
    wrong = with_header(multiboot_header(checksum=1))
    with pytest.raises(BadInput, match="no guest of a known format"):
        open_image(wrong)
    assert struct.pack("<I", 0x1BADB002) in wrong
