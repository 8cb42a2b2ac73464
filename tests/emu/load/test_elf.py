import struct

import pytest

from crosswalk.emu.load.elf import read_elf_guest
from crosswalk.walker.errors import BadInput
from tests.emu.load.elf_files import EM_X86_64, Part, elf_file, note

CODE = b"\xfa\xf4"
LOW, HIGH = 0x10_0000, 0xFFFF_FFFF_8010_0000
both = pytest.mark.parametrize("bits", [32, 64])


@both
def test_segments_have_physical_and_linear_addresses_and_zeros_behind_their_content(bits):
    elf = read_elf_guest(elf_file([Part(LOW, CODE, 0xC010_0000, 0x3000)], bits=bits))
    ((pa, content, size),) = elf.image().segments
    assert (LOW, CODE, 0x3000, bits) == (pa, content, size, elf.bits)
    assert 0xC010_0000 == elf.segments[0].va


@pytest.mark.parametrize(
    ("entry", "physical"),
    [(HIGH + 1, LOW + 1), (LOW + 1, LOW + 1), (HIGH + 2, HIGH + 2)],
    ids=["linear", "physical", "outside"],
)
def test_an_entry_at_a_linear_address_of_a_segment_is_where_it_is_loaded(entry, physical):
    elf = read_elf_guest(elf_file([Part(LOW, CODE, HIGH)], bits=64, entry=entry))
    assert (entry, physical) == (elf.entry, elf.physical_entry)


@both
def test_sections_are_told_by_physical_address_and_symbols_by_linear_one(bits):
    high = 0xC010_0000
    symbols = {"start": high, "halt": high + 1}
    image = read_elf_guest(elf_file([Part(LOW, CODE, high)], bits=bits, symbols=symbols)).image()
    assert ((".part0", LOW, 2),) == image.sections
    assert symbols == image.symbols


def test_a_stripped_file_has_no_symbols():
    assert {} == read_elf_guest(elf_file([Part(LOW, CODE)], sections=False)).image().symbols


@both
def test_notes_have_owner_type_and_description(bits):
    notes = note(b"Xen", 18, struct.pack("<I", LOW)) + note(b"GNU", 3, b"identity")
    first, second = read_elf_guest(elf_file([Part(LOW, CODE)], bits=bits, notes=notes)).notes
    assert ("Xen", 18, LOW) == (
        first.owner,
        first.type,
        int.from_bytes(first.description, "little"),
    )
    assert "GNU" == second.owner


GOOD = elf_file([Part(LOW, CODE)], bits=64, symbols={"start": LOW})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"\x7fELF", "damaged"),
        (GOOD[:70], "damaged"),
        (GOOD[:0x1001], "a segment ends beyond its file"),
        (GOOD[:-1], "damaged"),
        (
            elf_file([Part(LOW, CODE)], machine=183),
            "not a guest for x86: an ELF file of EM_AARCH64",
        ),
        (elf_file([Part(LOW, CODE)], kind=3), "ET_DYN: only ET_EXEC, linked to fixed addresses"),
        (elf_file([Part(LOW, CODE, size=1)]), "a segment ends beyond its file"),
        (elf_file([Part(LOW, b"")]), "without segments: nothing to load"),
        (elf_file([Part(LOW + at, CODE) for at in range(65)]), "65 program headers: no kernel"),
    ],
)
def test_what_is_no_guest_is_refused_in_one_line(data, message):
    with pytest.raises(BadInput, match=message) as caught:
        read_elf_guest(data)
    assert "\n" not in str(caught.value)


def refusal(data):
    try:
        read_elf_guest(data)
    except BadInput as error:
        return str(error)
    return ""


def test_no_change_of_a_byte_of_the_headers_is_more_than_a_line():
    start = len(GOOD) - 64 * 5
    answers = set()
    for at in (*range(5, 0x80), *range(start, len(GOOD))):
        data = bytearray(GOOD)
        data[at] ^= 0xFF
        answers.add(refusal(bytes(data)))
    assert len(answers) > 10
    assert not any("\n" in each for each in answers)


def test_64_bit_code_in_a_32_bit_file_is_told_by_its_machine():
    assert ("EM_X86_64", 32) == (
        (elf := read_elf_guest(elf_file([Part(LOW, CODE)], machine=EM_X86_64))).machine,
        elf.bits,
    )
