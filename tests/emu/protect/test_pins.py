import capstone
import pytest

from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.protect.pins import CrWrite, Pins, RegisterWrite, cleared, parse_cr_write
from crosswalk.guest.assembler import assemble
from tests.emu.cpu.legacy_machine import Legacy

GENERAL = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)


@pytest.mark.parametrize("control", [0, 3, 4, 8])
@pytest.mark.parametrize("general", range(16))
def test_a_mov_is_understood_as_it_was_assembled(control, general):
    code = assemble("mov", f"mov cr{control}, {GENERAL[general]}", bits=64, address=0, symbols={})
    assert CrWrite(control, general, len(code)) == parse_cr_write(code + b"\xf4")
    (shown,) = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, 0)
    assert f"cr{control}, {GENERAL[general]}" == shown.op_str


@pytest.mark.parametrize("code", ["", "0f", "0f22", "0f20c0", "480f", "f4f4f4f4", "0f01f0"])
def test_anything_else_is_no_write(code):
    assert None is parse_cr_write(bytes.fromhex(code))


def test_only_what_was_set_is_pinned():
    assert ["WP"] == cleared("cr0", 0x8001_0001, 0x8000_0001)
    assert ["PE", "PG"] == cleared("cr0", 0x8001_0001, 0x1_0000)
    assert [] == cleared("cr4", 0x20, 0x60)
    assert ["SMEP", "SMAP"] == cleared("cr4", 0x30_0020, 0x20)
    assert ["NXE"] == cleared("efer", 0xD00, 0x500)
    assert [] == cleared("efer", 0xD00, 0xD01)


@pytest.mark.parametrize(
    ("code", "instruction", "ecx", "expected"),
    [
        (ExitCode.MSR, "0f30", 0xC000_0080, RegisterWrite("efer", 0x2_0000_0001, 2)),
        (ExitCode.MSR, "480f30", 0xC000_0080, RegisterWrite("efer", 0x2_0000_0001, 3)),
        (ExitCode.MSR, "0f30", 0xC000_0081, None),
        (ExitCode.MSR, "0f32", 0xC000_0080, None),
        (ExitCode.CR4_WRITE, "0f22e0", 0, RegisterWrite("cr4", 0x5_0000_0001, 3)),
        (ExitCode.CR0_WRITE, "0f22e0", 0, None),
        (ExitCode.CR0_WRITE, "0f01f0", 0, None),
    ],
)
def test_what_an_exit_would_write(subject, code, instruction, ecx, expected):
    cpu = subject.guest.cpu
    with cpu.changed():
        for number, value in enumerate((0x5_0000_0001, ecx, 0x7_0000_0002)):
            cpu.set_general(number, value)
    attempted = subject.hypervisor.pins.attempted(code, bytes.fromhex(instruction))
    assert expected == attempted


def test_a_register_that_32_bit_code_writes_has_32_bits():
    cpu = Legacy("PAE").cpu
    with cpu.changed():
        cpu.set_general(0, 0x5_0000_0031)
    pins = Pins(cpu, host=None)
    expected = RegisterWrite("cr4", 0x31, 3)
    assert expected == pins.attempted(ExitCode.CR4_WRITE, bytes.fromhex("0f22e0"))
