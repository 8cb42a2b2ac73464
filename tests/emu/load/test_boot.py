import numpy as np
import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.boot import Boot
from crosswalk.emu.load.failure import GuestFailure, console_lines
from crosswalk.emu.load.linux.guest import ARGUMENTS, LinuxGuest
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.points import Point, parse_point
from tests.emu.cpu.assembly import SLEEP
from tests.emu.load.linux.kernels import BASE, TABLES, TEXT, talking, vmlinux

IDLE = parse_point("idle")
SAID = parse_point(f"console:{TEXT}")

# Interrupts on, with a gate for the timer alone, whose handler does nothing.
SLEEPING = f"""
    mov edi, {BASE + 0x4000}
    lea rax, [rip + tick]
    mov [rdi + 0x300], ax
    mov word ptr [rdi + 0x302], 0x10
    mov word ptr [rdi + 0x304], 0x8e00
    shr rax, 16
    mov [rdi + 0x306], ax
    push rdi
    sub rsp, 2
    mov word ptr [rsp], 0xfff
    lidt [rsp]
{SLEEP}"""


def booted(source, *, arguments="", levels=4, elf=None, **options):
    kernel = parse_kernel(vmlinux(source, **elf or {}))
    guest = LinuxGuest(kernel, b"", arguments, levels)
    return Boot(Ram(0, 32 << 20), guest, **options)


def failure(source, until=IDLE, seconds=20, points=(), **options):
    with pytest.raises(GuestFailure) as caught:
        list(booted(source, **options).run(points, until, seconds))
    return str(caught.value), "\n".join(caught.value.lines)


def test_a_kernel_runs_to_a_text_on_its_console():
    boot = booted(talking(""))
    (reached,) = boot.run([], SAID, 20)
    assert (SAID, TABLES, 4) == (reached.point, reached.context.cr3, reached.context.levels)
    assert boot.machine.console.endswith(TEXT.encode())


def test_a_kernel_runs_to_its_idle_loop():
    (reached,) = booted(talking(SLEEPING)).run([], IDLE, 20)
    assert 36 == reached.events  # Two seconds of 18.2 ticks.


def test_how_long_a_guest_is_idle_can_be_chosen():
    boot = booted(talking(SLEEPING), idle_seconds=5)
    (reached,) = boot.run([], IDLE, 20)
    assert 91 == reached.events
    assert 5 < boot.machine.time < 5.1


def test_arguments_reach_the_kernel_through_the_zero_page():
    boot = booted(
        "mov edi, [rsi + 0x228]\ncall say\ncli\nhlt",
        arguments="the=end",
    )
    (reached,) = boot.run([], parse_point("console:the=end"), 20)
    assert f"{ARGUMENTS} the=end".encode() == boot.machine.console
    assert 0 == reached.system_calls


def test_a_5_level_entry_has_5_levels():
    boot = booted(talking(""), elf={"own_tables": False}, levels=5)
    (reached,) = boot.run([], SAID, 20)
    assert 5 == reached.context.levels


def test_points_come_in_the_order_in_which_they_are_reached():
    source = f"mov cr3, rbx\nmov cr3, rbx\n{talking('mov cr3, rbx', 'one two three')}"
    points = [parse_point(text) for text in ("console:three", "cr3:3", "cr3:1", "console:two")]
    boot = booted(source)
    assert ["cr3:1", "cr3:3", "console:two", "console:three", "cr3:4"] == [
        str(reached.point) for reached in boot.run(points, parse_point("cr3:4"), 20)
    ]


def test_points_reached_at_once_come_as_they_were_given():
    points = [SAID, parse_point("console:kernel")]
    assert [*points, parse_point("console:\n")] == [
        each.point for each in booted(talking("")).run(points, parse_point("console:\n"), 20)
    ]


def test_instructions_are_counted_from_the_entry():
    points = [parse_point("instructions:10")]
    found = list(booted(talking("")).run(points, parse_point("instructions:25"), 20))
    assert [10, 25] == [each.instructions for each in found]


def test_a_point_that_the_last_instruction_counted_leads_to_is_not_passed_over():
    after = parse_point("console:\n")
    counted = [parse_point("instructions:10"), SAID]
    *_, said, _ = booted(talking("")).run(counted, after, 20)
    assert SAID == said.point
    both = [parse_point(f"instructions:{said.instructions}"), SAID]
    found = {str(each.point) for each in booted(talking("")).run(both, after, 20)}
    assert {str(point) for point in (*both, after)} == found


def test_a_symbol_is_reached_before_its_instruction():
    (reached,) = booted(talking("")).run([], parse_point("symbol:_text", {"_text": BASE}), 20)
    assert BASE == reached.state.registers["rip"]
    assert reached.context.cr3 != TABLES


def test_lines_of_the_console_are_told_as_they_come():
    lines = []
    source = talking("lea rdi, [rip + text]\ncall say", "a\\r\\n\\033[1mb")
    boot = booted(source, on_line=lines.append)
    with pytest.raises(GuestFailure):
        list(boot.run([], IDLE, 20))
    assert ["a", r"\x1b[1mb", "a", r"\x1b[1mb"] == lines


def test_lines_of_the_console_are_cut_and_escaped():
    assert ["x" * 2000 + "…", "a\\tb", "", "ü"] == console_lines(
        b"x" * 850_000 + b"\r\na\tb\n\n" + "ü".encode()
    )


def test_a_kernel_that_panics_and_resets_is_a_failure_with_its_last_words():
    message, lines = failure(talking("mov al, 0xfe\nout 0x64, al", "panic: no room"))
    assert "the guest didn't reach idle: the guest asked for a reset" == message
    assert "console, last lines of 1:\n  panic: no room\n" in lines


def test_a_kernel_that_hangs_is_a_failure_within_its_time():
    message, lines = failure(talking("hang: jmp hang"), seconds=1)
    assert "the guest didn't reach idle: the time is up" == message
    assert "jmp 0x1000" in lines


def test_a_kernel_that_halts_is_a_failure():
    message, lines = failure(talking(""))
    assert "the guest didn't reach idle: halted for good" in message
    assert f"cr3 {TABLES:016x}" in lines
    assert "no exceptions" in lines


def test_a_triple_fault_is_a_failure_with_the_exceptions_that_led_to_it():
    message, lines = failure(talking("ud2"))
    assert "the CPU shut down (triple fault: 6 (#UD), 13 (#GP), 8 (#DF), 13 (#GP))" in message
    assert "exception 6 (#UD) at 0x1000" in lines
    assert "ud2" in lines.partition("code, of 64 bits:\n")[2].splitlines()[0]


def test_the_address_of_a_page_fault_is_in_the_history():
    source = SLEEPING.replace("0x300", "0xe0").replace("0x302", "0xe2").replace("0x304", "0xe4")
    source = source.replace("0x306", "0xe6").replace(
        "    sti\n", "    mov esi, 0x12345678\n    mov al, [rsi]\n"
    )
    handler = source.replace("iretq", "mov al, 0xfe\n    out 0x64, al\n    cli\n    hlt")
    _, lines = failure(talking(handler))
    assert ", CPL 0, error code 0x0, CR2 0x12345678" in lines


def test_code_that_cannot_be_read_is_said_to_be_so():
    _, lines = failure(talking("mov rax, 0x12345678\njmp rax"))
    assert "  0x12345678: not readable" in lines


def test_points_that_the_end_came_before_are_named():
    message, _ = failure(talking(""), SAID, points=[parse_point("cr3:7"), Point(IDLE.kind)])
    assert f"console:{TEXT} came before cr3:7, idle" == message


def test_two_boots_are_the_same_byte_for_byte():
    rams = []
    for _ in range(2):
        boot = booted(talking(SLEEPING))
        list(boot.run([SAID], IDLE, 20))
        rams.append(boot.machine.ram.bytes)
    assert np.array_equal(*rams)


LEAVING = {
    "exit": ("out 0xf4, al", "exit", 7),
    "reset": ("mov dx, 0x64\nmov al, 0xfe\nout dx, al", "idle", None),
}


@pytest.mark.parametrize("way", LEAVING)
def test_a_guest_that_leaves_right_behind_a_point_has_left(way):
    leave, until, status = LEAVING[way]
    source = f"mov dx, 0x3f8\nmov al, 3\nout dx, al\n{leave}\ncli\nhlt"
    boot = booted(source, exit_port=0xF4)
    points = boot.run([parse_point("console:\x03")], parse_point(until), 20)
    assert "console:\x03" == str(next(points).point)
    if status is None:
        with pytest.raises(GuestFailure, match="the guest asked for a reset"):
            next(points)
    else:
        assert "exit" == str(next(points).point)
    assert status == boot.exit_status
