"""ELF files of 32 bits as they are written, read back by pyelftools."""

import io

from elftools.elf.elffile import ELFFile

from crosswalk.guest.sample.elf import Flags, Section, Symbol, SymbolKind, elf_file

CODE = b"\x90\xf4"
SECTIONS = [
    Section(".text", 0x10_0000, 0x10_0000, 2, Flags.EXECUTE, CODE),
    Section(".data", 0x4000_0000, 0x10_1000, 0x20, Flags.WRITE, b"value"),
    Section(".guard", 0x10_2000, 0x10_2000, 0x1000, mapped=False),
    Section(".bss", 0x10_3000, 0x10_3000, 0x3000, Flags.WRITE),
]
SYMBOLS = [
    Symbol("start", 0x10_0001, 1, SymbolKind.FUNCTION, ".text"),
    Symbol("value", 0x4000_0000, 5, SymbolKind.OBJECT, ".data"),
]


def read_back():
    return ELFFile(io.BytesIO(elf_file(0x10_0001, SECTIONS, SYMBOLS)))


def test_a_file_is_an_executable_for_i386():
    elf = read_back()
    assert (32, True, "EM_386", "ET_EXEC") == (
        elf.elfclass,
        elf.little_endian,
        elf["e_machine"],
        elf["e_type"],
    )
    assert 0x10_0001 == elf["e_entry"]


def test_each_mapped_section_is_a_segment():
    read, write, execute = 4, 2, 1
    wanted = [
        ("PT_LOAD", 0x10_0000, 0x10_0000, CODE, 2, read | execute),
        ("PT_LOAD", 0x4000_0000, 0x10_1000, b"value", 0x20, read | write),
        ("PT_LOAD", 0x10_3000, 0x10_3000, b"", 0x3000, read | write),
    ]
    found = [
        (
            each["p_type"],
            each["p_vaddr"],
            each["p_paddr"],
            each.data(),
            each["p_memsz"],
            each["p_flags"],
        )
        for each in read_back().iter_segments()
    ]
    assert wanted == found


def test_all_sections_are_listed_with_their_addresses():
    wanted = [
        (".text", "SHT_PROGBITS", 0x10_0000, 2, 6),
        (".data", "SHT_PROGBITS", 0x4000_0000, 0x20, 3),
        (".guard", "SHT_NOBITS", 0x10_2000, 0x1000, 2),
        (".bss", "SHT_NOBITS", 0x10_3000, 0x3000, 3),
    ]
    found = [
        (each.name, each["sh_type"], each["sh_addr"], each["sh_size"], each["sh_flags"])
        for each in read_back().iter_sections()
        if each["sh_flags"]
    ]
    assert wanted == found


def test_symbols_are_global_and_in_their_sections():
    elf = read_back()
    _, *symbols = elf.get_section_by_name(".symtab").iter_symbols()
    assert [
        ("start", 0x10_0001, 1, "STB_GLOBAL", "STT_FUNC", ".text"),
        ("value", 0x4000_0000, 5, "STB_GLOBAL", "STT_OBJECT", ".data"),
    ] == [
        (
            each.name,
            each["st_value"],
            each["st_size"],
            each["st_info"]["bind"],
            each["st_info"]["type"],
            elf.get_section(each["st_shndx"]).name,
        )
        for each in symbols
    ]
