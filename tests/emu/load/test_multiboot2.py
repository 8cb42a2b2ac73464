"""Multiboot2: "OS image format", "I386 machine state", "Boot information format"."""

import struct

import numpy as np
import pytest

from crosswalk.emu.load.formats import open_image
from crosswalk.emu.load.image import Format
from crosswalk.emu.load.multiboot2 import find_multiboot2
from crosswalk.emu.load.placing import Module
from crosswalk.emu.pc.firmware import memory_ranges
from crosswalk.walker.errors import BadInput
from tests.emu.load.elf_files import BASE, code
from tests.emu.load.small_guests import (
    MIB,
    SAY_DONE,
    at_entry,
    booted,
    general,
    multiboot2_header,
    multiboot_header,
    numbers,
    text_at,
    with_header,
)

KERNEL = with_header(multiboot2_header(), symbols={"start": BASE})
MODULES = (Module("one", b"first module", "with arguments"), Module("two", b"2" * 5000))


def tags(machine):
    """The content of each tag of the boot information, by type, and the address of it all."""
    magic, at = general(machine, "rax", "rbx")
    assert (0x36D76289, 0) == (magic, at % 8)
    total, reserved = numbers(machine.ram, at, "<II")
    data = machine.ram.read(at, total)
    found, here = {}, 8
    while here < total:
        kind, size = struct.unpack_from("<II", data, here)
        found.setdefault(kind, []).append(data[here + 8 : here + size])
        here += -(-size // 8) * 8
    assert (0, total, [b""]) == (reserved, here, found.pop(0))
    return found


def test_the_guest_runs():
    machine, _ = booted(KERNEL)
    assert b"." == bytes(machine.console)


def test_the_information_has_a_tag_for_all_that_there_is():
    found = tags(at_entry(KERNEL, arguments="a=1 b", modules=MODULES))
    assert {1, 2, 3, 4, 6, 9, 14, 15} == set(found)
    assert ([b"tiny a=1 b\0"], [b"Crosswalk\0"]) == (found[1], found[2])
    assert [struct.pack("<II", 639, 15 * 1024)] == found[4]
    (root,) = found[15]
    assert (b"RSD PTR ", 0, 0) == (root[:8], sum(root[:20]) % 256, sum(root) % 256)
    assert [root[:20]] == found[14]


def test_the_memory_map_is_the_firmwares():
    machine = at_entry(KERNEL)
    (content,) = tags(machine)[6]
    assert (24, 0) == struct.unpack_from("<II", content)
    assert [(a, b, 1 if usable else 2, 0) for a, b, usable in memory_ranges(16 * MIB)] == (
        list(struct.iter_unpack("<QQII", content[8:]))
    )


def test_each_module_has_a_tag():
    machine = at_entry(KERNEL, modules=MODULES)
    found = tags(machine)[3]
    assert [b"one with arguments\0", b"two\0"] == [each[8:] for each in found]
    places = [struct.unpack_from("<II", each) for each in found]
    assert [each.content for each in MODULES] == [machine.ram.read(a, b - a) for a, b in places]


def test_symbols_are_loaded_and_their_section_says_where():
    machine = at_entry(KERNEL)
    (content,) = tags(machine)[9]
    count, size, names_in = struct.unpack_from("<III", content)
    rows = [struct.unpack_from("<10I", content, 12 + at * size) for at in range(count)]
    assert ".symtab" in [text_at(machine.ram, rows[names_in][3] + row[0]) for row in rows]
    assert (5, 40) == (count, size)


def test_an_entry_in_the_header_goes_before_that_of_the_file():
    tag = (3, 0, struct.pack("<I", BASE + 0x60))
    data = with_header(multiboot2_header(tag).ljust(0x60, b"\0"))
    machine = at_entry(data)
    machine.cpu.load()
    assert BASE + 0x60 == machine.cpu.rip
    other = with_header(multiboot2_header((3, 0, struct.pack("<I", BASE + 0x1000))))
    assert BASE + 0x1000 == open_image(other).image.entry


def flat(*addresses, entry=0x30_0040):
    more = [(3, 0, struct.pack("<I", entry))] if entry else []
    header = multiboot2_header((2, 0, struct.pack("<4I", *addresses)), *more)
    return header.ljust(0x40, b"\0") + code(SAY_DONE, address=0x30_0040)


def test_addresses_of_the_header_replace_those_of_a_format():
    data = flat(0x30_0000, 0x30_0000, 0, 0x30_8000)
    ((start, content, size),) = open_image(data).image.segments
    assert (0x30_0000, data, 0x8000) == (start, content, size)
    assert b"." == bytes(booted(data)[0].console)


def test_a_load_address_of_all_ones_is_the_beginning_of_the_file():
    data = flat(0x30_0000, 0xFFFF_FFFF, 0, 0)
    shifted = bytes(32) + data
    ((start, content, _),) = open_image(shifted).image.segments
    assert (0x30_0000 - 32, shifted) == (start, content)


def test_a_guest_that_may_be_moved_is_told_where_it_is():
    relocatable = (10, 0, struct.pack("<IIII", 0, 0xFFFF_FFFF, 4096, 0))
    found = tags(at_entry(with_header(multiboot2_header(relocatable))))
    assert [struct.pack("<I", BASE)] == found[21]


def test_a_screen_is_told_to_a_guest_that_wants_one():
    found = tags(at_entry(with_header(multiboot2_header((5, 0, bytes(12))))))
    assert [struct.pack("<QIIIBBH", 0xB8000, 160, 80, 25, 16, 2, 0)] == found[8]


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ((99, 0, b""), "demands what isn't known: a tag 99"),
        ((1, 0, struct.pack("<II", 6, 77)), r"demands unknown information: \[77\]"),
        ((3, 0, b""), "a tag 3 of 0 bytes"),
        ((2, 0, struct.pack("<4I", BASE, BASE, 0, 0)), "with addresses and without an entry"),
    ],
)
def test_what_a_header_demands_and_nobody_has_is_refused(tag, message):
    with pytest.raises(BadInput, match=message):
        open_image(with_header(multiboot2_header(tag)))


@pytest.mark.parametrize("tag", [(99, 1, b""), (1, 1, struct.pack("<I", 77)), (4, 0, bytes(4))])
def test_what_is_optional_or_known_is_no_demand(tag):
    assert Format.MULTIBOOT2 == open_image(with_header(multiboot2_header(tag))).format


GOOD = multiboot2_header((5, 1, bytes(12)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_header(multiboot2_header(architecture=4)), r"another architecture \(4\)"),
        (GOOD, "without addresses in a file that is no ELF file"),
        (GOOD[:-8], "truncated Multiboot2 header"),
        (flat(0x30_0000, 0x20_0000, 0, 0), "impossible addresses"),
        (GOOD.replace(b"\x05\0\x01\0\x14", b"\x05\0\x01\0\x07"), "a tag of type 5 has 7 bytes"),
        (GOOD.replace(b"\x05\0\x01\0\x14", b"\x05\0\x01\0\xff"), "a tag of type 5 has 255 bytes"),
        (GOOD[:-8] + b"\x05\0\x01\0\x08\0\0\0", "its tags have no end"),
    ],
)
def test_a_damaged_header_is_refused(data, message):
    with pytest.raises(BadInput, match=message):
        open_image(data)


def test_the_header_is_looked_for_at_multiples_of_8_in_the_first_32_kib():
    header = multiboot2_header()
    assert 32768 - 24 == find_multiboot2(bytes(32768 - 24) + header).at
    for data in (bytes(4) + header, multiboot2_header(checksum=3), bytes(32768) + header):
        assert None is find_multiboot2(data)


def test_a_guest_of_both_kinds_is_loaded_as_the_newer_one():
    both = with_header(multiboot_header().ljust(16, b"\0") + multiboot2_header())
    assert Format.MULTIBOOT2 == open_image(both).format


def test_two_boots_are_the_same_byte_for_byte():
    rams = [booted(KERNEL, modules=MODULES)[0].ram.bytes for _ in range(2)]
    assert np.array_equal(*rams)
