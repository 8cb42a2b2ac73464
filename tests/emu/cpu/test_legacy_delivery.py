"""Delivery in protected mode, kind by kind, with expectations from the manual.

Intel SDM vol. 3A, "Exception- or Interrupt-Handler Procedures"; vol. 2A, "INT n/INTO/INT3/INT1—Call
to Interrupt Procedure".
"""

import struct

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.delivery import Event, Kind, deliver
from crosswalk.emu.cpu.descriptors import Segment
from crosswalk.emu.cpu.events import NotEmulated
from crosswalk.emu.pc.results import Stop
from crosswalk.walker.architecture import RFlags
from tests.emu.cpu.legacy_machine import (
    CODE,
    CODE0,
    CODE3,
    CODE_16,
    DATA0,
    DATA3,
    ESP0,
    FLAGS,
    GDT,
    IDT,
    INTERRUPT_16,
    PAGING,
    READ_ONLY,
    SPARE,
    STACK,
    TASK,
    TASK_GATE,
    TRAP,
    TRAP_16,
    TSS,
    TSS_16,
    UNMAPPED,
    USER,
    USER_STACK,
    Legacy,
)

RF = RFlags.RF


@pytest.fixture(params=PAGING)
def machine(request):
    return Legacy(request.param)


@pytest.fixture
def flat():
    return Legacy()


@pytest.fixture
def paged():
    return Legacy("32-bit")


def test_a_fault_at_the_same_level_pushes_three_words(machine):
    ended = machine.start("nop\nud2")
    assert (Stop.HALTED, 6) == (ended.stop, machine.halted())
    assert STACK - 8 - 12 == machine.cpu.rsp
    assert [CODE + 1, CODE0, FLAGS | RF] == machine.frame(3)
    assert 0 == machine.cpu.rflags & RFlags.IF


@pytest.mark.parametrize("paging", ["32-bit", "PAE"])
def test_a_page_fault_pushes_its_error_code_and_leaves_its_address_in_cr2(paging):
    machine = Legacy(paging)
    machine.start("mov byte ptr [ebx + 5], al", ebx=READ_ONLY)
    assert 14 == machine.halted()
    assert [3, CODE, CODE0, FLAGS | RF] == machine.frame(4)
    assert READ_ONLY + 5 == machine.cpu.cr2


def test_a_fault_in_user_mode_goes_to_the_stack_of_the_tss(machine):
    machine.start("nop\nud2", user=True)
    assert 6 == machine.halted()
    assert ESP0 - 20 == machine.cpu.rsp
    assert [USER + 1, CODE3, FLAGS | RF, USER_STACK - 8, DATA3] == machine.frame(5)
    assert (0, CODE0, DATA0) == (
        machine.cpu.cpl,
        machine.cpu.segment("cs").selector,
        machine.cpu.segment("ss").selector,
    )


def test_int_and_iret_go_to_the_kernel_and_back(machine):
    machine.gate(0x80, dpl=3, at=CODE + 0x100)
    machine.write(CODE + 0x100, "inc edx\niretd")
    machine.gate(0x81, dpl=3)
    source = "mov ecx, 500\nagain: int 0x80\ndec ecx\njnz again\nint 0x81"
    machine.start(source, user=True, edx=0)
    assert (0x81, 500) == (machine.halted(), machine.cpu.general(2))
    assert [CODE3, DATA3] == machine.frame(5)[1::3]
    assert 500 == machine.machine.counts[0x80, Kind.SOFTWARE]


@pytest.mark.parametrize(
    ("source", "vector", "length"), [("int3", 3, 1), ("into", 4, 1), ("int 0x44", 0x44, 2)]
)
def test_an_int_returns_past_itself_and_saves_no_rf(flat, source, vector, length):
    flat.gate(vector, dpl=3)
    overflow = FLAGS | 1 << 11
    flat.start(f"nop\n{source}", user=True, rflags=overflow)
    assert vector == flat.halted()
    assert [USER + 1 + length, CODE3, overflow] == flat.frame(3)


def test_an_int_through_a_gate_that_is_not_the_users_is_a_fault_at_itself(flat):
    flat.start("nop\nint 0x80", user=True)
    assert 13 == flat.halted()
    assert [0x80 * 8 + 2, USER + 1, CODE3, FLAGS | RF] == flat.frame(4)


@pytest.mark.parametrize(("kind", "left"), [(INTERRUPT_16, 0), (TRAP_16, RFlags.IF)])
def test_a_16_bit_gate_pushes_16_bit_words(flat, kind, left):
    flat.gate(6, kind=kind)
    flat.start("ud2")
    assert 6 == flat.halted()
    assert STACK - 8 - 6 == flat.cpu.rsp
    assert [CODE, CODE0, FLAGS] == flat.frame(3, size=2)
    flat.gate(6, kind=kind, at=CODE + 0x100)
    flat.write(CODE + 0x100, "pushfd\npop eax\ncli\nhlt")
    flat.start("ud2")
    assert 2 | left == flat.cpu.general(0)


def test_a_trap_gate_leaves_interrupts_on(flat):
    flat.gate(6, kind=TRAP, at=CODE + 0x100)
    flat.write(CODE + 0x100, "pushfd\npop eax\ncli\nhlt")
    flat.start("ud2")
    assert FLAGS == flat.cpu.general(0)


BROKEN_GATES = {
    "not present": ({"present": False}, 11, 6 * 8 + 3),
    "another type": ({"kind": 12}, 13, 6 * 8 + 3),
    "no selector": ({"selector": 0}, 13, 1),
    "selector beyond the table": ({"selector": 0x40}, 13, 0x41),
    "selector in the LDT, of which there is none": ({"selector": 0x0C}, 13, 0x0D),
    "data for code": ({"selector": DATA0}, 13, DATA0 + 1),
    "less privileged code": ({"selector": CODE3}, 13, CODE3 & ~3 | 1),
}


@pytest.mark.parametrize("broken", BROKEN_GATES)
def test_an_error_in_a_gate_is_the_fault_that_is_delivered(flat, broken):
    how, vector, error_code = BROKEN_GATES[broken]
    flat.gate(6, **how)
    flat.start("ud2")
    assert vector == flat.halted()
    assert [error_code, CODE] == flat.frame(2)


def test_a_vector_beyond_the_table_is_a_general_protection_fault(flat):
    flat.engine.reg_write(x86.UC_X86_REG_IDTR, (0, IDT, 8 * 0x20 - 1, 0))
    flat.start("int 0x20")
    assert 13 == flat.halted()
    assert [0x20 * 8 + 2, CODE] == flat.frame(2)


def test_a_handler_beyond_its_segment_is_a_general_protection_fault(flat):
    flat.describe(SPARE, 0x0040_9B00_0000_0FFF)
    flat.gate(6, selector=SPARE, at=0x1000)
    flat.start("ud2")
    assert 13 == flat.halted()
    assert [1, CODE] == flat.frame(2)


STACKS = {
    "no selector": (0, ESP0, 10, 1),
    "beyond the table": (0x40, ESP0, 10, 0x41),
    "RPL of another level": (DATA0 | 3, ESP0, 10, DATA0 + 1),
    "DPL of another level": (DATA3 & ~3, ESP0, 10, (DATA3 & ~3) + 1),
    "code": (CODE0, ESP0, 10, CODE0 + 1),
}


@pytest.mark.parametrize("broken", STACKS)
def test_a_stack_segment_that_the_tss_may_not_name_is_an_invalid_tss(flat, broken):
    selector, esp, vector, error_code = STACKS[broken]
    flat.ram.write(TSS + 4, struct.pack("<II", esp, selector))
    # The stack that is wrong is wrong for #TS, too: its handler stays at the user's level.
    conforming = 0x00CF_9F00_0000_FFFF
    flat.describe(SPARE, conforming)
    flat.gate(vector, selector=SPARE, at=USER + 0x100)
    flat.gate(0x80, dpl=3, selector=SPARE, at=USER + 0x200)
    flat.write(USER + 0x100, "mov eax, [esp]\nint 0x80")
    flat.write(USER + 0x200, "cli\nhlt")
    flat.start("ud2", user=True, rflags=FLAGS | 3 << 12)
    assert error_code == flat.cpu.general(0)


def test_a_stack_segment_that_is_not_present_is_a_stack_fault(flat):
    flat.describe(SPARE, 0x00CF_1300_0000_FFFF)
    flat.ram.write(TSS + 4, struct.pack("<II", ESP0, SPARE))
    delivered = events_of(flat)
    assert [(6, 0), (12, SPARE | 1), (8, 0)] == delivered


def test_a_stack_without_room_is_a_stack_fault(flat):
    flat.describe(SPARE, 0x0040_9300_0000_0FFF)
    flat.ram.write(TSS + 4, struct.pack("<II", 0x1100, SPARE))
    assert [(6, 0), (12, SPARE | 1), (8, 0)] == events_of(flat)
    flat.ram.write(TSS + 4, struct.pack("<II", 0x1000, SPARE))
    assert [(6, 0)] == events_of(flat)


def events_of(machine):
    """What an invalid opcode at CPL 3 becomes, by vector and error code."""
    with machine.cpu.changed():
        machine.cpu.enter(machine.segment(CODE3), 3, machine.segment(DATA3))
        machine.cpu.rip, machine.cpu.rsp = USER, USER_STACK
    machine.gate(8, selector=SPARE + 8)
    machine.describe(SPARE + 8, 0x00CF_9F00_0000_FFFF)
    tried = deliver(machine.cpu, Event(6, Kind.EXCEPTION))
    return [(each.vector, each.error_code) for each in tried]


@pytest.mark.parametrize(("kind", "limit"), [(TSS_16, 2 + 3), (0x8B00, 4 + 5)])
def test_a_stack_pointer_of_the_tss_ends_with_its_limit(flat, kind, limit):
    if kind == TSS_16:
        flat.ram.write(TSS + 2, struct.pack("<HH", 0x7F00, DATA0))
    flat.task(kind, limit)
    assert [(6, 0)] == events_of(flat)
    flat.task(kind, limit - 1)
    assert [(6, 0), (10, TASK | 1), (8, 0)] == events_of(flat)


def test_a_16_bit_tss_has_16_bit_stack_pointers(flat):
    flat.ram.write(TSS + 2, struct.pack("<HH", 0x7F00, DATA0))
    flat.task(TSS_16, 0x2B)
    flat.start("ud2", user=True)
    assert (6, 0x7F00 - 20) == (flat.halted(), flat.cpu.rsp)


def test_a_16_bit_stack_keeps_the_upper_half_of_esp(flat):
    flat.describe(SPARE, 0x0000_9300_0000_FFFF | 0x1_0000 << 16)
    flat.start(f"mov eax, {SPARE}\nmov ss, ax\nmov esp, 0x12340004\nud2")
    assert 6 == flat.halted()
    assert 0x1234_FFF8 == flat.cpu.rsp
    assert [CODE0, FLAGS | RF] == [
        int.from_bytes(flat.ram.read(0x1_0000 + at, 4), "little") for at in (0xFFFC, 0x0000)
    ]


@pytest.mark.parametrize(("page", "error_code"), [(UNMAPPED, 2), (READ_ONLY, 3)])
def test_a_stack_that_cannot_be_written_is_a_page_fault(paged, page, error_code):
    paged.ram.write(TSS + 4, struct.pack("<II", page + 0x100, DATA0))
    paged.describe(SPARE + 8, 0x00CF_9F00_0000_FFFF)
    paged.gate(14, selector=SPARE + 8)
    assert [(6, 0), (14, error_code)] == events_of(paged)
    paged.cpu.load()
    assert page + 0xFC == paged.cpu.cr2
    assert [error_code, USER, CODE3] == paged.frame(3)


def test_a_frame_across_two_pages_is_written_as_far_as_it_can_be(paged):
    paged.map(READ_ONLY, 3)
    top = READ_ONLY + 4
    with paged.cpu.changed():
        paged.cpu.enter(paged.segment(CODE0), 0, paged.segment(DATA0))
        paged.cpu.rip, paged.cpu.rsp = CODE, top
    paged.gate(8, kind=TASK_GATE)
    with pytest.raises(NotEmulated, match=r"a task switch, by the task gate of vector 8"):
        deliver(paged.cpu, Event(14, Kind.EXCEPTION, 0, 0))
    assert 2 | RF == int.from_bytes(paged.ram.read(top - 4, 4), "little")
    paged.cpu.load()
    assert (CODE, top) == (paged.cpu.rip, paged.cpu.rsp)


def test_a_conforming_handler_keeps_the_privilege_level(flat):
    flat.describe(SPARE, 0x00CF_9F00_0000_FFFF)
    flat.gate(6, selector=SPARE, at=USER + 0x100)
    flat.gate(0x80, dpl=3)
    flat.write(USER + 0x100, "int 0x80")
    flat.start("ud2", user=True)
    assert 0x80 == flat.halted()
    assert [USER + 0x102, SPARE | 3] == flat.frame(2)


def test_loading_a_segment_marks_its_descriptor_accessed(flat):
    flat.describe(SPARE, 0x00CF_9A00_0000_FFFF)
    flat.describe(DATA0, DESCRIPTOR_NOT_ACCESSED)
    flat.gate(6, selector=SPARE)
    flat.start("ud2", user=True)
    assert [0x9B, 0x93] == [flat.ram.read(GDT + each + 5, 1)[0] for each in (SPARE, DATA0)]


DESCRIPTOR_NOT_ACCESSED = 0x00CF_9200_0000_FFFF


def test_a_code_segment_with_a_base_is_entered_and_interrupted_by_offsets(flat):
    flat.describe(SPARE, 0x0040_9B00_0000_FFFF | 0x1_0000 << 16)
    flat.write(0x1_0000 + 0x40, "int 0x33")
    flat.start(f"ljmp {SPARE}:0x40", esp=STACK)
    assert 0x33 == flat.halted()
    assert [0x42, SPARE] == flat.frame(2)


def test_16_bit_code_is_interrupted_and_gone_back_to(flat):
    flat.describe(SPARE, CODE_16 | 0x1_0000 << 16)
    flat.gate(0x33, at=CODE + 0x100)
    flat.write(CODE + 0x100, "mov ebx, 0x12345678\niretd")
    flat.write(0x1_0000 + 0x40, "int 0x33\nmov ax, 0x7777\nint 0x34", bits=16)
    flat.start(f"ljmp {SPARE}:0x40", eax=0)
    assert (0x34, 0x7777, 0x1234_5678) == (
        flat.halted(),
        flat.cpu.general(0),
        flat.cpu.general(3),
    )


def test_a_task_gate_ends_the_run_by_name(flat):
    flat.gate(6, kind=TASK_GATE, selector=TASK)
    ended = flat.start("ud2")
    assert (Stop.NOT_EMULATED, "a task switch, by the task gate of vector 6") == (
        ended.stop,
        ended.detail,
    )


def test_an_event_in_virtual_8086_mode_ends_the_run_by_name(flat):
    frame = (0, 0, 0, 0, 0x1000, 0, 2 | RFlags.VM | 3 << 12, 0x1000, 0)
    flat.ram.write(0x1_0000, bytes.fromhex("cd10"))
    pushes = "\n".join(f"push {value}" for value in frame)
    ended = flat.start(f"{pushes}\niretd")
    assert (Stop.NOT_EMULATED, "INT 0x10 in virtual-8086 mode") == (ended.stop, ended.detail)


def test_an_interrupt_that_is_no_instruction_has_neither_error_code_nor_rf(flat):
    with flat.cpu.changed():
        flat.cpu.enter(flat.segment(CODE0), 0, flat.segment(DATA0))
        flat.cpu.rip, flat.cpu.rsp = CODE, STACK
    flat.cpu.rflags = FLAGS
    event = Event(0x20, Kind.INTERRUPT)
    assert [event] == deliver(flat.cpu, event)
    flat.cpu.load()
    assert flat.handler(0x20) == flat.cpu.rip
    assert [CODE, CODE0, FLAGS] == flat.frame(3)


def test_data_that_grows_down_reaches_what_is_above_its_limit():
    down = Segment(0x30, 0, 0xFFF, 0x0040_9700)
    assert [False, True, True] == [
        down.reaches(*span)
        for span in ((0xFFF, 0x1002), (0x1000, 0x1003), (0xFFFF_FFF0, 0xFFFF_FFFF))
    ]
    assert not Segment(0x30, 0, 0xFFF, 0x0000_9700).reaches(0xFFFF, 0x1_0000)
