"""The PVH boot ABI: its note, the state at its entry, hvm_start_info."""

import struct

import numpy as np
import pytest

from crosswalk.emu.load.formats import As, open_image
from crosswalk.emu.load.image import Format
from crosswalk.emu.load.placing import Module
from crosswalk.emu.pc.firmware import RSDP, memory_ranges
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.errors import BadInput
from tests.emu.load.elf_files import BASE, Part, code, elf_file, note
from tests.emu.load.small_guests import MIB, SAY_DONE, at_entry, booted, general, numbers, text_at

ENTRY = BASE + 0x40


WHERE = struct.pack("<Q", ENTRY)


def kernel(description=WHERE, *, kind=18, owner=b"Xen", bits=64):
    content = bytes(0x40) + code(SAY_DONE, address=ENTRY)
    notes = note(b"GNU", 3, bytes(20)) + note(owner, kind, description)
    return elf_file([Part(BASE, content)], bits=bits, notes=notes)


MODULES = (Module("one", b"first module", "with arguments"), Module("two", b"2" * 5000))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("form", ["<I", "<Q"])
def test_the_note_says_where_the_guest_is_entered(bits, form):
    data = kernel(struct.pack(form, ENTRY), bits=bits)
    assert (Format.PVH, ENTRY) == ((guest := open_image(data)).format, guest.image.entry)
    assert b"." == bytes(booted(data)[0].console)


def test_the_entry_is_flat_32_bit_code_with_a_task():
    machine = at_entry(kernel())
    cpu = machine.cpu
    cpu.load()
    assert (ENTRY, 0, 0) == (cpu.rip, cpu.cpl, cpu.rflags & (RFlags.IF | RFlags.VM | 1 << 8))
    flat = [(cpu.segment(name).base, cpu.segment(name).limit) for name in ("cs", "ds", "es", "ss")]
    assert [(0, 0xFFFF_FFFF)] * 4 == flat
    assert (0, 0x67) == (cpu.segment("tr").base, cpu.segment("tr").limit)


def test_the_start_info_has_modules_arguments_memory_and_the_root_pointer():
    machine = at_entry(kernel(), arguments="a=1 b", modules=MODULES)
    ram, (at,) = machine.ram, general(machine, "rbx")
    magic, version, flags, count, modules, line, root, memory, entries, reserved = numbers(
        ram, at, "<IIIIQQQQII"
    )
    assert (0x336EC578, 1, 0, 2, 0) == (magic, version, flags, count, reserved)
    assert ("a=1 b", RSDP, b"RSD PTR ") == (text_at(ram, line), root, ram.read(root, 8))
    rows = [numbers(ram, modules + 32 * number, "<QQQQ") for number in range(count)]
    assert [each.content for each in MODULES] == [ram.read(a, size) for a, size, _, _ in rows]
    assert ["one with arguments", "two"] == [text_at(ram, row[2]) for row in rows]
    found = [numbers(ram, memory + 24 * number, "<QQII") for number in range(entries)]
    assert [(a, b, 1 if usable else 2, 0) for a, b, usable in memory_ranges(16 * MIB)] == found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (kernel(kind=17), "no note XEN_ELFNOTE_PHYS32_ENTRY"),
        (kernel(owner=b"Lin"), "no note XEN_ELFNOTE_PHYS32_ENTRY"),
        (kernel(b"\0\0"), "a damaged note of Xen's: 2 bytes of entry"),
        (kernel(struct.pack("<Q", 1 << 32)), "an entry of 32-bit code at 0x100000000"),
        (b"no ELF file", "damaged"),
    ],
)
def test_a_file_without_a_good_note_is_refused(data, message):
    with pytest.raises(BadInput, match=message):
        open_image(data, as_=As(Format.PVH))


def test_two_boots_are_the_same_byte_for_byte():
    rams = [booted(kernel(), modules=MODULES)[0].ram.bytes for _ in range(2)]
    assert np.array_equal(*rams)
