import pytest

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.protect.kernel.facts import GuestState, cpu_state, store_addresses
from crosswalk.guest.assembler import assemble
from tests.emu.cpu.machine import CODE, Bare
from tests.tables import context

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


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # The data segment begins at 0x100, the stack at 0x200, FS at 0x300.
        ("mov [ebx], eax", (0x2100, 0x2103)),
        ("mov [ebx + esi * 2 - 4], al", (0x100FC, 0x100FC)),
        ("mov dword ptr [ebp + 8], 5", (0x5208, 0x520B)),
        ("mov dword ptr fs:[0x10], 5", (0x310, 0x313)),
        ("mov word ptr [si], ax", (0x7100, 0x7101)),
        ("mov dword ptr [ebx - 0x3000], eax", (0xFFFF_F100, 0xFFFF_F103)),
        ("mov dword ptr [ebx - 0x2102], eax", (0xFFFF_FFFE, 1)),
        ("rep movsb", (0x3400, 0x3400)),
        ("push eax", (0x91FC, 0x91FF)),
        ("push ax", (0x91FE, 0x91FF)),
        ("pushal", (0x91E0, 0x91FF)),
        ("call 0x1000", (0x91FC, 0x91FF)),
        ("pushfd", (0x91FC, 0x91FF)),
        ("mov eax, [ebx]", None),
    ],
)
def test_a_store_of_32_bit_code_goes_through_its_segment(source, expected):
    bases = {"es": 0x400, "cs": 0, "ss": 0x200, "ds": 0x100, "fs": 0x300, "gs": 0}
    general = [0] * len(GENERAL)
    for name, value in {**REGISTERS, "rbp": 0x5000}.items():
        general[GENERAL.index(name)] = value
    code = assemble("store", source, bits=32, address=CODE, symbols={})
    state = GuestState(tuple(general), CODE, 0, 0, context("32-bit"), 32, bases)
    assert expected == store_addresses(state, code + b"\x90" * 8)


def test_code_lies_in_its_segment_and_wraps_around_the_last_address():
    bases = dict.fromkeys(("es", "ss", "ds", "fs", "gs"), 0) | {"cs": 0xC000_0000}
    state = GuestState((0,) * 16, 0x3FFF_FFFE, 0, 0, context("PAE"), 32, bases)
    assert [0xFFFF_FFFE, 0] == [state.code_address(0), state.code_address(2)]


def test_what_is_no_instruction_stores_nothing():
    bare = Bare()
    bare.cpu.load()
    assert None is store_addresses(cpu_state(bare.cpu), b"\x06")
    assert None is store_addresses(cpu_state(bare.cpu), b"")
