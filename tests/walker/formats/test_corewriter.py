"""A core that was written, read back by the reader, by pyelftools, and by the layouts' sources."""

import io
import struct
from dataclasses import replace

import pytest
from elftools.elf.elffile import ELFFile

from crosswalk.walker.context import PagingContext, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import read_core
from crosswalk.walker.formats.corewriter import (
    CORE_REGISTERS,
    CORE_SEGMENTS,
    CoreState,
    SegmentState,
    core_parts,
)
from crosswalk.walker.memory import Segments, SparseWords

LONG_CODE = 0x00AF9B00
STATE = CoreState(
    registers={name: 0x1000 + at for at, name in enumerate(CORE_REGISTERS)} | {"rflags": 0x40202},
    segments={
        name: SegmentState(8 * at, 0xFFFF, LONG_CODE, 0x5000 + at)
        for at, name in enumerate(CORE_SEGMENTS)
    },
    control={"cr0": 0x8005_0033, "cr2": 0x22, "cr3": 0x1000, "cr4": 0xA0},
    kernel_gs_base=0x7777,
)
MEMORY = Segments([(0, bytes(range(256)) * 32), (0x10000, b"far" + bytes(0x1000 - 3))])


@pytest.fixture
def core():
    return b"".join(core_parts(MEMORY, STATE))


def test_memory_and_control_registers_are_read_back(core, elf):
    found = read_core(elf.mapped(core))
    assert (MEMORY.ranges, 1) == (found.memory.ranges, len(found.cpus))
    assert MEMORY.read(0, 0x2000) == found.memory.read(0, 0x2000)
    assert b"far" == found.memory.read(0x10000, 3)
    registers = found.registers
    assert (0x8005_0033, 0x1000, 0xA0) == (registers.cr0, registers.cr3, registers.cr4)
    assert registers.rflags_ac
    assert None is registers.efer  # To be taken for long mode's.


def test_notes_are_where_other_readers_look(core):
    notes = list(next(ELFFile(io.BytesIO(core)).iter_segments("PT_NOTE")).iter_notes())
    assert [("CORE", "NT_PRSTATUS", 336), ("QEMU", 440)] == [
        (notes[0]["n_name"], notes[0]["n_type"], notes[0]["n_descsz"]),
        (notes[1]["n_name"], notes[1]["n_descsz"]),
    ]


def test_registers_are_in_the_order_of_each_note(core):
    size = 336
    status = core.index(b"CORE\0") + 8
    # struct user_regs_struct: r15 first, then RIP, CS, flags, RSP and SS at the end.
    regs = struct.unpack_from("<27Q", core, status + 112)
    names = STATE.registers
    assert [names["r15"], names["rbx"], names["rax"], names["rdi"]] == [
        regs[0],
        regs[5],
        regs[10],
        regs[14],
    ]
    assert (names["rip"], 0, 0x40202, names["rsp"], 8 * 5) == regs[16:21]
    assert (0x5003, 0x5004, 8, 16, 24, 32) == regs[21:]
    state = core.index(b"QEMU\0") + 8
    assert state > status + size
    version, length, *general = struct.unpack_from("<II18Q", core, state)
    assert (1, 440) == (version, length)
    assert [names[name] for name in CORE_REGISTERS] == general
    gdt = struct.unpack_from("<IIIIQ", core, state + 8 + 18 * 8 + 8 * 24)
    assert (64, 0xFFFF, LONG_CODE, 0, 0x5008) == gdt
    control = struct.unpack_from("<6Q", core, state + 440 - 48)
    assert (0x8005_0033, 0, 0x22, 0x1000, 0xA0, 0x7777) == control


def test_memory_in_too_many_pieces_is_refused():
    memory = SparseWords([(at * 0x2000, 0x1000) for at in range(1025)], {})
    with pytest.raises(BadInput, match="memory of 1,025 ranges"):
        list(core_parts(memory, STATE))


PAGING = PagingContext(
    cr3=0x1000,
    cr0=0x8005_0033,
    cr4=0xA0,
    efer=0xD01,
    pkru=0x5555_5554,
    rflags_ac=True,
    maxphyaddr=46,
    page1gb=False,
    vendor=Vendor.AMD,
    encryption_mask=1 << 47,
)


@pytest.mark.parametrize(
    "paging",
    [
        PAGING,
        replace(PAGING, page1gb=True, vendor=Vendor.INTEL, encryption_mask=0, pkru=0),
        replace(PAGING, efer=0x800),
        replace(PAGING, efer=0, cr4=0x90, encryption_mask=0),
    ],
    ids=["AMD", "Intel", "PAE", "32-bit"],
)
def test_what_the_other_notes_leave_out_is_read_back(paging, elf):
    state = replace(STATE, paging=paging, control=STATE.control | {"cr4": paging.cr4})
    data = b"".join(core_parts(MEMORY, state))

    found = read_core(elf.mapped(data))
    assert paging == found.registers.context()
    assert () == found.registers.assumed()
    assert (not paging.mode.long, "") == (found.is_386, found.why)


def test_the_note_of_this_project_has_a_name_and_a_type_and_follows_the_others():
    core = b"".join(core_parts(MEMORY, replace(STATE, paging=PAGING)))

    notes = list(next(ELFFile(io.BytesIO(core)).iter_segments("PT_NOTE")).iter_notes())
    expected = [("CORE", 336), ("QEMU", 440), ("CROSSWALK", 40)]
    assert expected == [(note["n_name"], note["n_descsz"]) for note in notes]
    at = core.index(b"CROSSWALK\0") + 12
    expected = (1, 40, 0xD01, 1 << 47, 0x5555_5554, 46, 2, 0)
    assert expected == struct.unpack_from("<IIQQIIII", core, at)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes(39), "ELF core: a CROSSWALK note of 39 bytes; 40 are needed"),
        (b"\2".ljust(40, b"\0"), "ELF core: a CROSSWALK note of version 2; version 1 is known"),
    ],
)
def test_a_note_of_this_project_of_another_form_is_an_error(content, expected, elf):
    notes = elf.qemu_notes(elf.cpu_state()) + elf.note(b"CROSSWALK\0", 1, content)
    with pytest.raises(BadInput) as caught:
        read_core(elf.mapped(elf.Core(notes=notes).build()))
    assert expected == str(caught.value)


def test_a_note_of_this_name_and_another_type_is_somebody_else_s(elf):
    notes = elf.qemu_notes(elf.cpu_state()) + elf.note(b"CROSSWALK\0", 2, b"?")
    assert None is read_core(elf.mapped(elf.Core(notes=notes).build())).registers.efer
