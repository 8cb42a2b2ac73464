"""SYSCALL and SYSRET: Intel SDM vol. 2B, "SYSCALL—Fast System Call"."""

import pytest
from unicorn import x86_const as x86

from crosswalk.emu.pc.results import Stop
from crosswalk.walker.architecture import RFlags
from tests.emu.cpu.machine import CODE, CODE0, CODE3, DATA0, DATA3, USER, USER_STACK

STAR, LSTAR, FMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084
ENTRY = CODE + 0x200


@pytest.fixture
def ready(bare):
    write = bare.engine.reg_write
    # SYSRET takes CS and SS from 16 and 8 above the upper selector.
    write(x86.UC_X86_REG_MSR, (STAR, (CODE3 - 16) << 48 | CODE0 << 32))
    write(x86.UC_X86_REG_MSR, (LSTAR, ENTRY))
    write(x86.UC_X86_REG_MSR, (FMASK, RFlags.IF | RFlags.DF))
    return bare


def test_syscall_enters_the_kernel_and_says_where_it_came_from(ready):
    ready.write(ENTRY, "cli\nhlt")
    flags = 2 | RFlags.IF | RFlags.DF | RFlags.AC
    ended = ready.start("nop\nsyscall", user=True, rflags=flags)
    cpu = ready.cpu
    assert (Stop.HALTED, ENTRY + 2) == (ended.stop, cpu.rip)
    assert (USER + 3, flags) == (cpu.general(1), cpu.general(11))
    assert (0, CODE0, DATA0) == (cpu.cpl, cpu.segment("cs").selector, cpu.segment("ss").selector)
    assert USER_STACK - 8 == cpu.rsp
    assert 2 | RFlags.AC == cpu.rflags
    assert 1 == ready.machine.system_calls


def test_sysret_goes_back_to_user_mode_with_the_flags_it_had(ready):
    ready.write(ENTRY, "mov rax, 77\n.byte 0x48, 0x0f, 0x07")
    ready.gate(0x80, dpl=3)
    ready.start("syscall\npushfq\npop rbx\nint 0x80", user=True)
    assert 77 == ready.cpu.general(0)
    assert 2 | RFlags.IF == ready.cpu.general(3) & ~RFlags.RF
    assert [CODE3, DATA3] == ready.frame(5)[1::3]


def test_many_system_calls_are_all_made(ready):
    ready.write(ENTRY, "inc rdx\n.byte 0x48, 0x0f, 0x07")
    ready.gate(0x80, dpl=3)
    ready.start("mov r12d, 500\nagain: syscall\ndec r12d\njnz again\nint 0x80", user=True, rdx=0)
    assert (500, 501) == (ready.cpu.general(2), ready.machine.system_calls)


def test_syscall_is_invalid_where_it_is_not_enabled(ready):
    ready.engine.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, 0xD00))
    ready.start("syscall", user=True)
    assert 0 == ready.machine.system_calls
    assert USER == ready.frame(1)[0]


def test_an_int_of_user_mode_is_a_system_call(ready):
    ready.gate(0x80, dpl=3)
    calls = []
    ready.machine.on_system_call = lambda: calls.append(ready.cpu.rip)
    ready.start("int 0x80", user=True)
    assert (1, [ready.handler(0x80)]) == (ready.machine.system_calls, calls)


@pytest.mark.parametrize(
    ("source", "user", "vector"),
    [
        ("int3", True, 3),  # A breakpoint.
        ("int 0x80", False, 0x80),  # Of the kernel itself.
        ("int 0x81", True, 13),  # One that its gate refuses.
        ("ud2", True, 6),
    ],
)
def test_other_events_are_no_system_calls(ready, source, user, vector):
    ready.gate(0x80, dpl=3)
    ready.gate(3, dpl=3)
    ready.start(source, user=user)
    assert ready.handler(vector) + 2 == ready.cpu.rip
    assert 0 == ready.machine.system_calls
