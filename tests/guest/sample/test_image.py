"""The sample kernel's file: what a loader reads in it, and where each bug is."""

import io
import struct

import pytest
from elftools.elf.elffile import ELFFile

from crosswalk.guest.sample import Bug, sample_kernel
from crosswalk.guest.sample.__main__ import main

PAGE = 0x1000
NAMES = [
    ".text",
    ".rodata",
    ".data",
    ".bss",
    ".tables",
    ".stack_guard",
    ".stack",
    ".module",
    ".user",
    ".user_stack",
]
REGION = struct.Struct("<IIIQ")
USER, WRITABLE = 4, 2


def opened(bug=None):
    return ELFFile(io.BytesIO(sample_kernel(bug)))


def address_of(elf, name):
    (symbol,) = elf.get_section_by_name(".symtab").get_symbol_by_name(name)
    return symbol["st_value"]


def loaded_at(elf, name):
    """The physical address of a section."""
    va = elf.get_section_by_name(name)["sh_addr"]
    (found,) = (each["p_paddr"] for each in elf.iter_segments() if each["p_vaddr"] == va)
    return found


def regions(elf):
    """The flags and the bounds of each region that the kernel maps, by its first page."""
    section = elf.get_section_by_name(".rodata")
    first, end = (address_of(elf, name) - section["sh_addr"] for name in ("regions", "regions_end"))
    rows = REGION.iter_unpack(section.data()[first:end])
    return {va // PAGE * PAGE: (pa, end, flags) for va, pa, end, flags in rows}


def test_a_loader_finds_the_header_in_the_first_bytes_of_the_file():
    file = sample_kernel()
    at = file.index(struct.pack("<I", 0x1BADB002))
    assert 0 == at % 4
    assert at <= 8192 - 12
    assert 0 == sum(struct.unpack_from("<3I", file, at)) % (1 << 32)


def test_the_entry_and_what_the_sources_export_are_symbols():
    elf = opened()
    assert address_of(elf, "start") == elf["e_entry"]
    for name in ("main", "map_page", "load_module", "set_page", "regions", "gdt", "tss"):
        assert address_of(elf, name)
    assert 0x4000_0000 == address_of(elf, "user_main")


@pytest.mark.parametrize("bug", [None, *Bug])
def test_every_section_has_a_name_and_none_shares_a_page_of_addresses(bug):
    elf = opened(bug)
    sections = [each for each in elf.iter_sections() if each["sh_flags"]]
    assert NAMES == [each.name for each in sections]
    pages = [
        page
        for each in sections
        for page in range(each["sh_addr"] // PAGE, -(-(each["sh_addr"] + each["sh_size"]) // PAGE))
    ]
    assert len(set(pages)) == len(pages)


@pytest.mark.parametrize("bug", [None, *Bug])
def test_data_shares_the_last_frame_of_text_by_that_bug_alone(bug):
    elf = opened(bug)
    text = elf.get_section_by_name(".text")
    last = text["sh_addr"] + text["sh_size"] - 1
    shared = last // PAGE == loaded_at(elf, ".data") // PAGE
    assert (bug is Bug.SHARED_FRAME) is shared
    assert loaded_at(elf, ".data") > last


@pytest.mark.parametrize("bug", [None, *Bug])
def test_the_guard_page_is_in_the_stacks_region_by_that_bug_alone(bug):
    elf = opened(bug)
    guard = elf.get_section_by_name(".stack_guard")["sh_addr"]
    assert (bug is Bug.STACK_GUARD) is (guard in regions(elf))


@pytest.mark.parametrize("bug", [None, *Bug])
def test_rodata_is_for_user_mode_by_that_bug_alone(bug):
    elf = opened(bug)
    _, _, flags = regions(elf)[elf.get_section_by_name(".rodata")["sh_addr"]]
    assert (bug is Bug.USER_RODATA) is bool(flags & USER)
    assert not flags & WRITABLE


def test_a_writable_module_is_one_flag_of_an_instruction():
    good, bad = sample_kernel(), sample_kernel(Bug.WRITABLE_MODULE)
    (at,) = (at for at in range(len(good)) if good[at] != bad[at])
    assert WRITABLE == good[at] ^ bad[at]
    elf = opened()
    text = elf.get_section_by_name(".text")
    place = text["sh_addr"] + at - text["sh_offset"]
    assert address_of(elf, "load_module") < place < address_of(elf, "set_page")


def test_the_command_writes_the_file(tmp_path):
    path = tmp_path / "kernel.elf"
    assert 0 == main([str(path)])
    assert sample_kernel() == path.read_bytes()
    assert 0 == main(["--bug", "stack-guard", str(path)])
    assert sample_kernel(Bug.STACK_GUARD) == path.read_bytes()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "none" / "kernel.elf")])
    assert 2 == ended.value.code
    assert "none/kernel.elf: No such file or directory\n" in capsys.readouterr().err
