"""The host under EPT, without a machine: bitmaps, CPUID, exits of registers, the attack table."""

from dataclasses import replace

import pytest

from crosswalk.emu.monitor.guest import EXIT_FIELDS, Exit
from crosswalk.emu.monitor.vmx import ExitReason, Field, msr_bit
from crosswalk.emu.protect.attack import NotStopped, Violation, VmExited
from crosswalk.emu.protect.attack_kinds import CR0_WRITTEN, CR4_WRITTEN, EFER_WRITTEN
from crosswalk.emu.protect.kernel import ept, monitored
from crosswalk.emu.protect.kernel.attack_kinds import (
    KERNEL_RUN_BY_USER,
    USER_RUN_BY_KERNEL,
    attacks_for,
)
from crosswalk.emu.protect.kernel.attacks import IMAGE, AttackFrames, attack_table
from crosswalk.emu.protect.kernel.ept import exit_words
from crosswalk.guest.monitor.commands import REGISTERS
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext
from crosswalk.walker.protection.policy import TableKind

ENDED = Exit.of([*range(0x100, 0x100 + len(REGISTERS)), 0, *[0] * len(EXIT_FIELDS)])
FRAMES = AttackFrames(
    site=0x1000,
    text=0x2000,
    rodata=0x3000,
    data=0x4000,
    free=(0x5000, 0x6000),
    user=0x40_0000,
    user_frame=0x7000,
    copier=IMAGE + 0x8123,
    context=PagingContext(cr3=0x9000),
)


@pytest.mark.parametrize(
    ("number", "write", "expected"),
    [
        (0x1A0, False, (0x34, 1)),
        (0x1FFF, True, (0xBFF, 0x80)),
        (0xC000_0080, False, (0x410, 1)),
        (0xC000_0080, True, (0xC10, 1)),
    ],
)
def test_an_msr_has_its_bit_in_the_bitmap(number, write, expected):
    assert expected == msr_bit(number, write=write)


def test_cpuid_hides_vmx_and_keeps_what_paging_needs():
    rows = {row[0] & 0xFFFF_FFFF: row for row in monitored._CPUID if row[0] >> 32 in (0, 2**32 - 1)}
    _, _, features, *set_bits = rows[1]
    assert 0 == features >> 5 & 1  # VMX
    assert 0 == features >> 26 & 1  # XSAVE
    assert 1 == features >> 23 & 1  # POPCNT
    assert [0, 0] == set_bits
    _, extended, more, *_ = rows[7]
    assert 1 << 7 | 1 << 20 == extended >> 32 & (1 << 7 | 1 << 20)  # SMEP, SMAP
    assert 0 == more & (1 << 3 | 1 << 16)  # PKU, LA57
    assert (0, 0) == rows[0xD][1:3]


@pytest.mark.parametrize(
    ("change", "words", "written"),
    [
        ({"qualification": 0x300}, CR0_WRITTEN, ("cr0", 0x103)),
        ({"qualification": 0x403, "rsp": 0x77}, "write of CR3", ("cr3", 0x77)),
        ({"qualification": 0xF04}, CR4_WRITTEN, ("cr4", 0x10F)),
        # MOV from CR3, CLTS, MOV to CR8.
        ({"qualification": 0x013}, "CONTROL_REGISTER", ("", 0)),
        ({"qualification": 0x020}, "CONTROL_REGISTER", ("", 0)),
        ({"qualification": 0x008}, "CONTROL_REGISTER", ("cr8", 0x100)),
    ],
)
def test_a_write_to_a_control_register_is_known_by_its_qualification(change, words, written):
    left = replace(ENDED, reason_word=ExitReason.CONTROL_REGISTER, **change)
    assert words == exit_words(left)
    assert written == left.written_register


def test_a_write_to_efer_is_known_by_rcx():
    registers = list(ENDED.registers)
    for name, value in (("rcx", 0xC000_0080), ("rax", 0x1_0000_0D01), ("rdx", 5)):
        registers[REGISTERS.index(name)] = value
    left = replace(ENDED, reason_word=ExitReason.WRMSR, registers=tuple(registers))
    assert (EFER_WRITTEN, ("efer", 5 << 32 | 0xD01)) == (exit_words(left), left.written_register)
    other = replace(left, registers=ENDED.registers)
    assert ("WRMSR", ("", 0)) == (exit_words(other), other.written_register)


def test_an_event_whose_delivery_exited_is_delivered_again():
    left = replace(ENDED, idt_vectoring=0x8000_1B0E, idt_vectoring_error=7, instruction_length=2)
    assert {
        Field.ENTRY_EVENT: 0x8000_0B0E,
        Field.ENTRY_EVENT_ERROR: 7,
        Field.ENTRY_INSTRUCTION_LENGTH: 2,
    } == ept._event_again(left)
    interrupt = ept._event_again(replace(left, idt_vectoring=0x8000_0020))
    assert Field.ENTRY_EVENT_ERROR not in interrupt


def test_attacks_differ_by_kind_where_the_kinds_do():
    assert attack_table(FRAMES) == attacks_for(FRAMES, TableKind.NPT)
    ept_rows, mbec_rows = (
        {each.name: each for each in attacks_for(FRAMES, kind)}
        for kind in (TableKind.EPT, TableKind.EPT_MBEC)
    )
    assert {USER_RUN_BY_KERNEL, KERNEL_RUN_BY_USER} == {
        name for name, each in ept_rows.items() if each != mbec_rows[name]
    }
    assert NotStopped() == ept_rows[USER_RUN_BY_KERNEL].expected
    user, kernel = (mbec_rows[name] for name in (USER_RUN_BY_KERNEL, KERNEL_RUN_BY_USER))
    assert Violation(0x7000, AccessType.EXECUTE) == user.expected
    assert Violation(0x8123, AccessType.EXECUTE) == kernel.expected
    assert VmExited(CR0_WRITTEN) == ept_rows["clear WP"].expected
    assert Violation(0x2008, AccessType.WRITE) == ept_rows["exception frame"].expected
    assert Violation(0x5000, AccessType.EXECUTE) == ept_rows["execute free memory"].expected
    for each in (*ept_rows.values(), *mbec_rows.values()):
        assert bool(each.why) is (each.expected == NotStopped())
