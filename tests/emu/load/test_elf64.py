"""A bare ELF file of 64-bit code: the state at its entry is the one that is documented."""

import numpy as np
import pytest

from crosswalk.emu.cpu.cpu import paging_context
from crosswalk.emu.load.formats import open_image
from crosswalk.emu.load.image import Format
from crosswalk.emu.load.placing import Module
from crosswalk.walker.architecture import RFlags
from crosswalk.walker.errors import BadInput
from crosswalk.walker.mappings import coalesce, mappings
from crosswalk.walker.memory import Segments
from tests.emu.load.elf_files import BASE, Part, code, elf_file
from tests.emu.load.small_guests import SAY_DONE, at_entry, booted, general, numbers

LOW = elf_file([Part(BASE, code(SAY_DONE, bits=64), size=0x3000)], bits=64)
VA = 0xFFFF_FFFF_8020_0000
# Calls by an absolute address, which only the linear one is.
HIGH_CODE = f"movabs rax, {VA + 0x40}\njmp rax\n.fill 64, 1, 0x90\n{SAY_DONE}"
HIGH = elf_file([Part(BASE, code(HIGH_CODE, bits=64, address=VA), VA, 0x3000)], bits=64, entry=VA)


def mapped(machine):
    memory = Segments([(0, machine.ram.bytes)])
    found = mappings(memory, paging_context(machine.cpu))
    folded = coalesce(found, ignore=(1 << 64) - 1)
    return [(each.va, each.pa, each.size, each.rights.supervisor) for each in folded]


@pytest.mark.parametrize(("data", "entry"), [(LOW, BASE), (HIGH, VA)], ids=["low", "high"])
def test_the_guest_runs_at_its_own_addresses(data, entry):
    assert Format.ELF64 == open_image(data).format
    machine = at_entry(data)
    machine.cpu.load()
    assert entry == machine.cpu.rip
    assert b"." == bytes(booted(data)[0].console)


@pytest.mark.parametrize("levels", [4, 5])
def test_the_first_4_gib_and_the_segments_are_mapped(levels):
    low, high = at_entry(LOW, levels=levels), at_entry(HIGH, levels=levels)
    everything = (0, 0, 4 << 30, "rwx")
    assert [everything] == mapped(low)
    assert [everything, (VA, BASE, 0x3000, "rwx")] == mapped(high)
    assert levels == paging_context(low.cpu).levels


def test_the_entry_is_64_bit_code_with_a_stack_and_xens_start_info():
    machine = at_entry(LOW)
    cpu = machine.cpu
    info, also, stack, other = general(machine, "rdi", "rbx", "rsp", "rax")
    assert (info, 0) == (also, other)
    assert 0x336EC578 == numbers(machine.ram, info, "<I")[0]
    assert not machine.ram.bytes[stack - (16 << 10) : stack].any()
    assert (0, 0) == (cpu.cpl, cpu.rflags & RFlags.IF)
    assert (0x20, 0x18, 0x18) == tuple(cpu.segment(n).selector for n in ("cs", "ds", "ss"))
    code64 = numbers(machine.ram, cpu.segment("gdt").base + 0x20, "<Q")[0]
    assert 0x00AF_9B00_0000_FFFF == code64


def test_a_reload_of_the_segments_from_the_descriptor_table_works():
    source = f"""
        mov eax, 0x18
        mov ds, ax
        mov ss, ax
        push 0x20
        lea rax, [rip + on]
        push rax
        retfq
    on:
        {SAY_DONE}
    """
    data = elf_file([Part(BASE, code(source, bits=64))], bits=64)
    assert b"." == bytes(booted(data)[0].console)


def test_what_lies_outside_of_ram_is_refused():
    with pytest.raises(BadInput, match="segment 0 at 0xffffffff80200000, 12,288 bytes"):
        at_entry(elf_file([Part(VA, b"\xf4", size=0x3000)], bits=64))


def test_two_boots_are_the_same_byte_for_byte():
    rams = [booted(HIGH, modules=(Module("one", b"1"),))[0].ram.bytes for _ in range(2)]
    assert np.array_equal(*rams)
