"""Notes of ELF cores, and what VirtualBox' say of CPUs."""

import struct

import pytest

from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import LimitExceeded
from crosswalk.walker.formats.elfcore import read_core
from crosswalk.walker.formats.elfnotes import MAX_NOTES, notes_in
from crosswalk.walker.formats.registers import Registers


def virtualbox(
    *, cr0=0x80050033, cr3=0x2000, cr4=0x6F0, efer=0xD01, rflags=0x40246, pat=0x66, size=800
):
    """A VBCPU note's content, in the order of VirtualBox' dbgfcorefmt.h."""
    segments = b"".join(struct.pack("<QIIHHI", 0x3333, 0xFFFF, 0xA09B, 8, 0, 0) for _ in range(6))
    state = struct.pack("<18Q", *range(0x100, 0x111), rflags) + segments
    state += struct.pack("<4Q8Q", cr0, 0x4444, cr3, cr4, *range(8))
    state += struct.pack("<QII", 0x5555, 0x7F, 0) * 2 + segments[:48] + struct.pack("<3Q", 1, 2, 3)
    assert 488 == len(state)
    return (state + struct.pack("<QQQ", efer, 0x7777, pat) + b"\x66" * size)[:size]


def cpus(elf, *states):
    descriptor = struct.pack("<6I", 0xC01A_C0DE, 0x10006, 24, 0x07_0000, 1, len(states))
    notes = elf.note(b"VBCORE\0", 0xB00, descriptor)
    notes += b"".join(elf.note(b"VBCPU\0", 0xB01, state) for state in states)
    return read_core(elf.mapped(elf.Core(notes=notes).build()))


def test_the_registers_of_a_virtualbox_cpu_are_all_there(elf):
    core = cpus(elf, virtualbox(), virtualbox(cr3=0x3000, rflags=2))
    expected = [
        Registers(cr0=0x80050033, cr3=cr3, cr4=0x6F0, efer=0xD01, rflags_ac=ac)
        for cr3, ac in ((0x2000, True), (0x3000, False))
    ]
    assert expected == [each.registers for each in core.cpus]
    assert ("", PagingMode.LEVEL4) == (core.why, core.registers.context().mode)
    assert [("VBCORE", 0xB00), ("VBCPU", 0xB01), ("VBCPU", 0xB01)] == [
        (note.name, note.kind) for note in core.notes
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pat": 0x0407_0506_0007_0106}, 0x0407_0506_0007_0106),
        ({"pat": 0x0407_0506_0007_0106, "size": 512}, 0x0407_0506_0007_0106),
        ({"pat": 0x0407_0506_0007_0106, "size": 511}, None),
        ({"pat": 0x0407_0506_0007_0102}, None),
    ],
)
def test_pat_is_the_notes_unless_no_cpu_can_have_it(elf, changes, expected):
    found = cpus(elf, virtualbox(**changes)).registers
    assert (0x2000, expected) == (found.cr3, found.pat)


@pytest.mark.parametrize(
    "changes",
    [
        {"rflags": 0x40244},
        {"rflags": 0x8002},
        {"rflags": 1 << 32 | 2},
        {"cr0": 0x1_8005_0033},
        {"efer": 1 << 63 | 0xD01},
        {"efer": 0xF01},
    ],
    ids=str,
)
def test_a_note_that_no_cpu_can_be_in_tells_nothing(elf, changes):
    assert () == cpus(elf, virtualbox(**changes)).cpus


@pytest.mark.parametrize("state", [bytes(800), b"", b"\xff" * 900, virtualbox(size=495)])
def test_an_empty_or_short_note_tells_nothing(elf, state):
    core = cpus(elf, state)
    assert ((), Registers()) == (core.cpus, core.registers)
    assert 1 == len(cpus(elf, virtualbox(size=496)).cpus)


def test_a_cpu_whose_note_tells_nothing_keeps_its_number(elf):
    core = cpus(elf, bytes(800), virtualbox())
    assert [None, 0x2000] == [each.registers.cr3 for each in core.cpus]


def test_vmcoreinfo_is_the_text_of_its_note(elf):
    notes = elf.note(b"CORE\0", 1, bytes(336)) + elf.note(b"VMCOREINFO\0", 0, b"A=1\nB=\xe9\n\0\0")
    core = read_core(elf.mapped(elf.Core(notes=notes).build()))
    assert "A=1\nB=\N{REPLACEMENT CHARACTER}\n" == core.vmcoreinfo
    assert "" == read_core(elf.mapped(elf.Core().build())).vmcoreinfo


def test_an_empty_note_ends_those_of_a_segment(elf):
    segment = memoryview(elf.note(b"A\0", 1, b"x") + bytes(24) + elf.note(b"B\0", 1, b"x"))
    assert ["A"] == [note.name for note in notes_in(segment)]


def test_a_long_name_is_cut_and_its_content_found(elf):
    (note,) = notes_in(memoryview(elf.note(b"N" * 1000, 1, b"content")))
    assert ("N" * 64, b"content") == (note.name, bytes(note.content))


@pytest.mark.parametrize("segments", [1, 5])
def test_notes_without_end_are_refused(elf, segments):
    part = elf.note(b"", 1, b"") * (MAX_NOTES // segments + 1)
    core = elf.Core(notes=b"")
    core.parts = [(4, 0, 64 + 56 * (segments + 1), 0, 0, len(part), 0, 0)] * segments
    core.loads = [(0, part)]
    with pytest.raises(LimitExceeded, match=f"more than {MAX_NOTES:,} notes"):
        read_core(elf.mapped(core.build()))
