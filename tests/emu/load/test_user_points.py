"""Points of user space: its first instruction, its system calls, and consoles that are behind."""

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.failure import GuestFailure
from crosswalk.emu.load.linux.guest import LinuxGuest
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.points import parse_point
from tests.emu.load.linux.kernels import vmlinux
from tests.emu.load.user_kernel import CODE3, user_kernel

LOUD = """
    mov dx, 0x3f8
    mov al, 0x41
    out dx, al
"""


def reached(source, *points):
    guest = LinuxGuest(parse_kernel(vmlinux(source)), b"")
    boot = Boot(Ram(0, 32 << 20), guest)
    *others, until = [parse_point(text) for text in points]
    return list(boot.run(others, until, 20)), boot


def code(boot, each, size):
    boot.machine.cpu.load()
    return boot.machine.ram.read(each.state.registers["rip"], size)


def test_user_is_reached_before_the_first_instruction_at_privilege_level_3():
    (each,), boot = reached(user_kernel("mov eax, 0x1234\nsyscall"), "user")
    assert CODE3 == each.state.segments["cs"].selector
    assert b"\xb8\x34\x12\0\0\x0f\x05" == code(boot, each, 7)
    assert 0x1234 != each.state.registers["rax"]
    assert (True, 0) == (each.user_space, each.system_calls)


def test_a_system_call_is_a_point_at_its_handlers_first_instruction():
    source = user_kernel("syscall\nmov ebx, 7\nsyscall\nmov ebx, 8\nsyscall", called="mov ebp, 99")
    (second,), boot = reached(source, "syscall:2")
    assert (2, 7) == (second.system_calls, second.state.registers["rbx"])
    assert b"\xbd\x63\0\0\0" == code(boot, second, 5)
    assert 0x10 == second.state.segments["cs"].selector


def test_points_of_user_space_come_in_the_order_in_which_they_are_reached():
    source = user_kernel("syscall\nsyscall", before=LOUD)
    found, _ = reached(source, "syscall:1", "user", "console:A", "syscall:2")
    assert ["console:A", "user", "syscall:1", "syscall:2"] == [str(each.point) for each in found]
    assert [False, True, True, True] == [each.user_space for each in found]


def test_a_guest_that_never_gets_to_user_space_does_not_reach_it():
    with pytest.raises(GuestFailure, match="didn't reach user: halted for good"):
        reached("cli\nhlt", "user")


def test_a_point_of_the_console_that_is_behind_says_how_far():
    source = user_kernel("syscall\nsyscall\nsyscall", called=LOUD.replace("0x41", "0x42"))
    found, _ = reached(source, "console:B", "console:BB", "syscall:3")
    late = "reached when the console showed it: user space had begun, and made {}, by then"
    assert [late.format("1 system call"), late.format("2 system calls"), ""] == [
        each.lag for each in found
    ]


def test_a_point_of_the_console_before_user_space_is_not_behind():
    found, _ = reached(user_kernel("syscall", before=LOUD), "console:A", "user")
    assert ["", ""] == [each.lag for each in found]
