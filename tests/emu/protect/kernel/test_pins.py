import capstone
import pytest

from emu.protect.kernel.pins import CrWrite, cleared, parse_cr_write
from guest.assembler import assemble

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
    assert parse_cr_write(bytes.fromhex(code)) is None


def test_only_what_was_set_is_pinned():
    assert ["WP"] == cleared("cr0", 0x8001_0001, 0x8000_0001)
    assert ["PE", "PG"] == cleared("cr0", 0x8001_0001, 0x1_0000)
    assert [] == cleared("cr4", 0x20, 0x60)
    assert ["SMEP", "SMAP"] == cleared("cr4", 0x30_0020, 0x20)
    assert ["NXE"] == cleared("efer", 0xD00, 0x500)
