import pytest

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.protect.kernel.facts import cpu_state, store_addresses
from crosswalk.guest.assembler import assemble
from tests.emu.cpu.machine import CODE, Bare

REGISTERS = {"rax": 0x1000, "rbx": 0x2000, "rdi": 0x3000, "rsi": 0x7000, "r9": 0x10, "rsp": 0x9000}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("mov [rbx], rax", (0x2000, 0x2007)),
        ("mov [rbx + r9 * 4 - 8], al", (0x2038, 0x2038)),
        ("mov dword ptr [rdi + 0x10], 5", (0x3010, 0x3013)),
        ("mov word ptr [rip + 0x100], 5", (CODE + 0x109, CODE + 0x10A)),
        ("mov [ebx], ax", (0x2000, 0x2001)),
        ("rep movsb", (0x3000, 0x3000)),
        ("rep movsq", (0x3000, 0x3007)),
        ("stosq", (0x3000, 0x3007)),
        ("or qword ptr [rbx], 2", (0x2000, 0x2007)),
        ("push rax", (0x8FF8, 0x8FFF)),
        ("mov rax, [rbx]", None),
        ("nop", None),
    ],
)
def test_a_store_goes_where_the_instruction_says(source, expected):
    bare = Bare()
    cpu = bare.cpu
    cpu.load()
    for name, value in REGISTERS.items():
        cpu.set_general(GENERAL.index(name), value)
    cpu.rip = CODE
    code = assemble("store", source, bits=64, address=CODE, symbols={})
    assert expected == store_addresses(cpu_state(cpu), code + b"\x90" * 8)


def test_what_is_no_instruction_stores_nothing():
    bare = Bare()
    bare.cpu.load()
    assert None is store_addresses(cpu_state(bare.cpu), b"\x06")
    assert None is store_addresses(cpu_state(bare.cpu), b"")
