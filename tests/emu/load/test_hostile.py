"""Damaged and hostile files of guests: each is loaded, or refused in one line."""

import random

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.formats import Given, open_image
from crosswalk.emu.load.placing import Module
from crosswalk.walker.errors import BadInput
from tests.emu.load.elf_files import BASE, Part, elf_file, note
from tests.emu.load.small_guests import multiboot2_header, multiboot_header, with_header

ENTRY = BASE.to_bytes(4, "little")
FILES = {
    "multiboot": with_header(multiboot_header(), symbols={"start": BASE}),
    "multiboot by addresses": multiboot_header(1 << 16, BASE, BASE, 0, BASE + 64, BASE + 32) + b"x",
    "multiboot2": with_header(
        multiboot2_header((1, 0, (6).to_bytes(4, "little")), (5, 1, bytes(12))),
        symbols={"start": BASE},
    ),
    "pvh": elf_file([Part(BASE, b"\xf4")], bits=64, notes=note(b"Xen", 18, ENTRY)),
    "elf64": elf_file([Part(BASE, b"\xf4", BASE << 8, 0x5000)], bits=64, symbols={"start": BASE}),
}
GIVEN = Given(modules=(Module("one", b"1"),), arguments="a=1")
NUMBERS = (0, 1, 0x1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def damaged(data, source):
    """A file with a number changed, cut off, or with bytes missing, mostly in its first 256."""
    changed, at = bytearray(data), source.randrange(min(len(data), source.choice((256, len(data)))))
    match source.randrange(6):
        case 0:
            del changed[max(at, 1) :]
        case 1:
            del changed[at : at + source.randrange(1, 9)]
        case 2:
            changed[at : at + 8] = source.randrange(1 << 64).to_bytes(8, "little")
        case _:
            changed[at : at + 4] = source.choice(NUMBERS).to_bytes(4, "little")
    return bytes(changed)


def outcome(data, ram):
    """What a file comes to: its format, or the line that refuses it."""
    try:
        guest = open_image(data, given=GIVEN)
        guest.place(ram)
    except BadInput as refusal:
        return str(refusal)
    return guest.format.value


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_changed_the_guest_is_loaded_or_refused_in_one_line(name):
    ram, source, found = Ram(0, 16 << 20), random.Random(name), set()
    for _ in range(60):
        found.add(outcome(damaged(FILES[name], source), ram))
        ram.bytes[: 4 << 20] = 0
    assert not any("\n" in line or len(line) > 500 for line in found)
    # Some are loaded all the same, and there are many ways to be refused.
    assert name.partition(" ")[0] in found
    assert len(found) > 4


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_good_before_it_is_changed(name):
    assert name.partition(" ")[0] == outcome(FILES[name], Ram(0, 16 << 20))
