"""Delivery, kind by kind, with expectations from the manual.

Intel SDM vol. 3A, "Exception and Interrupt Handling in 64-bit Mode".
"""

import struct

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.delivery import (
    Event,
    Kind,
    TripleFault,
    deliver,
    mnemonic,
    vector_name,
)
from crosswalk.emu.cpu.events import combined
from crosswalk.emu.pc.results import Stop
from crosswalk.walker.architecture import RFlags
from tests.emu.cpu.machine import (
    CODE,
    CODE0,
    CODE3,
    CODE32,
    DATA0,
    DATA3,
    GDT,
    IDT,
    IST1,
    READ_ONLY,
    ROOT,
    RSP0,
    STACK,
    TASK,
    TRAP_GATE,
    TSS,
    UNMAPPED,
    USER,
    USER_STACK,
)

FLAGS = 2 | RFlags.IF


def halted(bare):
    """The vector whose handler halted."""
    return (bare.cpu.rip - 2 - bare.handler(0)) // 4


def test_a_page_fault_pushes_its_error_code_and_leaves_its_address_in_cr2(bare):
    ended = bare.start("mov byte ptr [rbx + 5], al", rbx=READ_ONLY)
    assert (Stop.HALTED, 14) == (ended.stop, halted(bare))
    assert [3, CODE, CODE0, FLAGS | RFlags.RF, STACK - 8, DATA0] == bare.frame(6)
    assert READ_ONLY + 5 == bare.cpu.cr2


def test_the_stack_is_aligned_to_16_bytes_before_the_frame(bare):
    bare.start("ud2", rsp=STACK - 0x13)
    assert STACK - 0x20 - 40 == bare.cpu.rsp
    assert [CODE, CODE0, FLAGS | RFlags.RF, STACK - 0x13, DATA0] == bare.frame(5)


def test_invalid_opcodes_push_no_error_code(bare):
    bare.start("nop\nud2")
    assert 6 == halted(bare)
    assert [CODE + 1, CODE0, FLAGS | RFlags.RF, STACK - 8, DATA0] == bare.frame(5)


def test_a_general_protection_fault_for_an_address_that_is_not_canonical(bare):
    bare.start("mov al, [rbx]", rbx=1 << 50)
    assert 13 == halted(bare)
    assert [0, CODE] == bare.frame(2)


@pytest.mark.parametrize(("kind", "left"), [(14, 0), (TRAP_GATE, RFlags.IF)])
def test_an_interrupt_gate_masks_interrupts_and_a_trap_gate_does_not(bare, kind, left):
    bare.gate(6, kind=kind, at=CODE + 0x100)
    bare.write(CODE + 0x100, "pushfq\npop rax\ncli\nhlt")
    flags = FLAGS | RFlags.NT | RFlags.AC
    assert Stop.HALTED is bare.start("ud2", rflags=flags).stop
    assert 2 | left | RFlags.AC == bare.cpu.general(0)
    assert flags | RFlags.RF == bare.frame(5)[2]


def test_a_fault_in_user_mode_goes_to_the_stack_of_the_tss(bare):
    bare.start("mov al, [rbx]", user=True, rbx=UNMAPPED)
    assert 14 == halted(bare)
    assert RSP0 - 48 == bare.cpu.rsp
    assert [4, USER, CODE3, FLAGS | RFlags.RF, USER_STACK - 8, DATA3] == bare.frame(6)
    assert (0, CODE0, 0) == (
        bare.cpu.cpl,
        bare.cpu.segment("cs").selector,
        bare.cpu.segment("ss").selector,
    )


def test_the_handler_of_a_user_fault_may_use_supervisor_pages(bare):
    bare.gate(14, at=CODE + 0x100)
    bare.write(CODE + 0x100, f"mov rax, [{STACK - 0x800} + rcx]\ncli\nhlt")
    bare.ram.write(STACK - 0x800, struct.pack("<Q", 0x1234_5678))
    bare.start("mov al, [rbx]", user=True, rbx=STACK, rcx=0)
    assert 0x1234_5678 == bare.cpu.general(0)
    assert 5 == bare.frame(1)[0]


@pytest.mark.parametrize("user", [False, True])
def test_an_interrupt_stack_is_taken_whatever_the_privilege(bare, user):
    bare.gate(6, ist=1)
    bare.start("ud2", user=user)
    assert IST1 - 40 == bare.cpu.rsp
    code, data = (CODE3, DATA3) if user else (CODE0, DATA0)
    stack = (USER_STACK if user else STACK) - 8
    rip = USER if user else CODE
    assert [rip, code, FLAGS | RFlags.RF, stack, data] == bare.frame(5)


def test_int_returns_past_itself_and_its_flags_are_not_those_of_a_fault(bare):
    bare.gate(0x80, dpl=3)
    bare.start("int 0x80", user=True)
    assert 0x80 == halted(bare)
    assert [USER + 2, CODE3, FLAGS, USER_STACK - 8, DATA3] == bare.frame(5)


def test_int3_returns_past_itself(bare):
    bare.gate(3, dpl=3)
    bare.start("int3", user=True)
    assert 3 == halted(bare)
    assert USER + 1 == bare.frame(1)[0]


@pytest.mark.parametrize(("source", "vector"), [("int 0x80", 0x80), ("int3", 3)])
def test_int_through_a_gate_that_is_not_the_users_is_a_fault_at_itself(bare, source, vector):
    bare.start(f"nop\n{source}", user=True)
    assert 13 == halted(bare)
    assert [vector * 8 + 2, USER + 1, CODE3, FLAGS | RFlags.RF] == bare.frame(4)


def test_a_fault_does_not_ask_for_the_gates_privilege(bare):
    bare.start("ud2", user=True)
    assert 6 == halted(bare)


def test_an_interrupt_has_neither_error_code_nor_rf(bare):
    bare.write(USER, "jmp .")
    bare.start("ud2", user=True)  # To have been in user mode.
    with bare.cpu.changed():
        bare.cpu.enter(bare.segment(CODE3), 3)
        bare.cpu.set_segment("ss", bare.segment(DATA3))
        bare.cpu.rip, bare.cpu.rsp = USER, USER_STACK
    bare.cpu.rflags = FLAGS
    event = Event(0x20, Kind.INTERRUPT)
    assert [event] == deliver(bare.cpu, event)
    bare.cpu.load()
    assert bare.handler(0x20) == bare.cpu.rip
    assert [USER, CODE3, FLAGS, USER_STACK, DATA3] == bare.frame(5)
    assert 0 == bare.cpu.rflags & RFlags.IF


def test_iretq_goes_back_to_user_code_and_a_thousand_faults_are_all_delivered(bare):
    # The second exception would come as a double fault, and later ones not at all, if the CPU
    # remembered the one before.
    bare.gate(14, at=CODE + 0x100)
    bare.write(CODE + 0x100, "add rsp, 8\nadd qword ptr [rsp], 2\ninc rdx\niretq")
    bare.gate(0x80, dpl=3)
    bare.start(
        "mov ecx, 1000\nagain: mov al, [rbx]\ndec ecx\njnz again\nint 0x80",
        user=True,
        rbx=UNMAPPED,
        rdx=0,
    )
    assert (0x80, 1000) == (halted(bare), bare.cpu.general(2))
    assert 1000 == bare.machine.counts[14, Kind.EXCEPTION]


def test_a_fault_in_32_bit_code_enters_64_bit_code_and_goes_back(bare):
    bare.gate(6, at=CODE + 0x100)
    bare.write(CODE + 0x100, "movabs r15, 0x1122334455667788\nadd qword ptr [rsp], 2\niretq")
    bare.gate(0x80, dpl=3)
    bare.write(USER, "ud2\ninc eax\nint 0x80", bits=32)
    source = f"push {DATA3}\npush {USER_STACK}\npush 0x202\npush {CODE32}\npush {USER}\niretq"
    bare.start(source, rax=7)
    assert 0x80 == halted(bare)
    assert (8, 0x1122_3344_5566_7788) == (bare.cpu.general(0), bare.cpu.general(15))
    assert [USER + 5, CODE32, 0x202, USER_STACK, DATA3] == bare.frame(5)


BROKEN_GATES = {
    "not present": ({"present": False}, 11, 6 * 8 + 3),
    "another type": ({"kind": 12}, 13, 6 * 8 + 3),
    "no selector": ({"selector": 0}, 13, 1),
    "selector beyond the table": ({"selector": 0x40}, 13, 0x41),
    "selector in the LDT, of which there is none": ({"selector": 0x0C}, 13, 0x0D),
    "data for code": ({"selector": DATA0}, 13, DATA0 + 1),
    "32-bit code": ({"selector": 0x18}, 13, 0x19),
    "offset not canonical": ({"at": 1 << 50}, 13, 1),
}


@pytest.mark.parametrize("broken", BROKEN_GATES)
def test_an_error_in_a_gate_is_the_fault_that_is_delivered(bare, broken):
    how, vector, error_code = BROKEN_GATES[broken]
    bare.gate(6, **how)
    bare.start("ud2")
    assert vector == halted(bare)
    assert [error_code, CODE] == bare.frame(2)


def test_a_code_segment_that_is_not_present_is_the_fault_that_is_delivered(bare):
    bare.ram.words[GDT // 8 + 6] = 0x00AF_1B00_0000_FFFF
    bare.gate(6, selector=0x30)
    bare.start("ud2")
    assert 11 == halted(bare)
    assert 0x31 == bare.frame(1)[0]


def test_a_conforming_code_segment_keeps_the_privilege_level(bare):
    bare.ram.words[GDT // 8 + 6] = 0x00AF_9F00_0000_FFFF
    bare.gate(6, selector=0x30, at=USER + 0x100)
    bare.gate(0x80, dpl=3)
    bare.write(USER + 0x100, "int 0x80")
    bare.start("ud2", user=True)
    assert 0x80 == halted(bare)
    assert [USER + 0x102, 0x33] == bare.frame(2)


def test_a_vector_beyond_the_table_is_a_general_protection_fault(bare):
    bare.engine.reg_write(x86.UC_X86_REG_IDTR, (0, IDT, 16 * 0x20 - 1, 0))
    bare.start("int 0x20")
    assert 13 == halted(bare)
    assert [0x20 * 8 + 2, CODE] == bare.frame(2)


def test_a_tss_too_small_for_the_stack_is_an_invalid_tss(bare):
    bare.engine.reg_write(x86.UC_X86_REG_TR, (TASK, TSS, 36 + 6, 0x8B00))
    bare.gate(6, ist=1)
    bare.start("ud2")
    assert 10 == halted(bare)
    assert TASK + 1 == bare.frame(1)[0]


def test_a_stack_that_is_not_canonical_is_a_stack_fault(bare):
    bare.ram.write(TSS + 36, struct.pack("<Q", 1 << 50))
    bare.gate(6, ist=1)
    bare.start("ud2")
    assert 12 == halted(bare)
    assert 1 == bare.frame(1)[0]


@pytest.mark.parametrize(("page", "error_code"), [(UNMAPPED, 2), (READ_ONLY, 3)])
def test_a_stack_that_cannot_be_written_is_a_page_fault(bare, page, error_code):
    bare.ram.write(TSS + 36, struct.pack("<Q", page + 0x100))
    bare.gate(6, ist=1)
    bare.start("ud2")
    assert 14 == halted(bare)
    assert [error_code, CODE] == bare.frame(2)
    assert page + 0xF8 == bare.cpu.cr2


def test_a_page_fault_while_a_page_fault_is_delivered_is_a_double_fault(bare):
    bare.gate(8, ist=1)
    bare.start("mov al, [rbx]", rbx=UNMAPPED, rsp=UNMAPPED + 0x100)
    assert 8 == halted(bare)
    assert [0, CODE, CODE0, FLAGS, UNMAPPED + 0x100] == bare.frame(5)


def test_a_fault_while_a_double_fault_is_delivered_shuts_the_cpu_down(bare):
    ended = bare.start("mov al, [rbx]", rbx=UNMAPPED, rsp=UNMAPPED + 0x100)
    assert (Stop.SHUTDOWN, "triple fault: 14 (#PF), 8 (#DF), 14 (#PF)") == (
        ended.stop,
        ended.detail,
    )


# Table 6-5: benign 1, 3, 6; contributory 0, 10 to 13; page faults.
@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        *((first, second, second) for first in (1, 3, 6) for second in (10, 13, 14)),
        *((first, second, 8) for first in (0, 10, 11, 12, 13) for second in (10, 11, 12, 13)),
        *((first, 14, 14) for first in (0, 10, 11, 12, 13)),
        *((14, second, 8) for second in (10, 11, 12, 13, 14)),
    ],
)
def test_faults_while_delivering_combine_as_the_manual_says(first, second, result):
    history = [Event(first, Kind.EXCEPTION)]
    assert result == combined(history, Event(second, Kind.EXCEPTION)).vector


@pytest.mark.parametrize("kind", [Kind.INTERRUPT, Kind.SOFTWARE])
def test_after_an_interrupt_every_fault_is_delivered_as_itself(kind):
    assert 13 == combined([Event(14, kind)], Event(13, Kind.EXCEPTION)).vector


def test_a_fault_after_a_double_fault_is_a_triple_fault():
    with pytest.raises(TripleFault, match=r"triple fault: 8 \(#DF\), 13 \(#GP\)"):
        combined([Event(8, Kind.EXCEPTION)], Event(13, Kind.EXCEPTION))


def test_vectors_have_names_where_the_manual_has_them():
    assert ("14 (#PF)", "32") == (vector_name(14), vector_name(32))
    assert ("#PF", "INT 0x20") == (mnemonic(14), mnemonic(32))


def test_an_int_in_the_last_bytes_of_all_addresses_is_where_its_fault_says(bare):
    for level in range(3):
        bare.ram.words[(ROOT + 0x1000 * level) // 8 + 511] = ROOT + 0x1000 * (level + 1) | 7
    bare.ram.words[(ROOT + 0x3000) // 8 + 511] = 0x40000 | 3
    bare.ram.write(0x40FFE, b"\xcd\x80")
    bare.gate(0x80, present=False)
    bare.start("mov rax, -2\njmp rax")
    assert 11 == bare.vector
    error, rip = bare.frame(2)
    assert (0x80 << 3 | 2, (1 << 64) - 2) == (error, rip)
