"""CR8 is the upper half of the local APIC's task priority."""

import pytest

from crosswalk.emu.pc.results import Stop
from crosswalk.walker.architecture import Vector
from tests.emu.cpu.machine import CODE, UNMAPPED
from tests.emu.pc.messages import BLOCK, END, HANDLER, KEY, map_lapic

RBX, R12 = 3, 12


def run(bare, source, **registers):
    map_lapic(bare)
    assert Stop.HALTED is bare.start(source, r15=UNMAPPED, **registers).stop
    return bare.cpu.general


@pytest.mark.parametrize("register", ["rax", "rdx", "r9"])
def test_what_is_written_is_read_and_is_the_register_of_the_apic(bare, register):
    source = f"mov {register}, 5\nmov cr8, {register}\nxor eax, eax\nmov rbx, cr8\n"
    general = run(bare, f"{source}mov r12d, [r15 + 0x80]\ncli\nhlt")
    assert (5, 0x50) == (general(RBX), general(R12))


def test_what_the_apic_has_is_read_without_its_lower_half(bare):
    general = run(bare, "mov dword ptr [r15 + 0x80], 0xf7\nmov rbx, cr8\ncli\nhlt", rbx=99)
    assert 0xF == general(RBX)


@pytest.mark.parametrize("value", [0x10, 1 << 63])
def test_a_reserved_bit_is_a_general_protection_fault_and_changes_nothing(bare, value):
    move = "mov rax, 3\nmov cr8, rax\n"
    at = CODE + len(bare.write(CODE, f"{move}mov rax, {value:#x}"))
    bare.gate(Vector.GP, at=HANDLER)
    bare.write(HANDLER, "mov rbx, cr8\nhlt")
    general = run(bare, f"{move}mov rax, {value:#x}\nmov cr8, rax\ncli\nhlt")
    (delivered,) = bare.machine.events
    assert (Vector.GP, 0, at) == (delivered.event.vector, delivered.error_code, delivered.rip)
    assert 3 == general(RBX)


def test_user_mode_may_not(bare):
    bare.start("mov rax, cr8", user=True)
    assert Vector.GP == bare.machine.events[0].event.vector


def test_without_the_apic_it_keeps_its_value(bare):
    off = "mov ecx, 0x1b\nrdmsr\nand ah, 0xf7\nwrmsr\n"
    general = run(bare, f"{off}mov eax, 9\nmov cr8, rax\nmov rbx, cr8\ncli\nhlt", rbx=0)
    assert 9 == general(RBX)


@pytest.mark.parametrize(("priority", "comes"), [(3, 1), (4, 0), (5, 0)])
def test_a_message_of_its_class_or_a_lower_one_waits_until_it_is_lowered(bare, priority, comes):
    bare.gate(KEY, at=HANDLER)
    bare.write(HANDLER, f"{END}\ninc rbx\niretq")
    send = f"mov dword ptr [r15 + 0x300], {0x40000 | KEY}"
    source = f"mov eax, {priority}\nmov cr8, rax\n{send}\nin al, 0x61\n{BLOCK}\nmov r12, rbx\n"
    lower = f"xor eax, eax\nmov cr8, rax\n{BLOCK}\ncli\nhlt"
    general = run(bare, source + lower, rbx=0)
    assert (4, comes, 1) == (KEY >> 4, general(R12), general(RBX))
