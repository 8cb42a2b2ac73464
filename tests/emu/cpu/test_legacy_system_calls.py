"""SYSENTER, and SYSCALL outside 64-bit mode: Intel SDM vol. 2B, "SYSENTER—Fast System Call",
"SYSCALL—Fast System Call"; AMD APM vol. 3, "SYSCALL"."""

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.cpu.svm.guest_mode import SVM_MODEL
from crosswalk.walker.architecture import EFER, MSR, RFlags
from tests.emu.cpu.legacy_machine import (
    CODE,
    CODE0,
    CODE3,
    DATA0,
    DATA3,
    ESP0,
    FLAGS,
    USER,
    USER_STACK,
    Legacy,
)
from tests.emu.cpu.machine import CODE as LONG_CODE
from tests.emu.cpu.machine import CODE0 as LONG_CODE0
from tests.emu.cpu.machine import USER as LONG_USER

ENTRY = CODE + 0x200


def write_msrs(machine, **values):
    for name, value in values.items():
        machine.engine.reg_write(x86.UC_X86_REG_MSR, (MSR[name], value))


@pytest.fixture
def ready():
    machine = Legacy("32-bit")
    write_msrs(machine, SYSENTER_CS=CODE0, SYSENTER_ESP=ESP0, SYSENTER_EIP=ENTRY)
    return machine


def test_sysenter_goes_to_the_kernels_entry_and_stack_with_interrupts_off(ready):
    ready.write(ENTRY, "hlt")
    ready.start("nop\nsysenter", user=True, rflags=FLAGS | RFlags.AC)
    cpu = ready.cpu
    assert (ENTRY + 1, ESP0, 0) == (cpu.rip, cpu.rsp, cpu.cpl)
    assert (CODE0, CODE0 + 8) == (cpu.segment("cs").selector, cpu.segment("ss").selector)
    assert (32, 2 | RFlags.AC) == (cpu.bits, cpu.rflags)
    assert 1 == ready.machine.system_calls


def test_sysexit_goes_back_to_user_code(ready):
    # SYSEXIT takes CS and SS from 16 and 24 above IA32_SYSENTER_CS, ESP from ECX, EIP from EDX.
    ready.write(ENTRY, f"inc ebx\nmov ecx, {USER_STACK - 64}\nmov edx, esi\nsti\nsysexit")
    ready.gate(0x80, dpl=3)
    source = f"mov edi, 200\nagain: mov esi, {USER + 12}\nsysenter\ndec edi\njnz again\nint 0x80"
    ready.start(source, user=True, ebx=0)
    assert (0x80, 200) == (ready.halted(), ready.cpu.general(3))
    code, flags, esp, stack = ready.frame(5)[1:]
    assert [CODE0 + 16 | 3, USER_STACK - 64, CODE0 + 24 | 3] == [code, esp, stack]
    assert RFlags.IF == flags & RFlags.IF
    assert 201 == ready.machine.system_calls  # The INT at the end is one, too.


def test_a_prefix_counts_to_the_length_of_the_instruction(ready):
    ready.write(ENTRY, "nop\nhlt")
    ready.ram.write(USER, b"\x3e\x0f\x34")
    ready.start("", user=True)
    assert ENTRY + 2 == ready.cpu.rip


def test_sysenter_without_a_code_segment_is_a_general_protection_fault(ready):
    write_msrs(ready, SYSENTER_CS=3)
    ready.start("nop\nsysenter", user=True)
    assert 13 == ready.halted()
    assert [0, USER + 1, CODE3] == ready.frame(3)
    assert 0 == ready.machine.system_calls


def test_syscall_outside_64_bit_mode_is_invalid_on_intels_processors(ready):
    write_msrs(ready, EFER=EFER.SCE, STAR=ENTRY | CODE0 << 32)
    ready.start("nop\nsyscall", user=True)
    assert 6 == ready.halted()
    assert [USER + 1, CODE3] == ready.frame(2)


def test_syscall_outside_long_mode_goes_where_star_says_on_amds_processors():
    machine = Legacy("32-bit", model=SVM_MODEL)
    write_msrs(machine, EFER=EFER.SCE, STAR=ENTRY | CODE0 << 32)
    machine.write(ENTRY, "hlt")
    machine.start("nop\nsyscall", user=True)
    cpu = machine.cpu
    assert (ENTRY + 1, USER + 3, 0) == (cpu.rip, cpu.general(1), cpu.cpl)
    assert (CODE0, DATA0) == (cpu.segment("cs").selector, cpu.segment("ss").selector)
    assert (32, 2) == (cpu.bits, cpu.rflags)
    assert DATA3 != DATA0


def test_syscall_without_sce_is_invalid(ready):
    machine = Legacy("32-bit", model=SVM_MODEL)
    machine.start("syscall", user=True)
    assert 6 == machine.halted()
    assert ready.machine.system_calls == machine.machine.system_calls == 0


def test_sysenter_in_64_bit_mode_goes_to_64_bit_code(bare):
    entry = LONG_CODE + 0x200
    write_msrs(bare, SYSENTER_CS=LONG_CODE0, SYSENTER_ESP=0x20000, SYSENTER_EIP=entry)
    bare.write(entry, "movabs r15, 0x1122334455667788\nhlt")
    bare.start("sysenter", user=True)
    assert (64, 0x1122_3344_5566_7788, 0x20000) == (
        bare.cpu.bits,
        bare.cpu.general(15),
        bare.cpu.rsp,
    )


def test_syscall_in_compatibility_mode_is_invalid_on_intels_processors(bare):
    write_msrs(bare, STAR=0x0010_0008 << 32, CSTAR=LONG_CODE + 0x200)
    bare.write(LONG_USER, "syscall", bits=32)
    bare.start(f"push 0x23\npush 0xD000\npush 2\npush 0x1B\npush {LONG_USER}\niretq")
    assert 6 == (bare.cpu.rip - 2 - bare.handler(0)) // 4
    assert [LONG_USER, 0x1B] == bare.frame(2)
