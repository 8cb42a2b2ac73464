"""Headers of ELF cores: more program headers than 16 bits count, 32 bits, and Xen's sections."""

import struct

import numpy as np
import pytest

from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.elfheaders import NO_ADDRESS, read_headers

NARROW = b"\x7fELF\x01\x01\x01"
SECTION = struct.Struct("<IIQQQQIIQQ")


def reason(data):
    with pytest.raises(BadInput) as caught:
        read_headers(data)
    return str(caught.value)


@pytest.mark.parametrize("changes", [{}, {"ident": NARROW, "machine": 3}], ids=["64", "32"])
@pytest.mark.parametrize("count", [1, 0xFFFF, 70_000])
def test_section_header_0_states_the_number_of_many_program_headers(elf, changes, count):
    part = (1, 0x1000, 0, 5, 6, 7, 0, 0) if changes else (1, 0, 0x1000, 0, 5, 6, 7, 0)
    core = elf.Core(loads=[], notes=b"", parts=[part] * count, many=count, **changes)
    found = read_headers(core.build()).programs
    assert count == len(found)
    assert (1, 0x1000, 0, 5, 6, 7) == found[count - 1].item()


@pytest.mark.parametrize("cut", [1, 20, 64])
def test_without_a_whole_section_header_the_number_is_unknown(elf, cut):
    expected = (
        "truncated or damaged ELF header: 65,535 or more program headers, and no section header "
        "that says how many"
    )
    assert expected == reason(elf.Core(many=70_000).build()[:-cut])
    assert expected == reason(elf.Core(count=0xFFFF).build())


def test_program_headers_may_be_longer_than_they_have_to_be(elf):
    data = bytearray(elf.Core(loads=[], notes=b"", parts=[(1, 0, 2, 3, 4, 5, 6, 0)] * 2).build())
    first, second = data[64:120], data[120:176]
    second[8] = 9
    struct.pack_into("<H", data, 54, 60)
    programs = read_headers(bytes(data[:64] + first + b"abcd" + second + b"abcd")).programs
    assert [2, 9] == programs["offset"].tolist()


@pytest.mark.parametrize("stride", [55, 129, 0xFFFF])
def test_program_headers_of_a_strange_length_are_damage(elf, stride):
    expected = f"damaged ELF header: program headers of {stride} bytes"
    assert expected == reason(elf.Core(stride=stride).build())


def test_a_narrow_address_of_all_ones_is_none(elf):
    part = (1, 0, 0, 0xFFFF_FFFF, 1, 1, 0, 0)
    core = elf.Core(ident=NARROW, machine=3, loads=[], notes=b"", parts=[part])
    assert np.uint64(NO_ADDRESS) == read_headers(core.build()).programs["paddr"][0]


@pytest.mark.parametrize(("machine", "name"), [(183, "EM_AARCH64"), (0xABCD, "43981")])
def test_another_machine_is_named_or_numbered(elf, machine, name):
    assert (
        f"ELF file of another machine: {name}, 64 bits, little-endian; x86-64 or 386 needed"
        == reason(elf.Core(machine=machine).build())
    )


@pytest.mark.parametrize(("kind", "name"), [(2, "ET_EXEC"), (3, "ET_DYN"), (0x1234, "4660")])
def test_what_is_no_core_is_named_or_numbered(elf, kind, name):
    assert f"not an ELF core: its type is {name}" == reason(elf.Core(type=kind).build())


def sections(*names):
    """A core without segments, with sections of these names, as `xl dump-core` writes it."""
    text = b"\0" + b"".join(name + b"\0" for name in (b".shstrtab", *names))
    at = 64
    headers = [SECTION.pack(*[0] * 10)] + [
        SECTION.pack(text.index(name), 3, 0, 0, at, len(text), 0, 0, 1, 0)
        for name in (b".shstrtab", *names)
    ]
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(4, 62, 1, 0, 0, at + len(text), 0, 64, 56, 0, 64, len(headers), 1),
    )
    return header + text + b"".join(headers)


def test_a_xen_core_is_refused_by_its_name():
    expected = (
        "Xen core by `xl dump-core`: its memory is in .xen_pages, not in segments; crash and "
        "volatility3 read it"
    )
    assert expected == reason(sections(b".note.Xen", b".xen_prstatus", b".xen_pages"))


@pytest.mark.parametrize("cut", [0, 1, 64, 200])
def test_other_sections_are_no_xen_core_however_the_file_is_cut(cut):
    data = sections(b".text", b".xen_pag")
    assert 0 == len(read_headers(data[: len(data) - cut]).programs)
