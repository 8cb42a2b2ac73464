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


def repeated(part, count):
    """A 64-bit ELF file with `part` (of "program" or "section" headers) `count` times over."""
    data = bytearray(elf_file([Part(BASE, b"\xf4" * 0x100)], bits=64, notes=note(b"Xen", 1, ENTRY)))
    place, number, size = {"program": (0x20, 0x38, 56), "section": (0x28, 0x3C, 64)}[part]
    offset = int.from_bytes(data[place : place + 8], "little")
    known = int.from_bytes(data[number : number + 2], "little")
    last = data[offset + size * (known - 1) : offset + size * known]
    headers = data[offset : offset + size * known] + last * (count - known)
    data[place : place + 8] = len(data).to_bytes(8, "little")
    data[number : number + 2] = count.to_bytes(2, "little")
    return bytes(data + headers), len(data), size, known


def test_sections_whose_names_have_no_end_are_refused_before_they_are_read():
    data, at, size, known = repeated("section", 4000)
    names = at + size * (known - 1)
    endless = bytearray(data + b"x" * (1 << 20))
    endless[names + 24 : names + 32] = len(data).to_bytes(8, "little")
    with pytest.raises(BadInput, match="a section's name has no end"):
        open_image(bytes(endless))


def test_notes_of_many_segments_are_refused_before_they_are_read():
    data, at, size, known = repeated("program", 64)
    many = bytearray(data + bytes(1 << 20))
    for number in range(known - 1, 64):
        row = at + size * number
        many[row + 8 : row + 16] = len(data).to_bytes(8, "little")
        many[row + 32 : row + 40] = (1 << 20).to_bytes(8, "little")
    with pytest.raises(BadInput, match="bytes of notes"):
        open_image(bytes(many))


def test_segments_that_hold_the_same_bytes_again_and_again_are_refused():
    data, at, size, known = repeated("program", 64)
    many = bytearray(data)
    for number in range(known - 1, 64):
        row = at + size * number
        many[row : row + 4] = (1).to_bytes(4, "little")
        many[row + 8 : row + 16] = bytes(8)
        many[row + 32 : row + 40] = many[row + 40 : row + 48] = len(data).to_bytes(8, "little")
    with pytest.raises(BadInput, match="more than twice the file"):
        open_image(bytes(many))


def test_a_segment_that_no_page_maps_is_refused():
    data = elf_file([Part(BASE, b"\xf4", (BASE << 8) + 0x80)], bits=64, entry=BASE << 8 | 0x80)
    with pytest.raises(BadInput, match="segment 0 at 0x20000080 can't be mapped to 0x200000"):
        open_image(data).place(Ram(0, 16 << 20))
